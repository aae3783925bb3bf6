// What a replica does that cannot go on by itself; acceptors, peers and worker are played by hand.
#include "consensus/state_receiver.h"

#include <gtest/gtest.h>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;
using Phase = StateExchange::Phase;

constexpr std::uint32_t kChunk = 1'000;
constexpr std::uint64_t kLog = 512 * 1'024;

class StateReceiverTest : public testing::Test {
 protected:
  void start(std::uint32_t learners = 2) {
    configuration_ = configuration(3, learners);
    learner_ = std::make_unique<Learner>(configuration_, 0, LearnerOptions{}, pool_);
    receiver_ = std::make_unique<StateReceiver>(
        configuration_, 0, StateReceiverOptions{kLog, kValueBytesMax}, *learner_, exchange_);
    route_ = Route(configuration_, 0);
  }
  /// Acceptors have decided up to `decided`, and hold nothing below `trimmed`.
  void fall_behind(std::uint64_t trimmed, std::uint64_t decided) {
    learner_->on_decision(frames_.decision({ballot(1), at(1), at(decided)}), now_);
    learner_->on_trimmed(Trimmed{trimmed});
    pass(10 * kMillisecond);
  }
  void pass(Nanos time) {
    for (const Nanos end = now_ + time; now_ < end; now_ += 100 * kMicrosecond) tick();
  }
  void tick() {
    receiver_->tick(now_, effects_, true);
    for (Outgoing* out : sent(effects_, MessageType::kStateAsk)) {
      frames_.carry(learner_id(0), *out);
      asks_.push_back({out->to, message_of<StateAsk>(*out).from});
    }
    for (Outgoing* out : sent(effects_, MessageType::kStatePull)) {
      frames_.carry(learner_id(0), *out);
      const auto& m = message_of<StatePull>(*out);
      EXPECT_EQ(out->to, endpoint_of(learner_id(peer_)));
      for (const u32le index : entries<u32le>(m, m.count)) pulled_.push_back(index);
    }
    effects_.clear();
    while (receiver_->room() && learner_->next(delivery_)) receiver_->keep(delivery_);
  }
  void offer(std::uint64_t instance, std::uint64_t bytes, std::uint64_t image = 5) {
    const StateManifest m{
        image, instance, bytes, 99ull, 3u, kChunk, static_cast<std::uint8_t>(StateOffer::kHere),
        {}};
    receiver_->on_manifest(frames_.frame(learner_id(peer_), MessageType::kStateManifest, m), now_);
  }
  void answer(StateOffer what, std::uint32_t who = 1) {
    StateManifest m{};
    m.offer = static_cast<std::uint8_t>(what);
    receiver_->on_manifest(frames_.frame(learner_id(who), MessageType::kStateManifest, m), now_);
  }
  void chunk(std::uint32_t index, std::uint32_t bytes = kChunk, std::uint64_t image = 5) {
    dataplane::Slice piece = chunks_.allocate();
    piece.truncate(bytes);
    std::memset(piece.mutable_data(), static_cast<int>(index + 1), bytes);
    receiver_->on_chunk(frames_.frame(learner_id(peer_), MessageType::kStateChunk,
                                      StateChunk{image, index, bytes}, piece),
                        now_);
  }
  void value(std::uint64_t instance, std::uint32_t bytes = 100) {
    const Content content = frames_.content(instance, bytes);
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
      learner_->on_phase2a(frames_.phase2a(at(instance), ballot(1), content, route_,
                                           {ballot(1), at(1), at(instance)}, i),
                           now_);
    }
  }
  void decide(std::uint64_t below) {
    learner_->on_decision(frames_.decision({ballot(1), at(1), at(below)}), now_);
  }
  /// What may be executed, by instance.
  std::vector<std::uint64_t> executed() {
    std::vector<std::uint64_t> all;
    while (receiver_->next(delivery_, pool_)) {
      EXPECT_EQ(dataplane::hash_bytes(delivery_.bytes.bytes()), delivery_.value.content_hash);
      all.push_back(raw(delivery_.instance));
    }
    return all;
  }
  void install(Phase how = Phase::kInstalled) {
    ASSERT_TRUE(receiver_->wants_install());
    receiver_->install_begun();
    ASSERT_EQ(exchange_.phase(), Phase::kInstalling);
    exchange_.pass(how);
    tick();
  }
  std::uint64_t count(StateReceiverCounter which) { return receiver_->counters()[which].get(); }

  struct Ask {
    Endpoint to;
    std::uint64_t from;
  };
  dataplane::BufferPool pool_{2'048, kValueBytesMax};
  dataplane::BufferPool chunks_{4, kChunk};
  StateExchange exchange_{1u << 20};
  Frames frames_;
  Configuration configuration_;
  std::unique_ptr<Learner> learner_;
  std::unique_ptr<StateReceiver> receiver_;
  Route route_;
  Effects effects_;
  Delivery delivery_;
  std::vector<Ask> asks_;
  std::vector<std::uint32_t> pulled_;
  std::uint32_t peer_ = 1;
  Nanos now_ = kSecond;
};

TEST_F(StateReceiverTest, AsksOnceTheAcceptorsHaveForgottenWhatComesNext) {
  start();
  pass(100 * kMillisecond);
  EXPECT_TRUE(asks_.empty());
  EXPECT_TRUE(receiver_->current());
  fall_behind(500, 1'000);
  EXPECT_FALSE(receiver_->current());
  EXPECT_TRUE(receiver_->lacks_state());
  ASSERT_FALSE(asks_.empty());
  EXPECT_EQ(asks_[0].to, endpoint_of(learner_id(1)));
}

TEST_F(StateReceiverTest, IsNotInAHurryWhenTheValueIsOnItsWay) {
  start();
  value(1);
  decide(2);
  learner_->on_trimmed(Trimmed{2ull});  // it is held here already
  pass(20 * kMillisecond);
  EXPECT_TRUE(asks_.empty());
}

TEST_F(StateReceiverTest, LearnsFromTheNewestDecidedInstanceOnAndAsksForTheStateBeforeIt) {
  start();
  fall_behind(500, 1'000);
  EXPECT_EQ(learner_->delivered_below(), at(1'000));
  EXPECT_EQ(asks_.at(0).from, 999u);
  value(1'000);
  value(1'001);
  decide(1'002);
  tick();
  EXPECT_EQ(learner_->delivered_below(), at(1'002));
  EXPECT_TRUE(executed().empty());  // not before the state is there
}

TEST_F(StateReceiverTest, WhatFollowsTheCopyIsExecutedFromTheLogOnceTheCopyIsInstalled) {
  start();
  fall_behind(500, 1'000);
  for (std::uint64_t i = 1'000; i < 1'010; ++i) value(i);
  decide(1'010);
  tick();
  offer(1'004, 2'500);
  tick();
  EXPECT_EQ(pulled_, (std::vector<std::uint32_t>{0, 1, 2}));
  chunk(2, 500);
  chunk(0);
  EXPECT_FALSE(receiver_->wants_install());
  EXPECT_TRUE(executed().empty());
  chunk(1);
  EXPECT_EQ(exchange_.memory().data()[1'000], std::byte{2});
  EXPECT_EQ(exchange_.memory().data()[2'499], std::byte{3});
  EXPECT_EQ(receiver_->image_instance(), at(1'004));
  install();
  EXPECT_FALSE(receiver_->lacks_state());
  EXPECT_FALSE(receiver_->current());
  EXPECT_EQ(executed(), (std::vector<std::uint64_t>{1'005, 1'006, 1'007, 1'008, 1'009}));
  EXPECT_TRUE(receiver_->current());
  tick();
  EXPECT_EQ(exchange_.phase(), Phase::kIdle);
  EXPECT_EQ(exchange_.memory().data()[0], std::byte{0});  // given back
}

TEST_F(StateReceiverTest, CopyThatIsAheadOfTheLogMovesTheLearner) {
  start();
  fall_behind(500, 1'000);
  value(1'000);
  offer(1'200, 900);
  EXPECT_EQ(learner_->delivered_below(), at(1'201));
  tick();
  chunk(0, 900);
  install();
  EXPECT_TRUE(executed().empty());
}

TEST_F(StateReceiverTest, OlderCopyIsTakenOnlyIfTheAcceptorsReachBackToIt) {
  start();
  fall_behind(500, 1'000);
  offer(498, 900);  // 499 is gone
  tick();
  EXPECT_TRUE(pulled_.empty());
  EXPECT_EQ(learner_->delivered_below(), at(1'000));
  offer(499, 900);
  tick();
  EXPECT_EQ(pulled_.size(), 1u);
  EXPECT_EQ(learner_->delivered_below(), at(500));
}

TEST_F(StateReceiverTest, FewPiecesAreOnTheirWayAtOnceAndLostOnesAreAskedForAgain) {
  start();
  fall_behind(500, 1'000);
  offer(1'000, 400'000);
  tick();
  EXPECT_EQ(pulled_.size(), kAskedMax);
  for (std::uint32_t i = 0; i < kAskedMax; ++i) {
    if (i != 7) chunk(i);
  }
  pulled_.clear();
  pass(60 * kMillisecond);
  ASSERT_FALSE(pulled_.empty());
  EXPECT_EQ(std::count(pulled_.begin(), pulled_.end(), 7u),
            static_cast<long>(count(StateReceiverCounter::kChunksPulledAgain)));
  chunk(7);
  tick();
  EXPECT_EQ(*std::max_element(pulled_.begin(), pulled_.end()), 2 * kAskedMax - 1);
  chunk(300);  // was not asked for
  chunk(8);    // is here
  EXPECT_EQ(count(StateReceiverCounter::kDropUnaskedChunk), 2u);
  chunk(200, 999);        // has another length
  chunk(201, kChunk, 6);  // is of another copy
  EXPECT_EQ(count(StateReceiverCounter::kDropBadChunk), 1u);
  EXPECT_EQ(count(StateReceiverCounter::kDropUnknownImage), 1u);
}

TEST_F(StateReceiverTest, SilentPeerIsLeftForAnotherAndItsCopyTakenUpAgainWhenItComesBack) {
  start(2);
  fall_behind(500, 1'000);
  offer(1'000, 5'000);
  tick();
  chunk(0);
  chunk(1);
  asks_.clear();
  pass(600 * kMillisecond);
  ASSERT_FALSE(asks_.empty());  // of the only peer there is
  pulled_.clear();
  offer(1'000, 5'000);
  pass(200 * kMillisecond);
  ASSERT_FALSE(pulled_.empty());
  EXPECT_EQ(*std::min_element(pulled_.begin(), pulled_.end()), 2u);

  start(3);
  fall_behind(500, 1'000);
  offer(1'000, 5'000, 6);
  tick();
  chunk(0, kChunk, 6);
  asks_.clear();
  pass(600 * kMillisecond);
  ASSERT_FALSE(asks_.empty());
  EXPECT_EQ(asks_[0].to, endpoint_of(learner_id(2)));
  EXPECT_EQ(count(StateReceiverCounter::kChangedMidway), 1u);
  peer_ = 2;
  pulled_.clear();
  offer(1'000, 5'000, 7);
  tick();
  EXPECT_EQ(pulled_.at(0), 0u);  // nothing of one copy is put into another
}

TEST_F(StateReceiverTest, PeerWithoutStateIsLeftAtOnce) {
  start(3);
  fall_behind(500, 1'000);
  asks_.clear();
  answer(StateOffer::kNone);
  tick();
  ASSERT_EQ(asks_.size(), 1u);
  EXPECT_EQ(asks_[0].to, endpoint_of(learner_id(2)));
}

TEST_F(StateReceiverTest, RefusedCopyLeavesItAskingAndKeepingTheLog) {
  start();
  fall_behind(500, 1'000);
  for (std::uint64_t i = 1'000; i < 1'005; ++i) value(i);
  decide(1'005);
  tick();
  offer(1'000, 900);
  tick();
  chunk(0, 900);
  install(Phase::kRefused);
  EXPECT_TRUE(receiver_->lacks_state());
  EXPECT_TRUE(executed().empty());
  EXPECT_EQ(exchange_.phase(), Phase::kIdle);
  asks_.clear();
  pass(30 * kMillisecond);
  ASSERT_FALSE(asks_.empty());
  EXPECT_EQ(asks_[0].from, 999u);
  offer(1'001, 900, 8);
  tick();
  chunk(0, 900, 8);
  install();
  EXPECT_EQ(executed(), (std::vector<std::uint64_t>{1'002, 1'003, 1'004}));
}

TEST_F(StateReceiverTest, CopyThatDoesNotFitIsRefused) {
  start();
  fall_behind(500, 1'000);
  offer(1'000, (1u << 20) + 1);
  tick();
  EXPECT_TRUE(pulled_.empty());
  EXPECT_EQ(count(StateReceiverCounter::kRefused), 1u);
}

TEST_F(StateReceiverTest, RoomForValuesIsHandedOutAsTheCopyComesIn) {
  start();
  fall_behind(500, 1'000);
  offer(1'000, 100'000);
  tick();
  std::uint64_t next = 1'001;
  const auto fill = [&] {
    const std::uint64_t before = raw(learner_->delivered_below());
    for (; next < raw(learner_->delivered_below()) + 64; ++next) value(next, 8'000);
    decide(next);
    tick();
    return raw(learner_->delivered_below()) - before;
  };
  while (fill() > 0) {
  }
  const std::uint64_t at_first = raw(learner_->delivered_below());
  for (std::uint32_t i = 0; i < 50; ++i) chunk(i);
  EXPECT_GT(fill(), 0u);  // it moves, so it is waited for
  while (fill() > 0) {
  }
  const std::uint64_t at_half = raw(learner_->delivered_below());
  for (std::uint32_t i = 50; i < 100; ++i) chunk(i);
  while (fill() > 0) {
  }
  const std::uint64_t at_end = raw(learner_->delivered_below());
  EXPECT_GT(at_half, at_first);
  EXPECT_GT(at_end, at_half);
  // Never all of it before the copy is there: half at first, the rest as it comes.
  EXPECT_LE((at_first - 1'001) * 8'000, kLog / 2);
  EXPECT_LE((at_half - 1'001) * 8'000, kLog * 3 / 4 + 8'000);
  install();
  EXPECT_EQ(executed().size(), at_end - 1'001);
}

class StateReplayTest : public StateReceiverTest,
                        public testing::WithParamInterface<std::uint32_t> {};

TEST_P(StateReplayTest, WhileTheLogIsExecutedItTakesInNineValuesForTen) {
  start();
  fall_behind(500, 1'000);
  offer(1'000, 2 * kChunk);
  tick();
  std::uint64_t next = 1'001;
  const auto fill = [&] {
    const std::uint64_t before = raw(learner_->delivered_below());
    for (; next < before + 64; ++next) value(next, GetParam());
    decide(next);
    tick();
    return raw(learner_->delivered_below()) - before;
  };
  chunk(0);
  chunk(1);
  while (fill() > 0) {
  }
  const std::uint64_t waited = raw(learner_->delivered_below()) - 1'001;
  install();
  std::uint64_t executed = 0;
  std::uint64_t taken_in = 0;
  std::uint64_t last_taken_in = 0;  // how much was executed then
  std::uint64_t longest = 0;        // executed with nothing taken in
  while (!receiver_->current() && executed < 100 * waited) {
    while (receiver_->next(delivery_, pool_) && ++executed % 10 != 0) {
    }
    if (receiver_->current()) break;
    const std::uint64_t got = fill();
    taken_in += got;
    if (got != 0) last_taken_in = executed;
    longest = std::max(longest, executed - last_taken_in);
    ASSERT_LE(taken_in, executed * 9 / 10 + 1);
  }
  EXPECT_TRUE(receiver_->current());
  EXPECT_GE(taken_in, executed * 17 / 20);
  EXPECT_EQ(executed, waited + taken_in);
  EXPECT_LE(longest, 10u) << "others are kept waiting meanwhile";
}

INSTANTIATE_TEST_SUITE_P(ValueBytes, StateReplayTest, testing::Values(100u, 8'000u));

TEST_F(StateReceiverTest, WithoutAPeerThatGivesNobodyIsMadeToWait) {
  start();
  fall_behind(500, 1'000);
  for (std::uint64_t next = 1'000; next < 1'500; ++next) {
    value(next, 8'000);
    decide(next + 1);
    pass(kMillisecond);
    ASSERT_EQ(learner_->delivered_below(), at(next + 1)) << "the learner stands still";
  }
  EXPECT_GT(count(StateReceiverCounter::kLogsDropped), 2u);
}

TEST_F(StateReceiverTest, PeerThatIsCopyingIsWaitedForButNotForLong) {
  start();
  fall_behind(500, 1'000);
  std::uint64_t next = 1'000;
  const auto load = [&](Nanos time, bool promised) {
    for (const Nanos end = now_ + time; now_ < end;) {
      for (; next < raw(learner_->delivered_below()) + 64; ++next) value(next, 8'000);
      decide(next);
      if (promised) answer(StateOffer::kWait);
      pass(kMillisecond);
    }
  };
  load(300 * kMillisecond, true);
  EXPECT_EQ(count(StateReceiverCounter::kLogsDropped), 0u);
  load(300 * kMillisecond, true);
  EXPECT_GT(count(StateReceiverCounter::kLogsDropped), 0u);
}

TEST_F(StateReceiverTest, AcceptorsThatForgetWhatTheLogLacksMakeItBeginAnew) {
  start();
  fall_behind(500, 1'000);
  offer(1'000, 5'000);
  tick();
  decide(9'000);
  learner_->on_trimmed(Trimmed{8'000ull});
  asks_.clear();
  pass(10 * kMillisecond);
  EXPECT_EQ(count(StateReceiverCounter::kOutrun), 1u);
  ASSERT_FALSE(asks_.empty());
  EXPECT_EQ(asks_[0].from, 8'999u);
}

TEST_F(StateReceiverTest, ReplicaThatIsAdmittedLaterIsAskedAndOneThatIsRemovedIsNot) {
  start(2);
  fall_behind(500, 1'000);
  configuration_.learners[1] = {learner_id(7), endpoint_of(learner_id(7)), kAllPartitions};
  ++configuration_.epoch;
  asks_.clear();
  pass(kSecond);
  ASSERT_FALSE(asks_.empty());
  for (const Ask& ask : asks_) EXPECT_EQ(ask.to, endpoint_of(learner_id(7)));
}

TEST_F(StateReceiverTest, OnlyReplicasOfTheSamePartitionsAreAsked) {
  configuration_ = configuration(3, 4);
  configuration_.learners[0].partitions = PartitionMask{1};
  configuration_.learners[1].partitions = PartitionMask{2};
  configuration_.learners[2].partitions = PartitionMask{3};
  configuration_.learners[3].partitions = PartitionMask{1};
  learner_ = std::make_unique<Learner>(configuration_, 0, LearnerOptions{}, pool_);
  receiver_ = std::make_unique<StateReceiver>(
      configuration_, 0, StateReceiverOptions{kLog, kValueBytesMax}, *learner_, exchange_);
  fall_behind(500, 1'000);
  pass(kSecond);
  for (const Ask& ask : asks_) EXPECT_EQ(ask.to, endpoint_of(learner_id(3)));
  EXPECT_GT(asks_.size(), 10u);
}

}  // namespace
}  // namespace annulus::consensus
