// One coordinator with the acceptor of its node; the test plays all other nodes.
#pragma once

#include <memory>

#include "consensus/coordinator.h"
#include "tests/support/frames.h"

namespace annulus::support {

class CoordinatorTest : public testing::Test {
 protected:
  void start(std::uint32_t acceptors, CoordinatorOptions options = {}) {
    configuration_ = configuration(acceptors);
    AcceptorOptions acceptor_options;
    acceptor_options.retain_bytes = retain_bytes_;
    acceptor_options.undecided_bytes = retain_bytes_ / 2;
    acceptor_options.fragment_bytes = options.fragment_bytes = Frames::kFragment;
    acceptor_ = std::make_unique<Acceptor>(configuration_, 0, acceptor_options, pool_);
    coordinator_ = std::make_unique<Coordinator>(configuration_, 0, options, *acceptor_, pool_);
  }
  /// Runs Phase 1 with acceptors that accepted nothing.
  void elect() {
    coordinator_->start(now_, effects_);
    const auto majority = static_cast<std::uint32_t>(configuration_.majority());
    for (std::uint32_t i = 1; i < majority; ++i) promise(i, {});
    ASSERT_TRUE(coordinator_->active());
    turn();
    effects_.clear();
  }
  void promise(std::uint32_t from, const std::vector<Phase1BEntry>& accepted,
               Instance chosen_below = kFirstInstance, std::uint16_t part = 0,
               std::uint16_t parts = 1, std::uint64_t answer = 1) {
    const Phase1B head{raw(coordinator_->ballot()),
                       answer,
                       raw(chosen_below),
                       raw(unknown_.from),
                       raw(unknown_.below),
                       to_wire(Decided{}),
                       part,
                       parts,
                       static_cast<std::uint16_t>(accepted.size())};
    coordinator_->on_phase1b(frames_.list(acceptor_id(from), MessageType::kPhase1B, head, accepted),
                             now_, effects_);
  }
  static Phase1BEntry accepted(Instance instance, Ballot of, const Value& value) {
    return {raw(instance), raw(of), to_wire(value)};
  }
  void value(std::uint32_t from, Instance instance, Ballot of, const Content& content) {
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
      coordinator_->on_value(frames_.value(acceptor_id(from), instance, of, content, false, {}, i),
                             now_, effects_);
    }
  }
  void submit(const Content& content) {
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
      coordinator_->on_submit(frames_.submit(content, 1, i), now_);
    }
  }
  /// Submits small values with the sequences first..last.
  void submit(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t s = first; s <= last; ++s) submit(frames_.content(s));
  }
  void vote(Instance instance, const Content& content, std::uint32_t votes, std::uint32_t sender) {
    vote(instance, content.value, votes, sender, coordinator_->ballot());
  }
  void vote(Instance instance, const Value& value, std::uint32_t votes, std::uint32_t sender,
            Ballot of) {
    coordinator_->on_phase2b(frames_.phase2b(acceptor_id(sender), of,
                                             {Frames::entry(instance, value, AcceptorSet{votes})}),
                             now_);
  }
  /// A vote of acceptor `sender` for whatever was proposed in [first, last].
  void vote_for(std::uint64_t first, std::uint64_t last, std::uint32_t sender = 1) {
    for (std::uint64_t i = first; i <= last; ++i) {
      const auto held = acceptor_->accepted(at(i));
      ASSERT_NE(held.value, nullptr) << i;
      vote(at(i), *held.value, 1u << sender, sender, coordinator_->ballot());
    }
  }
  void turn() {
    coordinator_->tick(now_, effects_);
    coordinator_->flush(now_, effects_);
  }
  /// By the learner itself.
  void report(std::uint32_t learner, Instance below, bool holds_state = true,
              std::uint64_t epoch = kLearnerEpoch) {
    coordinator_->on_learner_status(learner, epoch, below, holds_state, now_);
  }
  /// All learners have delivered everything, and say so.
  void learners_follow() {
    for (std::uint32_t i = 0; i < configuration_.learners.size(); ++i) {
      report(i, coordinator_->next_instance());
    }
  }
  /// Polls as a node does, whenever the coordinator wants to be, until `time` has passed.
  void pass(Nanos time) {
    const Nanos end = now_ + time;
    for (int polls = 0; now_ < end; ++polls) {
      ASSERT_LT(polls, 100'000) << "wants to be polled all the time";
      now_ = std::clamp(coordinator_->deadline(), now_ + kMicrosecond, end);
      turn();
      if (effects_.room() < 2 * Effects::kPerStepMax) keep();
    }
  }
  /// Makes room in the effects; proposals and decisions are remembered.
  void keep() {
    for (Outgoing* out : sent(effects_, MessageType::kPhase2A)) {
      proposals_.push_back(from_wire(message_of<Phase2A>(*out).value));
    }
    effects_.clear();
  }
  std::vector<std::uint64_t> proposed() {
    std::vector<std::uint64_t> instances;
    for (Outgoing* out : sent(effects_, MessageType::kPhase2A)) {
      instances.push_back(message_of<Phase2A>(*out).instance);
    }
    return instances;
  }
  const Phase2A& proposal(std::size_t index) {
    return message_of<Phase2A>(*sent(effects_, MessageType::kPhase2A).at(index));
  }
  std::uint64_t count(CoordinatorCounter which) { return coordinator_->counters()[which].get(); }

  std::uint64_t retain_bytes_ = 128u << 20;
  dataplane::BufferPool pool_{4'096, kValueBytesMax};
  Frames frames_;
  Configuration configuration_;
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<Coordinator> coordinator_;
  Effects effects_;
  std::vector<Value> proposals_;
  InstanceRange unknown_;  // of the promises to come
  Nanos now_ = kSecond;
};

}  // namespace annulus::support
