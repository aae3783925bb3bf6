#include "tests/sim/protocol_checker.h"

#include <algorithm>
#include <bit>

#include "dataplane/hash.h"
#include "tests/sim/protocol_text.h"

namespace annulus::sim {

using consensus::AcceptorSet;
using consensus::Ballot;
using consensus::Instance;
using consensus::MessageType;
using consensus::Value;
using consensus::ValueId;
using dataplane::FrameHeader;

ProtocolChecker::ProtocolChecker(const consensus::Configuration& configuration, bool durable,
                                 Failure& failure, Trace& trace)
    : configuration_(configuration),
      durable_(durable),
      failure_(failure),
      trace_(trace),
      absent_learner_(configuration.learners.size()),
      delivered_by_(configuration.learners.size()),
      last_delivered_(configuration.learners.size()) {
  for (std::uint32_t i = 0; i < configuration.acceptors.size(); ++i) {
    id_[i] = configuration.acceptors[i].id;
  }
  members_.emplace(configuration.epoch, configuration);
}

void ProtocolChecker::set_acceptor(std::uint32_t end, std::uint32_t acceptor) {
  if (acceptor_of_end_.size() <= end) acceptor_of_end_.resize(end + 1, -1);
  acceptor_of_end_[end] = static_cast<int>(acceptor);
}

void ProtocolChecker::set_restarted_learner(std::uint32_t learner) {
  absent_learner_[learner] = false;
  delivered_by_[learner].clear();
  last_delivered_[learner] = {};
}

void ProtocolChecker::raise_floor(std::uint32_t acceptor, Ballot ballot) {
  floor_[acceptor] = std::max(floor_[acceptor], ballot);
}

void ProtocolChecker::on_transmit(Nanos now, std::uint32_t sender, const Endpoint&,
                                  std::span<const std::byte> head,
                                  std::span<const std::byte> payload) {
  const auto& header = *reinterpret_cast<const FrameHeader*>(head.data());
  if (header.version != dataplane::kWireVersion) return;  // whoever acts on it will be found out
  const auto type = static_cast<MessageType>(header.type);
  if (type == MessageType::kSubmit) return on_submit(message<consensus::Submit>(head));
  if (sender >= acceptor_of_end_.size() || acceptor_of_end_[sender] < 0) return;
  const auto acceptor = static_cast<std::uint32_t>(acceptor_of_end_[sender]);
  if (!speaks_as_member(acceptor, header)) return;
  if (!silent_[acceptor].empty()) {
    return failure_.set("T5: acceptor " + std::to_string(acceptor) + ", " + silent_[acceptor] +
                        ", sends a message of type " + std::to_string(header.type));
  }
  switch (type) {
    case MessageType::kPhase1A:
      check_epoch(acceptor, header, Ballot{message<consensus::Phase1A>(head).ballot.get()});
      return on_phase1a(now, acceptor, message<consensus::Phase1A>(head));
    case MessageType::kPhase1B:
      check_epoch(acceptor, header, Ballot{message<consensus::Phase1B>(head).ballot.get()});
      return on_phase1b(acceptor, message<consensus::Phase1B>(head));
    case MessageType::kPhase2A:
      check_epoch(acceptor, header, Ballot{message<consensus::Phase2A>(head).ballot.get()});
      check_change(header.config_epoch, message<consensus::Phase2A>(head), payload);
      if (failure_.failed()) return;
      on_phase2a(now, acceptor, header, message<consensus::Phase2A>(head));
      return on_decided(message<consensus::Phase2A>(head).decided);
    case MessageType::kPhase2B:
      if (message<consensus::Phase2B>(head).count == 0) return;
      check_epoch(acceptor, header, Ballot{message<consensus::Phase2B>(head).ballot.get()});
      if (failure_.failed()) return;
      return on_phase2b(acceptor, header, message<consensus::Phase2B>(head));
    case MessageType::kConfiguration:
      return check_news(acceptor, head.subspan(sizeof(FrameHeader)));
    case MessageType::kDecision:
      return on_decided(message<consensus::Decision>(head).decided);
    default:
      return;
  }
}

/// Whether the frame is the acceptor's own, under the identity it has; finds out which that is.
bool ProtocolChecker::speaks_as_member(std::uint32_t acceptor, const FrameHeader& header) {
  const consensus::NodeId sender{header.sender.get()};
  if (sender == id_[acceptor] && sender != consensus::kNoNode) return true;
  // Passed on for another node: seen when that one sent it.
  const auto former = former_ids_.find(sender);
  const bool others = former != former_ids_.end() && former->second != acceptor;
  if ((header.flags & dataplane::kRelay) != 0 && (acceptor_of(sender) || others)) return false;
  const auto type = static_cast<MessageType>(header.type);
  const bool stranger = id_[acceptor] == consensus::kNoNode;
  if (stranger && sender == consensus::kNoNode) {
    if (type == MessageType::kJoin || type == MessageType::kPull ||
        type == MessageType::kConfiguration) {
      return false;
    }
    failure_.set("T5: acceptor " + std::to_string(acceptor) +
                 ", without an identity, sends a message of type " + std::to_string(header.type));
    return false;
  }
  if (former != former_ids_.end() || acceptor_of(sender) || !stranger) {
    failure_.set("T5: acceptor " + std::to_string(acceptor) +
                 ", started again without its memory, speaks as node " +
                 std::to_string(header.sender));
    return false;
  }
  id_[acceptor] = sender;
  ++admitted_;
  return true;
}

std::optional<std::uint32_t> ProtocolChecker::acceptor_of(consensus::NodeId id) const {
  for (std::uint32_t i = 0; i < id_.size() && id != consensus::kNoNode; ++i) {
    if (id_[i] == id) return i;
  }
  return std::nullopt;
}

void ProtocolChecker::on_deliver(Nanos, std::uint32_t receiver, std::span<const std::byte> head) {
  if (receiver >= acceptor_of_end_.size() || acceptor_of_end_[receiver] < 0) return;
  const auto& header = *reinterpret_cast<const FrameHeader*>(head.data());
  if (header.version != dataplane::kWireVersion) return;
  const consensus::WireValue* value = nullptr;
  const consensus::WireFragment* fragment = nullptr;
  switch (static_cast<MessageType>(header.type)) {
    case MessageType::kSubmit:
      value = &message<consensus::Submit>(head).value;
      fragment = &message<consensus::Submit>(head).fragment;
      break;
    case MessageType::kPhase2A:
      value = &message<consensus::Phase2A>(head).value;
      fragment = &message<consensus::Phase2A>(head).fragment;
      break;
    case MessageType::kValue:
      value = &message<consensus::ValueMessage>(head).value;
      fragment = &message<consensus::ValueMessage>(head).fragment;
      break;
    case MessageType::kPhase1B:
      return on_promise(static_cast<std::uint32_t>(acceptor_of_end_[receiver]), header,
                        message<consensus::Phase1B>(head));
    default:
      return;
  }
  Held& held = held_[consensus::from_wire(value->id)];
  held.all = fragment->count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << fragment->count) - 1;
  held.fragments[static_cast<std::uint32_t>(acceptor_of_end_[receiver])] |= std::uint64_t{1}
                                                                            << fragment->index;
}

void ProtocolChecker::on_submit(const consensus::Submit& submit) {
  const Value value = consensus::from_wire(submit.value);
  const auto [at, fresh] = submitted_.emplace(value.id, value);
  if (!fresh && at->second != value) {
    failure_.set("integrity: " + text(value.id) + " was submitted with two contents");
  }
}

ProtocolChecker::Proposal* ProtocolChecker::find(Instance instance, Ballot ballot) {
  if (raw(instance) >= proposals_.size()) return nullptr;
  for (Proposal& proposal : proposals_[raw(instance)]) {
    if (proposal.ballot == ballot) return &proposal;
  }
  return nullptr;
}

void ProtocolChecker::on_phase2a(Nanos now, std::uint32_t sender, const FrameHeader& header,
                                 const consensus::Phase2A& proposal) {
  const Instance instance{proposal.instance.get()};
  const Ballot ballot{proposal.ballot.get()};
  const Value value = consensus::from_wire(proposal.value);
  if (consensus::coordinator_of(ballot) != id_[sender]) {
    failure_.set("T2: acceptor " + std::to_string(sender) + " proposed at a ballot not its own, " +
                 text(ballot));
  }
  if (const Proposal* before = find(instance, ballot)) {
    if (before->value != value) {
      failure_.set("T2: two values proposed at " + text(instance) + ", " + text(ballot));
    }
    return;
  }
  if (value.membership()) submitted_.emplace(value.id, value);  // by whoever proposes it
  if (!value.noop()) {
    const auto submitted = submitted_.find(value.id);
    if (submitted == submitted_.end() || submitted->second != value) {
      failure_.set("integrity: " + text(instance) + " proposes " + text(value.id) +
                   ", which no client submitted");
    }
  }
  if (proposals_.size() <= raw(instance)) proposals_.resize(raw(instance) + 1);
  if (verified_below_.emplace(ballot, consensus::kFirstInstance).second) {
    ++ballots_;
    trace_.note(now, "acceptor " + std::to_string(sender) + " proposes, " + text(ballot) +
                         ", from " + text(instance));
  }
  if (ballot < promised_[sender]) {
    failure_.set("promise: acceptor " + std::to_string(sender) + " proposed " + text(instance) +
                 " at " + text(ballot) + ", after it promised " + text(promised_[sender]));
  }
  for (const Proposal& earlier : proposals_[raw(instance)]) {
    if (earlier.ballot < ballot && surely_decided(earlier) && earlier.value != value) {
      failure_.set("agreement: " + text(instance) + " was decided at " + text(earlier.ballot) +
                   " and another value is proposed at " + text(ballot));
    }
  }
  if (filled_with(instance, ballot, value)) {
    failure_.set("T7: a hole at " + text(instance) + ", " + text(ballot) + ", is filled with " +
                 text(value.id));
  }
  // Whoever proposes accepts by that; with a disk, once it counts its own vote.
  const AcceptorSet own = consensus::just(sender);
  proposals_[raw(instance)].push_back({.ballot = ballot,
                                       .value = value,
                                       .votes = own,
                                       .cast = durable_ ? AcceptorSet{} : own,
                                       .said = durable_ ? AcceptorSet{} : own,
                                       .majority = members_of(header.config_epoch)->majority()});
}

/// T7: a value that is new at an instance, though something above it was decided or is known to
/// have been accepted under an earlier ballot.
bool ProtocolChecker::filled_with(Instance hole, Ballot ballot, const Value& value) const {
  const auto promised = phase1_.find(ballot);
  const bool below_accepted = promised != phase1_.end() && hole < promised->second.accepted_below;
  const bool below_decided = hole < decided_top_ && ballot > decided_top_ballot_;
  const auto& earlier = proposals_[raw(hole)];
  return !value.noop() && (below_accepted || below_decided) &&
         std::none_of(earlier.begin(), earlier.end(),
                      [&](const Proposal& each) { return each.value == value; });
}

/// Votes name acceptors by their places among the members.
void ProtocolChecker::on_phase2b(std::uint32_t acceptor, const FrameHeader& header,
                                 const consensus::Phase2B& votes) {
  const consensus::Configuration& members = *members_of(header.config_epoch);
  const std::uint32_t place = *members.acceptor_index(id_[acceptor]);
  const Ballot ballot{votes.ballot.get()};
  for (const auto& entry : consensus::entries<consensus::Phase2BEntry>(votes, votes.count)) {
    if (entry.acceptors & raw(consensus::just(place))) on_vote(acceptor, ballot, entry);
    check_told_votes(acceptor, members, ballot, entry);
  }
}

/// Who passes on a vote does not invent it.
void ProtocolChecker::check_told_votes(std::uint32_t acceptor,
                                       const consensus::Configuration& members, Ballot ballot,
                                       const consensus::Phase2BEntry& entry) {
  const Proposal* proposal = find(Instance{entry.instance.get()}, ballot);
  if (proposal == nullptr) return;
  for (std::uint32_t place = 0; place < members.acceptors.size(); ++place) {
    if ((entry.acceptors & raw(consensus::just(place))) == 0) continue;
    const consensus::NodeId id = members.acceptors[place].id;
    const auto former = former_ids_.find(id);
    const auto now = acceptor_of(id);
    if (!now && former == former_ids_.end()) continue;  // admitted, and not heard of yet
    const std::uint32_t voter = now ? *now : former->second;
    if ((raw(proposal->votes) & raw(consensus::just(voter))) != 0) continue;
    return failure_.set("vote: acceptor " + std::to_string(acceptor) + " tells of a vote of " +
                        std::to_string(voter) + " at " + text(Instance{entry.instance.get()}) +
                        ", " + text(ballot) + ", which that did not cast");
  }
}

void ProtocolChecker::on_vote(std::uint32_t acceptor, Ballot ballot,
                              const consensus::Phase2BEntry& entry) {
  const Instance instance{entry.instance.get()};
  Proposal* proposal = find(instance, ballot);
  const std::string who =
      "acceptor " + std::to_string(acceptor) + " voted at " + text(instance) + ", " + text(ballot);
  if (proposal == nullptr) return failure_.set("vote: " + who + ", where nothing was proposed");
  if (proposal->value.id != consensus::from_wire(entry.value) ||
      proposal->value.content_hash != entry.content_hash) {
    return failure_.set("vote: " + who + ", for another value than was proposed");
  }
  if ((raw(proposal->said) & raw(consensus::just(acceptor))) != 0) return;
  if (ballot < restart_floor_[acceptor]) {
    return failure_.set("promise: " + who + ", which is new, though it had said " +
                        text(restart_floor_[acceptor]) + " before it started again");
  }
  // A vote that leaves after the promise is harmless if the promise told of it, or if it was not
  // asked because the new coordinator knows the decision.
  if (ballot < promised_[acceptor] && !told_in_promise(acceptor, instance, ballot)) {
    return failure_.set("promise: " + who + ", after it promised " + text(promised_[acceptor]));
  }
  const auto held = held_.find(proposal->value.id);
  if (!proposal->value.noop() &&
      (held == held_.end() || held->second.fragments[acceptor] != held->second.all)) {
    return failure_.set("vote: " + who + ", without holding " + text(proposal->value.id));
  }
  raise_floor(acceptor, ballot);
  proposal->votes = proposal->votes | consensus::just(acceptor);
  proposal->cast = proposal->cast | consensus::just(acceptor);
  proposal->said = proposal->said | consensus::just(acceptor);
  if (surely_decided(*proposal) && instance > decided_top_) {
    decided_top_ = instance;
    decided_top_ballot_ = ballot;
  }
}

bool ProtocolChecker::decided(const Proposal& proposal) const {
  return consensus::size(proposal.votes) >= proposal.majority;
}

bool ProtocolChecker::surely_decided(const Proposal& proposal) const {
  return proposal.told || consensus::size(proposal.said) >= proposal.majority;
}

void ProtocolChecker::on_decided(const consensus::WireDecided& wire) {
  const consensus::Decided told = consensus::from_wire(wire);
  const auto verified = verified_below_.find(told.ballot);
  if (verified == verified_below_.end()) {
    if (told.below > told.from) {
      failure_.set("decision: " + text(told.ballot) + " decides without having proposed");
    }
    return;
  }
  for (Instance i = std::max(told.from, verified->second); i < told.below; ++i) {
    Proposal* proposal = find(i, told.ballot);
    if (proposal == nullptr || !decided(*proposal)) {
      return failure_.set("decision: " + text(i) + " was told decided at " + text(told.ballot) +
                          " without a majority of votes");
    }
    proposal->told = true;
    // If it takes the coordinator's own vote, that has been said by this. (Votes count though
    // whoever cast them has lost them since.)
    if (consensus::size(proposal->cast) < proposal->majority)
      proposal->said = AcceptorSet{raw(proposal->votes) & ~raw(proposal->former)};
  }
  verified->second = std::max(verified->second, told.below);
}

void ProtocolChecker::check_proposed(const consensus::Delivery& delivery) {
  const std::string where = text(delivery.instance) + ", " + text(delivery.value.id);
  bool chosen = false;
  if (raw(delivery.instance) < proposals_.size()) {
    for (const Proposal& proposal : proposals_[raw(delivery.instance)]) {
      chosen |= proposal.value == delivery.value && decided(proposal);
    }
  }
  if (!chosen) failure_.set("agreement: delivered without a majority of votes: " + where);
  const auto submitted = submitted_.find(delivery.value.id);
  if (submitted == submitted_.end() || submitted->second != delivery.value) {
    failure_.set("integrity: delivered, but no client submitted it: " + where);
  }
  if (delivery.bytes.size() != delivery.value.bytes ||
      dataplane::hash_bytes(delivery.bytes.bytes()) != delivery.value.content_hash) {
    failure_.set("integrity: delivered bytes are not the value's: " + where);
  }
}

void ProtocolChecker::check_proposer_order() {
  for (std::uint64_t i = 0; i < order_.size(); ++i) {
    if (!order_[i].known) continue;
    const ValueId& id = order_[i].value.id;
    if (!places_.emplace(id, i).second) {
      ++repeated_;
      continue;
    }
    std::uint64_t& highest = highest_[{id.proposer, id.epoch}];
    if (id.sequence < highest) {
      ++reordered_;
    }
    highest = std::max(highest, id.sequence);
  }
}

void ProtocolChecker::on_state_installed(std::uint32_t learner, Instance instance) {
  if (instance <= last_delivered_[learner] || instance > decided_top_) {
    failure_.set("state: learner " + std::to_string(learner) + " installed one as of " +
                 text(instance) + "; it had delivered up to " +
                 std::to_string(raw(last_delivered_[learner])) + ", and " +
                 std::to_string(raw(decided_top_)) + " is the last decided");
  }
  std::vector<bool>& mine = delivered_by_[learner];
  mine.resize(std::max<std::size_t>(mine.size(), raw(instance) + 1));
  std::fill_n(mine.begin(), raw(instance) + 1, true);
  last_delivered_[learner] = instance;
}

void ProtocolChecker::on_delivery(Nanos now, std::uint32_t learner,
                                  const consensus::Delivery& delivery) {
  if (delivery.kind != consensus::DeliveryKind::kDecided) return;
  const consensus::Instance instance = delivery.instance;
  const std::uint64_t index = raw(instance);
  ++delivered_;
  if (instance <= last_delivered_[learner]) {
    failure_.set("order: learner " + std::to_string(learner) + " delivered " + text(instance) +
                 " after instance " + std::to_string(raw(last_delivered_[learner])));
  }
  last_delivered_[learner] = instance;
  if (!intersects(delivery.value.mask, configuration_.learners[learner].partitions)) {
    failure_.set("partition: learner " + std::to_string(learner) + " delivered " + text(instance) +
                 ", which does not concern it");
  }
  check_proposed(delivery);
  if (order_.size() <= index) order_.resize(index + 1);
  Chosen& chosen = order_[index];
  if (!chosen.known) {
    chosen = {
        true, delivery.value,
        std::string(reinterpret_cast<const char*>(delivery.bytes.data()), delivery.bytes.size()),
        now};
    if (delivery.value.mask != consensus::kAllPartitions) ++masked_;
  } else if (chosen.value != delivery.value) {
    failure_.set("agreement: learners delivered two values at " + text(instance) + ": " +
                 text(chosen.value.id) + " and " + text(delivery.value.id));
  }
  std::vector<bool>& mine = delivered_by_[learner];
  if (mine.size() <= index) mine.resize(index + 1);
  mine[index] = true;
}

void ProtocolChecker::check_complete() {
  check_proposer_order();
  for (std::uint32_t learner = 0; learner < delivered_by_.size(); ++learner) {
    if (absent_learner_[learner]) continue;
    delivered_by_[learner].resize(order_.size());
    for (std::uint64_t i = 0; i < order_.size(); ++i) {
      const bool wanted =
          order_[i].known &&
          intersects(order_[i].value.mask, configuration_.learners[learner].partitions);
      if (wanted && !delivered_by_[learner][i]) {
        failure_.set("order: learner " + std::to_string(learner) + " passed over instance " +
                     std::to_string(i) + ", " + text(order_[i].value.id));
      }
    }
  }
}

}  // namespace annulus::sim
