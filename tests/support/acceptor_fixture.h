// One acceptor and the messages that a test feeds it.
#pragma once

#include <memory>

#include "consensus/acceptor.h"
#include "consensus/membership.h"
#include "tests/support/frames.h"

namespace annulus::support {

/// One acceptor of a configuration; acceptor 0 coordinates unless a ballot says otherwise.
class AcceptorTest : public testing::Test {
 protected:
  void start(std::uint32_t acceptors, std::uint32_t self, std::uint32_t retain = 1'024) {
    configuration_ = configuration(acceptors);
    AcceptorOptions options;
    options.retain = retain;
    options.retain_bytes = retain_bytes_;
    options.undecided_bytes = retain_bytes_ / 2;
    options.fragment_bytes = Frames::kFragment;
    options.fingerprint = 5;
    acceptor_ = std::make_unique<Acceptor>(configuration_, self, options, pool_);
    route_ = Route(configuration_, 0);
  }

  void propose(Instance instance, const Content& content, Ballot of = ballot(1),
               const Decided& decided = {}) {
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i)
      fragment(instance, content, i, of, decided);
  }
  void fragment(Instance instance, const Content& content, std::uint32_t index,
                Ballot of = ballot(1), const Decided& decided = {}) {
    acceptor_->on_phase2a(frames_.phase2a(instance, of, content, route_, decided, index), now_,
                          effects_);
  }
  void vote(Instance instance, const Content& content, AcceptorSet votes, std::uint32_t sender,
            Ballot of = ballot(1)) {
    acceptor_->on_phase2b(
        frames_.phase2b(acceptor_id(sender), of, {Frames::entry(instance, content.value, votes)}),
        now_, effects_);
  }
  void phase1a(Ballot of, Instance from = kFirstInstance, std::uint64_t settings = 5) {
    const std::uint64_t print = fingerprint(configuration_, settings);
    acceptor_->on_phase1a(frames_.frame(coordinator_of(of), MessageType::kPhase1A,
                                        Phase1A{raw(of), raw(from), print}),
                          effects_);
  }
  /// What the burst sends: votes to `to` by instance.
  std::map<std::uint64_t, std::uint32_t> votes_sent(std::uint32_t to) {
    acceptor_->flush(effects_);
    return votes_to(effects_, acceptor_id(to));
  }
  std::vector<Phase1BEntry> reported() {
    std::vector<Phase1BEntry> all;
    for (Outgoing* out : sent(effects_, MessageType::kPhase1B)) {
      const auto& m = message_of<Phase1B>(*out);
      const auto list = entries<Phase1BEntry>(m, m.count);
      all.insert(all.end(), list.begin(), list.end());
    }
    return all;
  }
  void pass(Nanos time) {
    now_ += time;
    acceptor_->tick(now_, effects_);
  }
  std::uint64_t count(AcceptorCounter which) { return acceptor_->counters()[which].get(); }

  std::uint64_t retain_bytes_ = 128u << 20;
  dataplane::BufferPool pool_{2'048, kValueBytesMax};
  Frames frames_;
  Configuration configuration_;
  std::unique_ptr<Acceptor> acceptor_;
  Route route_;
  Effects effects_;
  Nanos now_ = kSecond;
};

}  // namespace annulus::support
