#include "consensus/node.h"

#include <algorithm>

#include "dataplane/defect.h"

namespace annulus::consensus {
namespace {

/// Longer values are assembled in a node's own buffers: one for each place that may hold one.
std::uint32_t acceptor_assemblies(const AcceptorNodeOptions& options) {
  return options.acceptor.retain                     // accepted and kept
         + 2 * kUndecidedMax                         // coming in, collected by Phase 1, mended
         + options.coordinator.submit.proposers_max  // submitted: next of each proposer
         + 4 * options.coordinator.submit.window;    // and further ones
}

std::uint32_t learner_assemblies(const LearnerNodeOptions& options) {
  return 2 * options.learner.window  // undelivered, and with the worker
         + 4 * options.submit.window + 16;
}

AcceptorOptions durable(AcceptorOptions options, bool durable) {
  options.durable = durable;
  return options;
}

std::string plan_line(const char* what, std::uint64_t count, std::uint64_t each) {
  return std::string("  ") + what + ": " + std::to_string(count) + " x " + std::to_string(each) +
         " B = " + std::to_string(count * each / 1024) + " KiB\n";
}

/// With a log, what that knows counts: the file may be older.
Configuration last_kept(const Configuration& configuration, const AcceptorLog* log) {
  if (log == nullptr || log->recovered().configuration.empty()) return configuration;
  return decode(log->recovered().configuration, configuration);
}

std::uint32_t learner_index(const Configuration& configuration, NodeId id) {
  const auto index = configuration.learner_index(id);
  CHECK(index.has_value());
  return *index;
}

}  // namespace

// --- AcceptorNode

AcceptorNode::AcceptorNode(const AcceptorNodeOptions& options, const Configuration& configuration,
                           dataplane::Transport& transport, AcceptorLog* log)
    : configuration_(last_kept(configuration, log)),
      options_(options),
      self_(kAcceptorsMax),
      pool_(acceptor_assemblies(options), options.value_bytes_max),
      port_(transport, options.identity, configuration_, options.value_bytes_max),
      acceptor_(configuration_, self_, durable(options.acceptor, log != nullptr), pool_),
      coordinator_(configuration_, self_, options.coordinator, acceptor_, pool_),
      election_(configuration_, self_, log != nullptr ? log->recovered().promised : kNoBallot),
      log_(log),
      start_election_(options.coordinate),
      standing_(Standing::kMember) {
  if (log_ != nullptr) acceptor_.restore(log_->recovered());
  take_place();
  board_.publish(configuration_);
}

/// Gives to the log what is to be kept, and sends the rest.
void AcceptorNode::drain(Nanos now) {
  if (log_ != nullptr) {
    log_->append(effects_.keeps());
    for (const LogRead& wanted : effects_.reads()) log_->read(wanted);
    if (effects_.size() == 0) effects_.clear();
  }
  port_.send(now, effects_);
}

/// Starts what is to be written; when the log wants to be polled again.
Nanos AcceptorNode::submit_log(Nanos now) {
  if (log_ == nullptr) return kNever;
  log_->submit(now);
  return progress_.busy || acceptor_.awaits_log() ? now : kNever;
}

/// False once the log has failed: no promise and no vote of this node is worth anything then.
bool AcceptorNode::poll_log(Nanos now) {
  if (failed()) return false;
  progress_ = log_->poll(now);
  if (progress_.failed) {
    failed_.store(true, std::memory_order_relaxed);
    effects_.clear();
    return false;
  }
  acceptor_.on_durable(progress_, now, effects_);
  if (effects_.room() < Effects::kPerStepMax) drain(now);
  coordinator_.on_durable(now, effects_);
  keep_adopted(now);
  LogValue value;
  while (true) {
    if (effects_.room() < Effects::kPerStepMax) drain(now);
    if (!log_->next_read(value)) break;
    acceptor_.on_read(value, effects_);
  }
  return true;
}

dataplane::PollResult AcceptorNode::poll(Nanos now, std::uint32_t budget) {
  std::uint32_t work = 0;
  if (log_ != nullptr && !poll_log(now)) {
    Port::release(port_.receive(now));
    return {0, kNever};
  }
  bool drained = false;
  while (work < budget && !drained) {
    const std::span<Received> burst = port_.receive(now);
    drained = burst.size() < Port::kBurst;  // that was all
    if (burst.empty()) break;
    work += static_cast<std::uint32_t>(burst.size());
    for (const Received& in : burst) {
      if (effects_.room() < Effects::kPerStepMax) drain(now);
      handle(in, now);
    }
    Port::release(burst);
    if (log_ != nullptr) {
      drain(now);
      log_->submit(now);  // at once, while the rest of the ring is still to hear of it
    }
  }
  if (member()) adopt_chosen(now);
  if (!member()) return {work, std::min(poll_stranger(now), submit_log(now))};
  forward_change(now);
  if (effects_.room() < 2 * Effects::kPerStepMax) drain(now);
  const bool heard = backlog_.heard(drained);
  keep_up(heard, now);
  coordinator_.flush(now, effects_);
  if (effects_.room() < 2) drain(now);
  if (acceptor_.settled() != settled()) {
    settled_.store(acceptor_.settled(), std::memory_order_relaxed);
  }
  acceptor_.flush(effects_);
  drain(now);
  const bool at_once = adopting_ ? !kept_ && acceptor_.marked_durable()
                                 : acceptor_.chosen_configuration() != nullptr;
  return {work, at_once ? now : std::min(deadline(), submit_log(now))};
}

void AcceptorNode::on_phase1a(const Received& in, Nanos now) {
  acceptor_.on_phase1a(in, effects_);
  coordinator_.observe(acceptor_.promised());  // not the message's: it may have been refused
  election_.on_promised(acceptor_.promised(), now);
}

void AcceptorNode::handle(const Received& in, Nanos now) {
  const Upkeep upkeep(is_upkeep(in), counters_);
  if (in.type == MessageType::kConfiguration) return on_configuration_news(in, now);
  // Who was taken out may be the only one yet who knows: he tells the others, but never again once
  // he has no name.
  const bool removed = standing() == Standing::kRemoved;
  if (!removed || named()) news_.on_frame(in, configuration_, true, now, effects_);
  if (removed && named() && in.type == MessageType::kPull) return on_pull(in, now);
  if (!member()) {
    counters_[NodeCounter::kDropNoMember].add();
    return;
  }
  if (!concerns_votes(in.type) || may_vote(in, now)) take(in, now);
}

void AcceptorNode::take(const Received& in, Nanos now) {
  const NodeId sender{in.frame.header->sender.get()};
  switch (in.type) {
    case MessageType::kSubmit:
      on_submit(in, now);
      break;
    case MessageType::kPhase1A:
      on_phase1a(in, now);
      break;
    case MessageType::kPhase1B:
      coordinator_.on_phase1b(in, now, effects_);
      break;
    case MessageType::kPhase2A: {
      const Ballot ballot{message<Phase2A>(in.frame).ballot.get()};
      coordinator_.observe(ballot);
      election_.on_coordinator(sender, ballot, kBusySilence, now);
      acceptor_.on_phase2a(in, now, effects_);
      break;
    }
    case MessageType::kPhase2B:
      if (coordinator_.active() &&
          Ballot{message<Phase2B>(in.frame).ballot.get()} == coordinator_.ballot()) {
        coordinator_.on_phase2b(in, now);
      } else {
        acceptor_.on_phase2b(in, now, effects_);
      }
      break;
    case MessageType::kDecision:
      on_decision(in, now);
      break;
    case MessageType::kReject:
      coordinator_.on_reject(in, now);
      break;
    case MessageType::kJoin:
      on_join(in, now);
      break;
    case MessageType::kChange:
      on_change(from_wire(message<ChangeRequest>(in.frame)), now);
      break;
    case MessageType::kPull:
      on_pull(in, now);
      break;
    case MessageType::kValue:
      coordinator_.on_value(in, now, effects_);
      acceptor_.on_value(in, now, effects_);
      coordinator_.observe(acceptor_.promised());  // it may have stood for a proposal that was lost
      break;
    case MessageType::kTrimmed:
      acceptor_.on_trimmed(message<Trimmed>(in.frame), now);
      break;
    case MessageType::kLearnerStatus:
      on_learner_status(in, now);
      break;
    case MessageType::kPreVote:
      election_.on_pre_vote(in, now, effects_);
      break;
    case MessageType::kPreVoteAnswer:
      election_.on_pre_vote_answer(in, now);
      break;
    default:
      counters_[NodeCounter::kDropNotForUs].add();
      break;
  }
}

void AcceptorNode::on_decision(const Received& in, Nanos now) {
  const auto& m = message<Decision>(in.frame);
  const Decided decided = from_wire(m.decided);
  coordinator_.observe(decided.ballot);
  election_.on_coordinator(NodeId{in.frame.header->sender.get()}, decided.ballot,
                           m.within_us * kMicrosecond, now);
  acceptor_.on_decided(decided, now);
}

void AcceptorNode::on_pull(const Received& in, Nanos now) {
  if (message<Pull>(in.frame).kind == static_cast<std::uint8_t>(PullKind::kConfiguration)) {
    ConfigurationNews::tell(in.from, configuration_, effects_);
    return;
  }
  drain(now);  // so that there is room for all that was asked for
  acceptor_.on_pull(in, effects_);
}

void AcceptorNode::on_submit(const Received& in, Nanos now) {
  if (!coordinator_.idle()) {
    coordinator_.on_submit(in, now);
    return;
  }
  const Ballot highest = std::max(acceptor_.promised(), coordinator_.highest_seen());
  // Whoever knows of no coordinator but itself, and is none, keeps silent: the client tries others.
  if (highest == kNoBallot || coordinator_of(highest) == port_.identity().node) {
    counters_[NodeCounter::kDropNoCoordinator].add();
    return;
  }
  counters_[NodeCounter::kRedirects].add();
  const auto& m = message<Submit>(in.frame);
  effects_.send_now(in.from, MessageType::kSubmitAck,
                    SubmitAck{m.value.id.epoch, 0ull, 0ull, raw(highest)});
}

void AcceptorNode::on_learner_status(const Received& in, Nanos now) {
  const auto learner = configuration_.learner_index(NodeId{in.frame.header->sender.get()});
  if (!learner) {
    counters_[NodeCounter::kDropUnknownPeer].add();
    return;
  }
  const auto& m = message<LearnerStatus>(in.frame);
  const Instance below{m.delivered_below.get()};
  const std::uint64_t epoch = in.frame.header->sender_epoch;
  acceptor_.on_learner_status(*learner, epoch, below, now);
  coordinator_.on_learner_status(*learner, epoch, below, m.lacks_state == 0, now);
}

void AcceptorNode::add_counters(dataplane::Registry& registry, const std::string& node) {
  registry.add(node, "stage.acceptor", stage_counters());
  registry.add(node, "acceptor", acceptor_.counters());
  registry.add(node, "coordinator", coordinator_.counters());
  registry.add(node, "election", election_.counters());
  registry.add(node, "submit", coordinator_.submit_counters());
  registry.add(node, "port", port_.counters());
  registry.add(node, "transport", port_.transport().counters());
  registry.add(node, "node", counters_);
  registry.add(node, "ordered_ns", coordinator_.ordered_ns());
  if (log_ != nullptr) log_->add_counters(registry, node);
}

std::string AcceptorNode::memory_plan(const AcceptorNodeOptions& options) {
  return plan_line("assembly buffers (retain + 2 x undecided + proposers + 4 x submit window)",
                   acceptor_assemblies(options), options.value_bytes_max) +
         plan_line("submit places (proposers x submit window)",
                   std::uint64_t{options.coordinator.submit.proposers_max} *
                       options.coordinator.submit.window,
                   sizeof(Assembly) + sizeof(Nanos)) +
         plan_line("effects", Effects::kCapacity, sizeof(Outgoing));
}

// --- LearnerNode

LearnerNode::LearnerNode(const LearnerNodeOptions& options, const Configuration& configuration,
                         dataplane::Transport& transport, const Rings& rings)
    : options_(options),
      configuration_(configuration),
      self_(learner_index(configuration_, options.identity.node)),
      pool_(learner_assemblies(options), options.value_bytes_max),
      port_(transport, options.identity, configuration_, options.value_bytes_max),
      learner_(configuration_, self_, options.learner, pool_),
      direct_(options.submit, pool_),
      rings_(rings),
      transfer_(make_transfer()) {}

dataplane::PollResult LearnerNode::poll(Nanos now, std::uint32_t budget) {
  if (removed()) return {poll_removed(now), kNever};
  std::uint32_t work = send_replies(now, budget);
  send_proposals(now);
  bool drained = false;
  while (work < budget && !drained) {
    const std::span<Received> burst = port_.receive(now);
    work += static_cast<std::uint32_t>(burst.size());
    for (const Received& in : burst) handle(in, now);
    Port::release(burst);
    drained = burst.size() < Port::kBurst;  // that was all
  }
  work += deliver(now);
  Nanos deadline = kNever;
  if (options_.client_server) {
    direct_.flush(make_ballot(0, options_.identity.node), now, effects_);
  } else {
    const Upkeep upkeep(now >= learner_.deadline(), counters_);
    const bool heard = backlog_.heard(drained);
    learner_.set_lacks_state(learner_.behind_log() ||
                             (transfer_ != nullptr && transfer_->receiver.lacks_state()));
    learner_.tick(now, effects_, heard);
    deadline = std::min(learner_.deadline(), tick_transfer(now, heard));
  }
  port_.send(now, effects_);
  return {work, deadline};
}

void LearnerNode::handle(const Received& in, Nanos now) {
  const Upkeep upkeep(in.type == MessageType::kValue || in.type == MessageType::kTrimmed,
                      counters_);
  if (options_.client_server) {
    if (in.type == MessageType::kSubmit) direct_.on_submit(in, now);
    if (in.type == MessageType::kQuery) on_query(in, now);
    return;
  }
  news_.on_frame(in, configuration_, false, now, effects_);
  switch (in.type) {
    case MessageType::kConfiguration:
      adopt(decode(in.frame.message, configuration_));
      break;
    case MessageType::kPhase2A:
      learner_.on_phase2a(in, now);
      break;
    case MessageType::kDecision:
      learner_.on_decision(in, now);
      break;
    case MessageType::kValue:
      learner_.on_value(in, now);
      break;
    case MessageType::kTrimmed:
      learner_.on_trimmed(message<Trimmed>(in.frame));
      break;
    case MessageType::kQuery:
      on_query(in, now);
      break;
    default:
      if (!on_state_message(in, now)) counters_[NodeCounter::kDropNotForUs].add();
  }
}

std::uint32_t LearnerNode::send_replies(Nanos now, std::uint32_t budget) {
  std::uint32_t sent = 0;
  for (; sent < budget; ++sent) {
    ReplyFrame* reply = rings_.replies.front();
    if (reply == nullptr) break;
    if (effects_.room() == 0) port_.send(now, effects_);
    Outgoing& out = effects_.send_now(reply->to, MessageType::kReply, reply->message);
    out.payload = std::move(reply->payload);
    rings_.replies.pop();
  }
  counters_[NodeCounter::kRepliesSent].add(sent);
  port_.send(now, effects_);
  return sent;
}

void LearnerNode::send_proposals(Nanos now) {
  Proposal* proposal = rings_.proposals.front();
  if (proposal == nullptr) return;
  if (options_.client_server) {
    if (rings_.deliveries.room() == 0) return;
    rings_.deliveries.push({DeliveryKind::kDirect, direct_next_, from_wire(proposal->message.value),
                            std::move(proposal->payload), now});
    ++direct_next_;
  } else if (const auto coordinator =
                 configuration_.acceptor_index(coordinator_of(learner_.ballot()))) {
    counters_[NodeCounter::kProposalsSent].add();
    Outgoing& out = effects_.send_now(configuration_.acceptors[*coordinator].endpoint,
                                      MessageType::kSubmit, proposal->message);
    out.payload = std::move(proposal->payload);
    out.payload_hash = proposal->message.value.content_hash;
  } else {
    counters_[NodeCounter::kDropProposal].add();
  }
  rings_.proposals.pop();
}

void LearnerNode::adopt(const Configuration& next) {
  if (next.epoch <= configuration_.epoch) return;
  counters_[NodeCounter::kConfigurations].add();
  configuration_ = next;
  const auto self = configuration_.learner_index(options_.identity.node);
  removed_.store(self != self_, std::memory_order_relaxed);
}

std::uint32_t LearnerNode::poll_removed(Nanos now) {
  const std::span<Received> burst = port_.receive(now);
  const auto work = static_cast<std::uint32_t>(burst.size());
  counters_[NodeCounter::kDropNotForUs].add(work);
  Port::release(burst);
  effects_.clear();
  return work;
}

void LearnerNode::on_query(const Received& in, Nanos now) {
  counters_[NodeCounter::kQueriesReceived].add();
  if (transfer_ != nullptr && transfer_->receiver.lacks_state()) {
    counters_[NodeCounter::kDropQueryWithoutState].add();
    return;
  }
  const auto& m = message<Query>(in.frame);
  const Value value = from_wire(m.value);
  PendingQuery* place = &queries_[0];
  for (PendingQuery& pending : queries_) {
    if (pending.assembly.started() && pending.assembly.value() == value) {
      place = &pending;
      break;
    }
    if (pending.used < place->used) place = &pending;
  }
  if (!place->assembly.started() || place->assembly.value() != value) place->assembly.start(value);
  place->used = ++query_turn_;
  const AssemblyOutcome outcome = place->assembly.add(
      value, from_wire(m.fragment), in.frame.payload, in.frame.header->payload_hash, pool_);
  if (outcome == AssemblyOutcome::kNoMemory) counters_[NodeCounter::kDropQueryNoMemory].add();
  if (outcome != AssemblyOutcome::kComplete) return;
  // A full ring drops the query: the client will ask again.
  rings_.deliveries.push({DeliveryKind::kQuery, Instance{}, value, place->assembly.bytes(), now});
  *place = PendingQuery{};
}

void LearnerNode::add_counters(dataplane::Registry& registry, const std::string& node) {
  registry.add(node, "stage.learner", stage_counters());
  if (options_.client_server) {
    registry.add(node, "submit", direct_.counters());
  } else {
    registry.add(node, "learner", learner_.counters());
  }
  add_transfer_counters(registry, node);
  registry.add(node, "port", port_.counters());
  registry.add(node, "transport", port_.transport().counters());
  registry.add(node, "node", counters_);
}

std::string LearnerNode::memory_plan(const LearnerNodeOptions& options) {
  return plan_line("assembly buffers (2 x window + 4 x submit window + 16 queries)",
                   learner_assemblies(options), options.value_bytes_max) +
         plan_line("effects", Effects::kCapacity, sizeof(Outgoing)) + transfer_memory_plan(options);
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::NodeCounter::kCount)>
    CounterNames<consensus::NodeCounter>::names = {
        "redirects",         "drop_no_coordinator",      "drop_not_for_us",
        "drop_unknown_peer", "drop_no_member",           "drop_other_epoch",
        "drop_unsettled",    "configurations",           "joins_asked",
        "joins_seen",        "changes_refused",          "replies_sent",
        "queries_received",  "drop_query_no_memory",     "proposals_sent",
        "drop_proposal",     "drop_query_without_state", "upkeep_cycles"};

}  // namespace annulus::dataplane
