#include "consensus/submit_streams.h"

#include <gtest/gtest.h>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

class SubmitStreamsTest : public testing::Test {
 protected:
  explicit SubmitStreamsTest(std::uint32_t buffers = 64) : pool_(buffers, kValueBytesMax) {
    options_.proposers_max = 4;
    options_.window = 16;
    streams_ = std::make_unique<SubmitStreams>(options_, pool_);
  }
  void submit(std::uint64_t sequence, std::uint64_t oldest = 1, std::uint32_t proposer = 0) {
    submit(frames_.content(sequence, 100, kAllPartitions, proposer), oldest);
  }
  void submit(const Content& content, std::uint64_t oldest) {
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
      streams_->on_submit(frames_.submit(content, oldest, i), now_);
    }
  }
  /// Everything that is ready, in the order it is given: (proposer, sequence).
  std::vector<std::pair<std::uint32_t, std::uint64_t>> ordered(std::size_t most = 1'000) {
    std::vector<std::pair<std::uint32_t, std::uint64_t>> all;
    while (all.size() < most) {
      const auto* ready = streams_->front();
      if (ready == nullptr) break;
      EXPECT_EQ(dataplane::hash_bytes(ready->bytes.bytes()), ready->value.content_hash);
      all.emplace_back(raw(ready->value.id.proposer) - 201, ready->value.id.sequence);
      streams_->pop();
    }
    return all;
  }
  std::vector<std::uint64_t> sequences() {
    std::vector<std::uint64_t> all;
    for (const auto& [proposer, sequence] : ordered()) all.push_back(sequence);
    return all;
  }
  /// The acknowledgements of this burst.
  std::vector<SubmitAck> acks() {
    streams_->flush(ballot(1), now_, effects_);
    std::vector<SubmitAck> all;
    for (Outgoing* out : sent(effects_, MessageType::kSubmitAck)) {
      frames_.carry(acceptor_id(0), *out);
      all.push_back(message_of<SubmitAck>(*out));
    }
    effects_.clear();
    return all;
  }
  std::uint64_t count(SubmitCounter which) { return streams_->counters()[which].get(); }

  using Sequences = std::vector<std::uint64_t>;

  dataplane::BufferPool pool_;
  Frames frames_;
  SubmitOptions options_;
  std::unique_ptr<SubmitStreams> streams_;
  Effects effects_;
  Nanos now_ = kSecond;
};

class SubmitMemoryTest : public SubmitStreamsTest {
 protected:
  SubmitMemoryTest() : SubmitStreamsTest(4) {}
};

TEST_F(SubmitStreamsTest, ValuesOfAProposerAreFifoWhateverOrderTheyArriveIn) {
  for (const std::uint64_t s : {3, 1, 5, 2}) submit(s);
  EXPECT_EQ(sequences(), (Sequences{1, 2, 3}));
  EXPECT_EQ(count(SubmitCounter::kGapsWaited), 3u);
  submit(4);
  EXPECT_EQ(sequences(), (Sequences{4, 5}));
}

TEST_F(SubmitStreamsTest, ProposersTakeTurns) {
  for (std::uint64_t s = 1; s <= 3; ++s) submit(s, 1, 0);
  for (std::uint64_t s = 1; s <= 3; ++s) submit(s, 1, 1);
  const auto all = ordered();
  ASSERT_EQ(all.size(), 6u);
  for (std::uint32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(all[i], (std::pair<std::uint32_t, std::uint64_t>{i % 2, i / 2 + 1}));
  }
}

TEST_F(SubmitStreamsTest, DuplicateIsOrderedOnceAndAcknowledged) {
  submit(1);
  submit(1);
  EXPECT_EQ(sequences(), (Sequences{1}));
  EXPECT_EQ(acks().size(), 1u);
  submit(1);  // after it was ordered
  EXPECT_TRUE(sequences().empty());
  EXPECT_EQ(count(SubmitCounter::kDuplicates), 2u);
  const auto told = acks();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].received_below, 2u);
  EXPECT_EQ(told[0].epoch, 9u);
  EXPECT_EQ(told[0].limit, 2u + options_.window);
  EXPECT_EQ(told[0].ballot, raw(ballot(1)));
}

TEST_F(SubmitStreamsTest, BeyondTheWindowIsDroppedAndTheProposerToldHowFarItMayGo) {
  submit(1);
  submit(1 + options_.window);
  EXPECT_EQ(count(SubmitCounter::kDropBeyondWindow), 1u);
  EXPECT_EQ(sequences(), (Sequences{1}));
  submit(1 + options_.window);
  submit(2);
  EXPECT_EQ(sequences(), (Sequences{2}));
  const auto told = acks();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].received_below, 3u);
}

TEST_F(SubmitStreamsTest, OldestSkipsWhatWillNeverBeSent) {
  submit(1);
  EXPECT_EQ(sequences(), (Sequences{1}));
  submit(3, 1);
  submit(6, 5);  // 2..4 were answered through another coordinator
  EXPECT_TRUE(sequences().empty());
  submit(5, 5);
  EXPECT_EQ(sequences(), (Sequences{5, 6}));
}

TEST_F(SubmitStreamsTest, OldestSkipsFarBeyondTheWindow) {
  submit(2);
  submit(1'000'000, 1'000'000);
  EXPECT_EQ(sequences(), (Sequences{1'000'000}));
  submit(2);
  EXPECT_TRUE(sequences().empty());
}

TEST_F(SubmitStreamsTest, OldestHeardWhileAValueWaitsTakesEffectWithoutAnotherSubmit) {
  submit(1);
  submit(4, 4);  // 1 is complete and waits for its turn; 2 and 3 will not come
  EXPECT_EQ(sequences(), (Sequences{1, 4}));
}

TEST_F(SubmitStreamsTest, StreamOpensAtTheOldestValueOutstanding) {
  submit(43, 42);  // after a coordinator change
  EXPECT_TRUE(sequences().empty());
  submit(42, 42);
  EXPECT_EQ(sequences(), (Sequences{42, 43}));
}

TEST_F(SubmitStreamsTest, FragmentsInAnyOrderWithDuplicates) {
  const Content content = frames_.content(1, 49'152);
  const std::uint32_t fragments = Frames::fragments(content);
  for (std::uint32_t i = fragments; i-- > 0;) {
    streams_->on_submit(frames_.submit(content, 1, i), now_);
    if (i % 2 == 0) streams_->on_submit(frames_.submit(content, 1, i), now_);
    EXPECT_EQ(streams_->front() != nullptr, i == 0);
  }
  EXPECT_EQ(sequences(), (Sequences{1}));
}

TEST_F(SubmitStreamsTest, ContentThatIsNotWhatItsHashSaysIsNeverOrdered) {
  Content lying = frames_.content(1, 5'000);
  lying.value.content_hash ^= 1;
  submit(lying, 1);
  EXPECT_TRUE(sequences().empty());
  EXPECT_EQ(count(SubmitCounter::kDropBadContent), 1u);
}

TEST_F(SubmitStreamsTest, TwoContentsOfOneIdAreNotMixed) {
  const Content one = frames_.content(1, 2'000);
  const Content two = frames_.content(1, 2'000, kAllPartitions, 0, 5);
  streams_->on_submit(frames_.submit(one, 1, 0), now_);
  streams_->on_submit(frames_.submit(two, 1, 1), now_);
  EXPECT_TRUE(sequences().empty());
  EXPECT_EQ(count(SubmitCounter::kDropMismatch), 1u);
}

TEST_F(SubmitStreamsTest, CreditIsGivenAQuarterWindowAhead) {
  for (std::uint64_t s = 1; s <= 3; ++s) submit(s);
  EXPECT_EQ(ordered().size(), 3u);
  EXPECT_TRUE(acks().empty());
  submit(4);
  EXPECT_EQ(ordered().size(), 1u);
  const auto told = acks();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].limit, 5 + options_.window);
}

TEST_F(SubmitStreamsTest, FullTableReclaimsTheLongestSilentProposer) {
  for (std::uint32_t p = 0; p < options_.proposers_max; ++p) {
    now_ += kMillisecond;
    submit(2, 1, p);  // each waits for its first value
  }
  now_ += kMillisecond;
  submit(2, 1, 0);
  submit(1, 1, 9);
  EXPECT_EQ(count(SubmitCounter::kProposersReclaimed), 1u);
  EXPECT_EQ(ordered().size(), 1u);
  submit(1, 1, 0);  // still known
  EXPECT_EQ(ordered(), (std::vector<std::pair<std::uint32_t, std::uint64_t>>{{0, 1}, {0, 2}}));
  submit(1, 1, 1);  // forgotten: its second value has to come again
  EXPECT_EQ(ordered(), (std::vector<std::pair<std::uint32_t, std::uint64_t>>{{1, 1}}));
}

TEST_F(SubmitStreamsTest, FullTableOfWaitingValuesRefusesAndLosesNone) {
  for (std::uint32_t p = 0; p < options_.proposers_max; ++p) submit(1, 1, p);
  submit(1, 1, 9);
  EXPECT_EQ(count(SubmitCounter::kDropTooManyProposers), 1u);
  EXPECT_EQ(ordered().size(), options_.proposers_max);
  submit(1, 1, 9);
  EXPECT_EQ(ordered().size(), 1u);
}

TEST_F(SubmitStreamsTest, ManyProposersComeAndGo) {
  for (std::uint32_t p = 0; p < 1'000; ++p) {
    now_ += kMillisecond;
    submit(1, 1, p);
    submit(2, 1, p);
    EXPECT_EQ(ordered().size(), 2u) << p;
    acks();
  }
  EXPECT_EQ(count(SubmitCounter::kProposersReclaimed), 996u);
}

TEST_F(SubmitStreamsTest, ClearForgetsEverythingAndStartsAnew) {
  submit(1);
  submit(3);
  EXPECT_NE(streams_->front(), nullptr);
  streams_->clear();
  EXPECT_EQ(streams_->front(), nullptr);
  EXPECT_TRUE(acks().empty());
  submit(1);
  EXPECT_EQ(sequences(), (Sequences{1}));
}

TEST_F(SubmitMemoryTest, ValuesThatWaitGiveWayToTheOneTheyWaitFor) {
  for (std::uint64_t s = 2; s <= 6; ++s) submit(frames_.content(s, 5'000), 1);
  EXPECT_EQ(count(SubmitCounter::kDropNoMemory), Frames::fragments(frames_.content(6, 5'000)));
  submit(frames_.content(1, 5'000), 1);
  EXPECT_EQ(count(SubmitCounter::kGivenUp), 1u);
  EXPECT_EQ(sequences(), (Sequences{1, 2, 3, 4}));
  submit(frames_.content(5, 5'000), 5);
  EXPECT_EQ(sequences(), (Sequences{5}));
}

TEST_F(SubmitMemoryTest, ValuesThatWaitGiveWayToAnotherProposer) {
  for (std::uint64_t s = 2; s <= 5; ++s) submit(frames_.content(s, 5'000), 1);
  submit(frames_.content(1, 5'000, kAllPartitions, 1), 1);
  EXPECT_EQ(ordered(), (std::vector<std::pair<std::uint32_t, std::uint64_t>>{{1, 1}}));
}

TEST_F(SubmitMemoryTest, AcknowledgedValuesAreNotGivenUp) {
  for (std::uint64_t s = 1; s <= 4; ++s) submit(frames_.content(s, 5'000), 1);
  submit(frames_.content(1, 5'000, kAllPartitions, 1), 1);
  EXPECT_EQ(count(SubmitCounter::kGivenUp), 0u);
  EXPECT_EQ(sequences(), (Sequences{1, 2, 3, 4}));
}

}  // namespace
}  // namespace annulus::consensus
