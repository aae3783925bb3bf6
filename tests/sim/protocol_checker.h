// Watches every frame sent and every value delivered, and knows from them alone what Ring Paxos
// forbids: two values at one instance, a decision without a majority, a vote for a value not held,
// a value nobody submitted, a delivery out of order, a promise that leaves out or contradicts what
// the same acceptor said before, in this incarnation or an earlier one.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "consensus/delivery.h"
#include "consensus/log.h"
#include "consensus/membership.h"
#include "consensus/messages.h"
#include "consensus/ring.h"
#include "tests/sim/network.h"

namespace annulus::sim {

/// The first rule seen broken; the run stops there.
class Failure {
 public:
  void set(const std::string& what) {
    if (what_.empty()) what_ = what;
  }
  bool failed() const { return !what_.empty(); }
  const std::string& what() const { return what_; }

 private:
  std::string what_;
};

class ProtocolChecker final : public NetworkObserver {
 public:
  /// A value of the decided order, with all its bytes.
  struct Chosen {
    bool known = false;
    consensus::Value value;
    std::string bytes;
    Nanos first_delivered = kNever;
  };

  /// `durable`: a proposal is accepted by its coordinator only once that says so.
  ProtocolChecker(const consensus::Configuration& configuration, bool durable, Failure& failure,
                  Trace& trace);

  /// Which network end is which node; others are clients.
  void set_acceptor(std::uint32_t end, std::uint32_t acceptor);
  /// It must not be heard of any more: its disk failed.
  void set_silent(std::uint32_t acceptor, const std::string& why) { silent_[acceptor] = why; }
  /// T5: it was started again without its memory. It must not be heard of under any identity it
  /// had, and without one only ask to be admitted.
  void set_stranger(std::uint32_t acceptor);
  /// Tells of an acceptor whether it holds all that was decided before its configuration governs.
  void set_settled(std::function<bool(std::uint32_t)> settled) { settled_ = std::move(settled); }
  /// It was started again with its disk, and is held to all that it said before.
  void set_restarted(std::uint32_t acceptor, const consensus::RecoveredAcceptor& recovered);
  /// Its disk was damaged: of a part of what it accepted it may say that it does not know.
  void set_damaged(std::uint32_t acceptor) { damaged_[acceptor] = true; }
  /// It crashed, or nobody can give it its state: that it delivered no more is no fault.
  void set_absent_learner(std::uint32_t learner) { absent_learner_[learner] = true; }
  /// It was started again with nothing, and has to deliver everything once more.
  void set_restarted_learner(std::uint32_t learner);

  void on_transmit(Nanos now, std::uint32_t sender, const Endpoint& to,
                   std::span<const std::byte> head, std::span<const std::byte> payload) override;
  void on_deliver(Nanos now, std::uint32_t receiver, std::span<const std::byte> head) override;

  /// A replica goes on from the state of another one, as of `instance`.
  void on_state_installed(std::uint32_t learner, consensus::Instance instance);
  /// A learner hands a value to execution.
  void on_delivery(Nanos now, std::uint32_t learner, const consensus::Delivery& delivery);

  /// At the end: every learner delivered every chosen value that concerns it, up to the last one
  /// that any learner delivered.
  void check_complete();

  /// Indexed by instance; those of no-ops, and of values that no learner wanted, are not known.
  const std::vector<Chosen>& order() const { return order_; }
  std::uint64_t restarts() const { return restarts_; }
  std::uint64_t admitted() const { return admitted_; }
  std::uint64_t delivered() const { return delivered_; }
  std::uint64_t ballots() const { return ballots_; }
  std::uint64_t masked_deliveries() const { return masked_; }
  std::uint64_t repeated_values() const { return repeated_; }
  std::uint64_t proposer_reorders() const { return reordered_; }

 private:
  struct Proposal {
    consensus::Ballot ballot{};
    consensus::Value value;
    consensus::AcceptorSet votes{};   // sent, or implied by proposing
    consensus::AcceptorSet cast{};    // of these, those that were told of; not the proposer's own
    consensus::AcceptorSet said{};    // of these, what nobody may take back
    consensus::AcceptorSet former{};  // of these, who has another identity since
    int majority = 0;                 // of the members that its ballot belongs to
    bool told = false;                // decided, to somebody
  };
  struct Held {
    std::array<std::uint64_t, consensus::kAcceptorsMax> fragments{};
    std::uint64_t all = 0;
  };

  /// What an acceptor's promises told of what it had accepted.
  struct Reported {
    consensus::Instance chosen_below{};
    std::map<consensus::Instance, consensus::Ballot> ballots;
  };

  /// At which ballot something was accepted.
  using Told = std::map<consensus::Instance, consensus::Ballot>;
  /// The parts seen of the promise that an acceptor is sending.
  struct Promise {
    consensus::Ballot ballot{};
    std::uint64_t answer = 0;
    std::uint64_t seen = 0;
    Told told;
  };
  struct Asked {
    consensus::Instance from{};       // first
    consensus::Instance from_last{};  // by the last that was sent
    std::uint32_t incarnation = 0;
  };

  /// The promises that reached a coordinator, as far as it counts them.
  struct Phase1 {
    struct Parts {
      std::uint64_t answer = 0;
      std::uint64_t seen = 0;
    };
    std::array<Parts, consensus::kAcceptorsMax> parts{};
    consensus::AcceptorSet promises{};
    consensus::Instance accepted_below{};  // what they told of
  };

  template <typename M>
  static const M& message(std::span<const std::byte> head) {
    return *reinterpret_cast<const M*>(head.data() + sizeof(dataplane::FrameHeader));
  }
  Proposal* find(consensus::Instance instance, consensus::Ballot ballot);
  void on_submit(const consensus::Submit& submit);
  void on_phase1a(Nanos now, std::uint32_t acceptor, const consensus::Phase1A& asked);
  void check_recovered(std::uint32_t acceptor, const consensus::RecoveredAcceptor& recovered);
  void check_promise(std::uint32_t acceptor, const consensus::Phase1B& promise);
  void check_votes_told(std::uint32_t acceptor, const std::string& who, consensus::Instance from,
                        const consensus::InstanceRange& unknown, const Told& told);
  bool decided_by(consensus::Instance instance, consensus::Ballot ballot) const;
  void raise_floor(std::uint32_t acceptor, consensus::Ballot ballot);
  void on_phase2a(Nanos now, std::uint32_t sender, const dataplane::FrameHeader& header,
                  const consensus::Phase2A& proposal);
  void on_phase1b(std::uint32_t acceptor, const consensus::Phase1B& promise);
  void on_promise(std::uint32_t coordinator, const dataplane::FrameHeader& header,
                  const consensus::Phase1B& promise);
  bool filled_with(consensus::Instance hole, consensus::Ballot ballot,
                   const consensus::Value& value) const;
  bool told_in_promise(std::uint32_t acceptor, consensus::Instance instance,
                       consensus::Ballot ballot) const;
  void on_phase2b(std::uint32_t acceptor, const dataplane::FrameHeader& header,
                  const consensus::Phase2B& votes);
  void check_told_votes(std::uint32_t acceptor, const consensus::Configuration& members,
                        consensus::Ballot ballot, const consensus::Phase2BEntry& entry);
  void on_vote(std::uint32_t acceptor, consensus::Ballot ballot,
               const consensus::Phase2BEntry& entry);
  void on_decided(const consensus::WireDecided& decided);
  /// Its votes may be a majority; nobody can unmake what they decided.
  bool decided(const Proposal& proposal) const;
  bool surely_decided(const Proposal& proposal) const;
  void check_proposed(const consensus::Delivery& delivery);
  void check_proposer_order();

  bool speaks_as_member(std::uint32_t acceptor, const dataplane::FrameHeader& header);
  void check_epoch(std::uint32_t acceptor, const dataplane::FrameHeader& header,
                   consensus::Ballot ballot);
  void check_change(std::uint32_t epoch, const consensus::Phase2A& proposal,
                    std::span<const std::byte> payload);
  void check_news(std::uint32_t acceptor, std::span<const std::byte> news);
  const consensus::Configuration* members_of(std::uint32_t epoch);
  std::optional<std::uint32_t> acceptor_of(consensus::NodeId id) const;

  const consensus::Configuration& configuration_;  // of the bootstrap
  std::function<bool(std::uint32_t)> settled_;
  const bool durable_;
  Failure& failure_;
  Trace& trace_;
  std::vector<int> acceptor_of_end_;
  std::array<consensus::NodeId, consensus::kAcceptorsMax> id_{};  // none: a stranger
  std::map<consensus::NodeId, std::uint32_t> former_ids_;         // whose they were
  std::map<consensus::Ballot, std::uint32_t> epoch_of_;           // under which it was first heard
  std::map<consensus::Ballot, consensus::Instance> change_at_;    // proposed at it
  std::map<std::uint32_t, consensus::Configuration> members_;     // by epoch, decided
  std::map<consensus::ValueId, consensus::Configuration> changes_;  // proposed
  std::array<std::string, consensus::kAcceptorsMax> silent_;        // why
  std::array<bool, consensus::kAcceptorsMax> damaged_{};
  std::array<std::uint32_t, consensus::kAcceptorsMax> incarnation_{};
  // The highest ballot of anything said, and what it was at the last start.
  std::array<consensus::Ballot, consensus::kAcceptorsMax> floor_{};
  std::array<consensus::Ballot, consensus::kAcceptorsMax> restart_floor_{};
  std::array<Promise, consensus::kAcceptorsMax> promising_;
  std::vector<bool> absent_learner_;
  std::map<consensus::ValueId, consensus::Value> submitted_;
  std::map<consensus::ValueId, Held> held_;
  std::vector<std::vector<Proposal>> proposals_;                     // by instance
  std::map<consensus::Ballot, consensus::Instance> verified_below_;  // decisions checked
  std::array<consensus::Ballot, consensus::kAcceptorsMax> promised_{};
  std::map<consensus::Ballot, Asked> phase1_asked_;
  std::map<consensus::Ballot, Phase1> phase1_;
  consensus::Instance decided_top_{};  // the highest decided, and at which ballot
  consensus::Ballot decided_top_ballot_{};
  std::array<Reported, consensus::kAcceptorsMax> reported_;
  std::vector<Chosen> order_;
  std::vector<std::vector<bool>> delivered_by_;      // by learner and instance
  std::vector<consensus::Instance> last_delivered_;  // by learner
  std::map<consensus::ValueId, std::uint64_t> places_;
  std::map<std::pair<consensus::NodeId, std::uint64_t>, std::uint64_t> highest_;
  std::uint64_t restarts_ = 0;
  std::uint64_t admitted_ = 0;
  std::uint64_t delivered_ = 0;
  std::uint64_t ballots_ = 0;
  std::uint64_t masked_ = 0;
  std::uint64_t repeated_ = 0;
  std::uint64_t reordered_ = 0;
};

}  // namespace annulus::sim
