// What an acceptor must tell when it promises, and know when it starts again.
#include <algorithm>
#include <bit>

#include "dataplane/hash.h"
#include "tests/sim/protocol_checker.h"
#include "tests/sim/protocol_text.h"

namespace annulus::sim {

using consensus::Ballot;
using consensus::Instance;
using consensus::Value;
using dataplane::FrameHeader;

/// It has said nothing yet. Its votes under an earlier identity still count where they were cast,
/// but it need not know of them.
void ProtocolChecker::set_stranger(std::uint32_t acceptor) {
  if (id_[acceptor] != consensus::kNoNode) former_ids_[id_[acceptor]] = acceptor;
  id_[acceptor] = consensus::kNoNode;
  silent_[acceptor].clear();
  ++incarnation_[acceptor];
  floor_[acceptor] = restart_floor_[acceptor] = promised_[acceptor] = {};
  promising_[acceptor] = {};
  reported_[acceptor] = {};
  for (std::vector<Proposal>& each : proposals_) {
    for (Proposal& proposal : each) {
      proposal.former = proposal.former | consensus::just(acceptor);
      proposal.said = consensus::AcceptorSet{raw(proposal.said) & ~raw(proposal.former)};
    }
  }
}

/// T5b: a ballot belongs to one configuration, and only who is settled takes part.
void ProtocolChecker::check_epoch(std::uint32_t acceptor, const FrameHeader& header,
                                  Ballot ballot) {
  const consensus::Configuration* members = members_of(header.config_epoch);
  const std::string who = "T5b: acceptor " + std::to_string(acceptor) + " takes part at " +
                          text(ballot) + " under configuration " +
                          std::to_string(header.config_epoch);
  if (members == nullptr) return failure_.set(who + ", which was not decided");
  if (!members->acceptor_index(id_[acceptor])) {
    return failure_.set(who + ", which it is no member of");
  }
  if (settled_ && !settled_(acceptor)) {
    failure_.set("T5b: acceptor " + std::to_string(acceptor) + " takes part at " + text(ballot) +
                 ", before it holds all that was decided under earlier members");
  }
  const auto [at, fresh] = epoch_of_.emplace(ballot, header.config_epoch);
  if (at->second == header.config_epoch) return;
  failure_.set("T5b: acceptor " + std::to_string(acceptor) + " says something at " + text(ballot) +
               ", of configuration " + std::to_string(at->second) + ", under configuration " +
               std::to_string(header.config_epoch));
}

/// T5b: nothing is proposed past a change of members that is not known decided. (One that another
/// has overtaken, decided before it, is none any more.)
void ProtocolChecker::check_change(std::uint32_t epoch, const consensus::Phase2A& proposal,
                                   std::span<const std::byte> payload) {
  const Ballot ballot{proposal.ballot.get()};
  const Instance instance{proposal.instance.get()};
  const auto change = change_at_.find(ballot);
  if (change != change_at_.end() && instance > change->second) {
    failure_.set("T5b: " + text(instance) + " is proposed at " + text(ballot) +
                 ", past a change of members at " + text(change->second));
  }
  const Value value = consensus::from_wire(proposal.value);
  if (!value.follows(epoch)) return;
  change_at_.emplace(ballot, instance);
  if (consensus::valid_configuration(payload)) {
    changes_.emplace(value.id, consensus::decode(payload, configuration_));
  }
}

/// T5b: whoever tells others of the members has counted the votes for them, or has been told. Only
/// the coordinator itself knows of its own vote before anything was told.
void ProtocolChecker::check_news(std::uint32_t acceptor, std::span<const std::byte> news) {
  const std::string who = "T5b: acceptor " + std::to_string(acceptor) + " tells of members ";
  if (!consensus::valid_configuration(news)) return failure_.set(who + "that are none");
  const consensus::Configuration told = consensus::decode(news, configuration_);
  for (const auto& [id, change] : changes_) {
    const std::uint64_t at = raw(change.from) - 1;
    if (change.epoch != told.epoch || at >= proposals_.size()) continue;
    for (Proposal& proposal : proposals_[at]) {
      const bool counted = consensus::coordinator_of(proposal.ballot) == id_[acceptor];
      const bool known = counted ? decided(proposal) : surely_decided(proposal);
      if (proposal.value.id != id || !known) continue;
      proposal.told |= consensus::fingerprint(change, 0) == consensus::fingerprint(told, 0);
    }
  }
  const consensus::Configuration* members = members_of(told.epoch);
  if (members == nullptr || fingerprint(*members, 0) != fingerprint(told, 0)) {
    failure_.set(who + "of configuration " + std::to_string(told.epoch) +
                 ", which were not decided");
  }
}

/// The members of a configuration that was decided; null if none was.
const consensus::Configuration* ProtocolChecker::members_of(std::uint32_t epoch) {
  const auto known = members_.find(epoch);
  if (known != members_.end()) return &known->second;
  const consensus::Configuration* first = nullptr;
  for (const auto& [id, change] : changes_) {
    const std::uint64_t at = raw(change.from) - 1;
    if (change.epoch != epoch || at >= proposals_.size()) continue;
    if (first != nullptr && first->from <= change.from) continue;
    for (const Proposal& proposal : proposals_[at]) {
      if (proposal.value.id == id && surely_decided(proposal)) first = &change;
    }
  }
  return first == nullptr ? nullptr : &members_.emplace(epoch, *first).first->second;
}

void ProtocolChecker::set_restarted(std::uint32_t acceptor,
                                    const consensus::RecoveredAcceptor& recovered) {
  check_recovered(acceptor, recovered);
  ++restarts_;
  silent_[acceptor].clear();
  ++incarnation_[acceptor];
  restart_floor_[acceptor] = floor_[acceptor];
  promising_[acceptor] = {};
}

/// What an acceptor starts again with: no promise and no vote is forgotten, nothing is invented.
void ProtocolChecker::check_recovered(std::uint32_t acceptor,
                                      const consensus::RecoveredAcceptor& recovered) {
  const std::string who = "recovery: acceptor " + std::to_string(acceptor) + " starts again";
  if (recovered.promised < floor_[acceptor]) {
    return failure_.set(who + " with promise " + text(recovered.promised) + ", after it had said " +
                        text(floor_[acceptor]));
  }
  Told told;
  for (const auto& accept : recovered.accepted) {
    told[accept.instance] = accept.ballot;
    const Proposal* proposal = find(accept.instance, accept.ballot);
    if (proposal == nullptr || proposal->value != accept.value ||
        (!accept.value.noop() &&
         dataplane::hash_bytes(accept.bytes) != accept.value.content_hash)) {
      return failure_.set(who + " with what was not proposed at " + text(accept.instance) + ", " +
                          text(accept.ballot));
    }
  }
  for (Instance i = consensus::kFirstInstance; i < recovered.chosen_below; ++i) {
    const bool known = raw(i) < proposals_.size();
    if (known && std::any_of(proposals_[raw(i)].begin(), proposals_[raw(i)].end(),
                             [&](const Proposal& each) { return decided(each); })) {
      continue;
    }
    return failure_.set(who + " and takes " + text(i) + " for decided");
  }
  check_votes_told(acceptor, who, recovered.chosen_below, recovered.unknown, told);
}

void ProtocolChecker::on_phase1a(Nanos now, std::uint32_t acceptor,
                                 const consensus::Phase1A& asked) {
  const Ballot ballot{asked.ballot.get()};
  const Instance from{asked.from.get()};
  const auto [at, fresh] = phase1_asked_.emplace(ballot, Asked{from, from, incarnation_[acceptor]});
  at->second.from_last = std::max(at->second.from_last, from);
  if (fresh) {
    trace_.note(now, "acceptor " + std::to_string(acceptor) + " asks for promises, " +
                         text(ballot) + ", from " + text(from));
  }
  if (!durable_) return;
  if (at->second.incarnation != incarnation_[acceptor]) {
    failure_.set("T2: acceptor " + std::to_string(acceptor) + " started again and made " +
                 text(ballot) + " once more");
  }
  if (ballot < floor_[acceptor]) {
    failure_.set("promise: acceptor " + std::to_string(acceptor) + " asks for promises, " +
                 text(ballot) + ", after " + text(floor_[acceptor]));
  }
  raise_floor(acceptor, ballot);
}

void ProtocolChecker::on_phase1b(std::uint32_t acceptor, const consensus::Phase1B& promise) {
  check_promise(acceptor, promise);
  promised_[acceptor] = std::max(promised_[acceptor], Ballot{promise.ballot.get()});
  Reported& reported = reported_[acceptor];
  reported.chosen_below = std::max(reported.chosen_below, Instance{promise.chosen_below.get()});
  for (const auto& entry : consensus::entries<consensus::Phase1BEntry>(promise, promise.count)) {
    Ballot& ballot = reported.ballots[Instance{entry.instance.get()}];
    ballot = std::max(ballot, Ballot{entry.ballot.get()});
  }
}

/// A promise tells of every vote that the acceptor cast, unless it need not; and is not below what
/// the acceptor said before.
void ProtocolChecker::check_promise(std::uint32_t acceptor, const consensus::Phase1B& promise) {
  const Ballot ballot{promise.ballot.get()};
  const std::string who =
      "promise: acceptor " + std::to_string(acceptor) + " promised " + text(ballot);
  if (ballot < floor_[acceptor]) {
    return failure_.set(who + ", after it had said " + text(floor_[acceptor]));
  }
  raise_floor(acceptor, ballot);
  Promise& sent = promising_[acceptor];
  if (sent.ballot != ballot || sent.answer != promise.answer) {
    sent = {.ballot = ballot, .answer = promise.answer};
  }
  for (const auto& entry : consensus::entries<consensus::Phase1BEntry>(promise, promise.count)) {
    sent.told[Instance{entry.instance.get()}] = Ballot{entry.ballot.get()};
  }
  sent.seen |= std::uint64_t{1} << promise.part;
  if (std::popcount(sent.seen) != promise.parts) return;
  const auto asked = phase1_asked_.find(ballot);
  const Instance from =
      std::max(asked == phase1_asked_.end() ? Instance{} : asked->second.from_last,
               Instance{promise.chosen_below.get()});
  const consensus::InstanceRange unknown{Instance{promise.unknown_from.get()},
                                         Instance{promise.unknown_below.get()}};
  check_votes_told(acceptor, who, from, unknown, sent.told);
}

/// Every vote that the acceptor cast from `from` on is among what it tells, or may have been lost.
void ProtocolChecker::check_votes_told(std::uint32_t acceptor, const std::string& who,
                                       Instance from, const consensus::InstanceRange& unknown,
                                       const Told& told) {
  if (!unknown.empty() && !damaged_[acceptor]) {
    return failure_.set(who + " and does not know what it accepted, though its disk is undamaged");
  }
  for (Instance i = from; raw(i) < proposals_.size(); ++i) {
    if (unknown.contains(i)) continue;
    const auto entry = told.find(i);
    for (const Proposal& voted : proposals_[raw(i)]) {
      if ((raw(voted.said) & raw(consensus::just(acceptor))) == 0) continue;
      if (entry != told.end() && entry->second >= voted.ballot) continue;
      if (entry != told.end() && damaged_[acceptor] && decided_by(i, entry->second)) continue;
      return failure_.set(who + " without its vote at " + text(i) + ", " + text(voted.ballot));
    }
  }
}

/// Whether every value from `ballot` on is the decided one: of these an acceptor with a damaged
/// disk may tell an earlier accept than the last.
bool ProtocolChecker::decided_by(Instance instance, Ballot ballot) const {
  const std::vector<Proposal>& all = proposals_[raw(instance)];
  return std::any_of(all.begin(), all.end(), [&](const Proposal& proposal) {
    return proposal.ballot <= ballot && surely_decided(proposal);
  });
}

/// Counts promises as their coordinator does: those after a majority change nothing any more.
void ProtocolChecker::on_promise(std::uint32_t coordinator, const FrameHeader& header,
                                 const consensus::Phase1B& promise) {
  const Ballot ballot{promise.ballot.get()};
  const auto acceptor = acceptor_of(consensus::NodeId{header.sender.get()});
  if (consensus::coordinator_of(ballot) != id_[coordinator] || !acceptor) return;
  Phase1& phase1 = phase1_[ballot];
  phase1.promises = phase1.promises | consensus::just(coordinator);
  const consensus::Configuration* members = members_of(header.config_epoch);
  if (members == nullptr || consensus::size(phase1.promises) >= members->majority()) return;
  for (const auto& entry : consensus::entries<consensus::Phase1BEntry>(promise, promise.count)) {
    const Instance instance{entry.instance.get()};
    phase1.accepted_below = std::max(phase1.accepted_below, instance + 1);
  }
  Phase1::Parts& parts = phase1.parts[*acceptor];
  if (parts.answer != promise.answer) parts = {promise.answer, 0};
  parts.seen |= std::uint64_t{1} << promise.part;
  if (std::popcount(parts.seen) == promise.parts) {
    phase1.promises = phase1.promises | consensus::just(*acceptor);
  }
}

bool ProtocolChecker::told_in_promise(std::uint32_t acceptor, Instance instance,
                                      Ballot ballot) const {
  const Reported& reported = reported_[acceptor];
  const auto asked = phase1_asked_.find(promised_[acceptor]);
  const bool not_asked = asked != phase1_asked_.end() && instance < asked->second.from;
  if (not_asked || instance < reported.chosen_below) return true;
  const auto entry = reported.ballots.find(instance);
  return entry != reported.ballots.end() && entry->second == ballot;
}

}  // namespace annulus::sim
