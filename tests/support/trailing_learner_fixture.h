// One learner stands still while another one follows: what the coordinator does about it.
#pragma once

#include "tests/support/coordinator_fixture.h"

namespace annulus::support {

// The learner that stopped lost its place in the set; what it lacks must not be lost to it as well.
class TrailingLearnerTest : public CoordinatorTest {
 protected:
  // Of what the acceptors keep, what commands use.
  static constexpr std::uint64_t kRetain = 1'024 - Acceptor::kChangesKept;
  // Of acceptors, while it is waited for.
  static constexpr std::uint64_t kReplacements = Acceptor::kChangesKept - kLearnersMax;
  static constexpr std::uint64_t kFirst = 9;  // what the learner has delivered up to

  void begin() {
    CoordinatorOptions options;
    options.learner_window = 16;
    start(3, options);
    elect();
    report(0, at(1));
    report(1, at(kFirst));
  }
  /// One learner stands still, the other follows, until nothing is proposed any more.
  void fall_behind() {
    begin();
    for (int i = 0; i < 3'000 && next() < kFirst + kRetain; ++i) {
      const std::uint64_t before = next();
      feed(1);
      if (next() != before) continue;
      alive();
      pass(25 * kMillisecond);  // as long as it takes to leave the set
      alive();
      ASSERT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
    }
    feed(5);
    EXPECT_EQ(next(), kFirst + kRetain);
  }
  std::uint64_t next() const { return raw(coordinator_->next_instance()); }
  /// Values come, are decided, and delivered by the other learner.
  void feed(int values) {
    for (int i = 0; i < values; ++i) {
      submit(frames_.content(++sequence_));
      turn();
      const std::uint64_t undecided = raw(coordinator_->decided_below());
      if (next() > undecided) vote_for(undecided, next() - 1);
      if (others_report_) report(0, at(next()), others_hold_);
      effects_.clear();
    }
  }
  Change removal(std::uint32_t learner) const {
    return {.operation = 7,
            .verb = ChangeVerb::kRemove,
            .kind = JoinKind::kReplica,
            .member = configuration_.learners[learner].id,
            .comes = {}};
  }
  void alive() { report(1, at(kFirst)); }
  /// Both learners follow, and report in every 2 ms, until nothing else is remembered of them.
  void be_usual() {
    CoordinatorOptions options;
    options.learner_window = 16;
    start(3, options);
    elect();
    for (int i = 0; i < 5'000; ++i) {
      feed(1);
      report(1, at(next()));
      pass(2 * kMillisecond);
    }
  }
  /// One learner falls silent, until nothing is proposed any more.
  void exhaust_log() {
    const std::uint64_t below = next() + kRetain;
    for (int i = 0; i < 5'000 && next() < below; ++i) {
      const std::uint64_t before = next();
      feed(1);
      if (next() == before) pass(100 * kMicrosecond);
    }
    feed(5);
    EXPECT_EQ(next(), below);
  }

  /// The other one lives, and has its state.
  void other_reports() {
    report(0, at(next()));
    pass(kMillisecond);
  }
  /// Tens of milliseconds in which the other learner reports.
  void pass_with_the_other(int tens) {
    for (int i = 0; i < tens; ++i) {
      report(0, at(next()));
      pass(10 * kMillisecond);
    }
  }

  /// The acceptor is given values of 100 bytes as decided; what another one would tell of them.
  std::vector<Phase1BEntry> give_decided(std::uint64_t below) {
    std::vector<Phase1BEntry> told;
    for (std::uint64_t i = 1; i < below; ++i) {
      const Content content = frames_.content(i, 100, kAllPartitions, 1);
      told.push_back(accepted(at(i), ballot(0), content.value));
      acceptor_->on_value(frames_.value(acceptor_id(1), at(i), ballot(0), content, true), now_,
                          effects_);
      effects_.clear();
    }
    return told;
  }
  /// Of an acceptor that died, by another one in its place.
  Change replacement() {
    const Member& dead = configuration_.acceptors[2];
    return {.operation = ++operation_,
            .verb = ChangeVerb::kReplace,
            .kind = JoinKind::kAcceptor,
            .member = dead.id,
            .comes = {kNoNode, dead.endpoint, operation_}};
  }
  /// Makes it, if that may be proposed; false otherwise.
  bool replace_acceptor() {
    EXPECT_EQ(coordinator_->change(replacement(), now_), ChangeVerdict::kAllowed);
    const Instance instance = coordinator_->next_instance();
    turn();
    effects_.clear();
    if (coordinator_->next_instance() == instance) return false;
    vote_for(raw(instance), raw(instance));
    const Configuration before = configuration_;
    configuration_ = decode(acceptor_->chosen_configuration()->bytes(), before);
    acceptor_->on_configuration(before, 0, now_);
    coordinator_->on_configuration(before, 0, now_, effects_);
    promise(1, {});
    EXPECT_TRUE(coordinator_->active());
    effects_.clear();
    return true;
  }

  std::uint64_t sequence_ = 0;
  std::uint64_t operation_ = 100;
  bool others_report_ = true;
  bool others_hold_ = true;
};

}  // namespace annulus::support
