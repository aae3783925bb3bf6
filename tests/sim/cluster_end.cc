// What is asked of a cluster at the end of a run: is it done, did all agree, is nothing held.
#include <algorithm>
#include <cstring>

#include "tests/sim/cluster.h"
#include "tests/sim/replay.h"

namespace annulus::sim {

using consensus::PartitionMask;

namespace {

constexpr std::uint16_t kAbsentReplica = 0x7fff;  // replies to nobody

}  // namespace

bool Cluster::clients_done() const {
  const auto done = [](const auto& machine) { return machine.crashed || machine.client->done(); };
  return std::all_of(clients_.begin(), clients_.end(), done) &&
         std::all_of(raw_clients_.begin(), raw_clients_.end(), done);
}

bool Cluster::caught_up() const {
  // What one that crashed had delivered the others must deliver too, and it again.
  consensus::Instance top{checker_.order().size()};
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    const LearnerMachine& machine = learners_[i];
    top = std::max(top, machine.node->learner().delivered_below());
    top = std::max(top, machine.node->learner().decided_below());
    if (machine.crashed || left_behind(i)) continue;
    if (machine.deliveries->size() != 0 || machine.tapped->size() != 0) return false;
    if (!machine.node->current()) return false;
  }
  // Whoever lost its memory is a member again, and holds what the others hold; who was taken out
  // or waits to be taken in is none. A log that is full cannot take what its acceptor lacks.
  if (changing_) return false;
  const consensus::Configuration& newest = members();
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    const AcceptorMachine& machine = acceptors_[i];
    if (machine.crashed || machine.node->failed() || !member_of(newest, i)) continue;
    if (!whole(machine) && !machine.node->log_full()) return false;
  }
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    const LearnerMachine& machine = learners_[i];
    const bool there = machine.node->learner().delivered_below() == top;
    if (!machine.crashed && !there && !left_behind(i)) return false;
  }
  return true;
}

/// One that was given up, for others execute its partitions, and that nobody can give its state:
/// those execute others as well.
bool Cluster::left_behind(std::uint32_t learner) const {
  if (!learners_[learner].node->learner().behind_log()) return false;
  const PartitionMask partitions = plan_.learners[learner];
  std::uint64_t left = raw(partitions);
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    if (i == learner || learners_[i].crashed) continue;
    if (plan_.learners[i] == partitions) return false;
    const consensus::LearnerNode& node = *learners_[i].node;
    if (node.current() && !node.learner().behind_log()) left &= ~raw(plan_.learners[i]);
  }
  return left == 0;
}

bool Cluster::whole(const AcceptorMachine& machine) const {
  return !machine.crashed && !machine.node->failed() &&
         machine.node->standing() != consensus::Standing::kJoining &&
         machine.node->acceptor().settled();
}

void Cluster::check_end() {
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    if (left_behind(i)) checker_.set_absent_learner(i);
    if (!learners_[i].crashed) learners_[i].tap->note_installed();
  }
  checker_.check_complete();
  if (!world_.failure().failed()) check_linearizable();
  if (!world_.failure().failed()) check_states();
  if (!world_.failure().failed()) check_memory();
}

void Cluster::check_linearizable() {
  Replay replay(history_, client_of_epoch_, world_.failure());
  replay.run(checker_.order());
  counted_["history.duplicates_ordered"] = replay.duplicates();
  counted_["history.repeated_reads"] = replay.repeated_reads();
  counted_["history.stale_ordered"] = replay.stale();
  counted_["history.after_close"] = replay.after_close();
  counted_["history.unjudged"] = replay.unjudged();
  if (world_.failure().failed()) return;
  const std::string wrong = check_witness(replay.operations(), replay.placed(), kReplyBytesMax);
  if (!wrong.empty()) return world_.failure().set("linearizability: " + wrong);
  // A second opinion, which knows nothing of the order, on the parts short enough for it.
  for (const auto& part : independent_parts(replay.operations())) {
    if (part.size() > 40) continue;
    const Verdict verdict = search_order(part, 20'000, kReplyBytesMax);
    ++counted_[verdict == Verdict::kGaveUp ? "history.searches_given_up" : "history.searches"];
    if (verdict == Verdict::kNotLinearizable) {
      world_.failure().set("linearizability: no order explains the history of " +
                           describe(part.front()));
    }
  }
}

/// What a replica of these partitions holds that is fed the decided order without a cluster.
statemachine::StateHashes Cluster::reference_hashes(PartitionMask partitions) {
  DeliveryTap::Ring deliveries(2);
  dataplane::SpscRing<consensus::ReplyFrame> replies(2);
  dataplane::SpscRing<consensus::Proposal> proposals(1);
  statemachine::WorkerOptions options = worker_options(0, 1);
  options.replies.replica = kAbsentReplica;
  options.session_idle = kSecond * 1'000'000;
  Replica replica(options, {deliveries, replies, proposals});
  dataplane::BufferPool pool(4, plan_.value_bytes_max);
  const auto& order = checker_.order();
  for (std::uint64_t i = 0; i < order.size(); ++i) {
    if (!order[i].known || !intersects(order[i].value.mask, partitions)) continue;
    dataplane::Slice bytes = pool.allocate();
    std::memcpy(bytes.mutable_data(), order[i].bytes.data(), order[i].bytes.size());
    bytes.truncate(static_cast<std::uint32_t>(order[i].bytes.size()));
    CHECK(deliveries.push({consensus::DeliveryKind::kDecided, consensus::Instance{i},
                           order[i].value, std::move(bytes), 0}));
    replica.worker.poll(0, 1);
  }
  statemachine::StateHashes hashes;
  const std::uint64_t ticket = replica.worker.ask_state_hashes();
  replica.worker.poll(0, 1);
  CHECK(replica.worker.state_hashes(ticket, hashes));
  return hashes;
}

void Cluster::check_states() {
  std::map<PartitionMask, std::uint64_t> expected;
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    if (learners_[i].crashed || left_behind(i)) continue;
    const PartitionMask partitions = plan_.learners[i];
    if (!expected.contains(partitions)) {
      expected[partitions] = reference_hashes(partitions).recomputed;
    }
    statemachine::Worker& worker = learners_[i].replica->worker;
    statemachine::StateHashes hashes;
    const std::uint64_t ticket = worker.ask_state_hashes();
    worker.poll(world_.now(), 1);
    CHECK(worker.state_hashes(ticket, hashes));
    world_.trace().mix(TraceEvent::kState, i, hashes.kept, hashes.recomputed);
    if (hashes.kept != hashes.recomputed) {
      world_.failure().set("state: replica " + std::to_string(i) +
                           " keeps other hashes than its segments have");
    }
    if (hashes.recomputed != expected[partitions]) {
      world_.failure().set("state: replica " + std::to_string(i) +
                           " differs from one that was fed the same order");
    }
  }
}

/// At rest, nodes hold what they retain and nothing else; a learner that waits for good for what
/// the acceptors retain no more also what has come since.
void Cluster::check_memory() {
  const auto check = [&](const std::string& who, SimTransport& transport, std::uint64_t limit) {
    if (world_.network().dead(transport.index())) return;
    const std::uint32_t held = transport.buffers_held();
    if (held > limit) {
      world_.failure().set("memory: " + who + " holds " + std::to_string(held) +
                           " receive buffers at rest, " + std::to_string(limit) + " expected");
    }
    if (transport.counters()[dataplane::TransportCounter::kRxDropNoBuffer].get() != 0) {
      world_.failure().set("memory: " + who + " ran out of receive buffers");
    }
  };
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    if (acceptors_[i].crashed) continue;
    const auto& acceptor = acceptors_[i].node->acceptor();
    // Every accepted instance, and what clients submitted out of turn.
    const std::uint64_t retained = std::min<std::uint64_t>(
        acceptor.accepted_below() - acceptor.trimmed_below(), acceptor.retain());
    check("acceptor " + std::to_string(i), *acceptors_[i].transport, retained + 256);
  }
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    // What was proposed to it, and lost with whoever proposed it, waits for what is proposed
    // instead.
    const consensus::Learner& learner = learners_[i].node->learner();
    const std::uint64_t lost =
        std::max(learner.seen_below(), learner.delivered_below()) - learner.delivered_below();
    const std::uint64_t waiting =
        left_behind(i) ? plan_.learner_window : std::min<std::uint64_t>(lost, plan_.learner_window);
    check("learner " + std::to_string(i), *learners_[i].transport, waiting + 16);
  }
  for (std::uint32_t i = 0; i < clients_.size(); ++i) {
    check("client " + std::to_string(i), *clients_[i].transport, 16);
  }
}

void Cluster::count(std::map<std::string, std::uint64_t>& counters) const {
  for (const auto& [name, value] : counted_) counters[name] += value;
  counters["history.completed"] = history_.completed;
  counters["history.unknown"] = history_.unknown;
  counters["history.replies_dropped"] = history_.replies_dropped;
  counters["history.refused_by_session"] = history_.refused_by_session;
  counters["order.delivered"] = checker_.delivered();
  counters["order.ballots"] = checker_.ballots();
  counters["order.masked"] = checker_.masked_deliveries();
  counters["order.repeated_values"] = checker_.repeated_values();
  counters["order.proposer_reorders"] = checker_.proposer_reorders();
  counters["order.restarts"] = checker_.restarts();
  counters["order.admitted"] = checker_.admitted();
  counters["foreigner.spoken"] = foreigner_ != nullptr ? foreigner_->spoken() : 0;
  counters["raw.retransmitted"] = raw_retransmitted();
  for (const AcceptorMachine& machine : acceptors_) {
    for (std::size_t i = 0;
         machine.platter != nullptr && i < static_cast<std::size_t>(DiskEvent::kCount); ++i) {
      const auto event = static_cast<DiskEvent>(i);
      counters[std::string("disk.") + to_string(event)] += machine.platter->count(event);
    }
  }
}

std::uint64_t Cluster::raw_retransmitted() const {
  std::uint64_t sum = 0;
  for (const RawMachine& machine : raw_clients_) sum += machine.client->retransmitted();
  return sum;
}

std::string Cluster::describe_unfinished() const {
  std::string text;
  consensus::Instance lowest{~std::uint64_t{0}};
  for (const AcceptorMachine& machine : acceptors_) {
    if (machine.crashed) continue;
    lowest = std::min(lowest, machine.node->acceptor().chosen_below());
  }
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    if (acceptors_[i].crashed) {
      text += "\n  acceptor " + std::to_string(i) + " crashed";
      continue;
    }
    if (acceptors_[i].node->failed()) text += "\n  the disk failed of";
    const auto& node = *acceptors_[i].node;
    const auto held = node.acceptor().accepted(lowest);
    if (held.ballot != consensus::kNoBallot) {
      text += "\n  acceptor " + std::to_string(i) + " holds at " + std::to_string(raw(lowest)) +
              ": sequence " + std::to_string(held.value->id.sequence) + ", " +
              std::to_string(held.value->bytes) + " B, round " +
              std::to_string(consensus::round_of(held.ballot)) + "." +
              std::to_string(raw(consensus::coordinator_of(held.ballot))) +
              (held.chosen ? ", chosen" : "");
    }
    text += "\n  acceptor " + std::to_string(i) + ": chosen below " +
            std::to_string(raw(node.acceptor().chosen_below())) + ", accepted below " +
            std::to_string(raw(node.acceptor().accepted_below())) + ", promised round " +
            std::to_string(consensus::round_of(node.acceptor().promised())) + "." +
            std::to_string(raw(consensus::coordinator_of(node.acceptor().promised()))) +
            ", configuration " + std::to_string(node.epoch()) +
            (node.standing() == consensus::Standing::kJoining   ? ", joining"
             : node.standing() == consensus::Standing::kRemoved ? ", taken out"
             : node.acceptor().settled()                        ? ""
                                                                : ", not settled");
    if (node.coordinator().idle()) continue;
    text += node.coordinator().active() ? ", coordinates" : ", in phase 1";
    text += " round " + std::to_string(consensus::round_of(node.coordinator().ballot())) +
            ", decided below " + std::to_string(raw(node.coordinator().decided_below())) +
            ", next " + std::to_string(raw(node.coordinator().next_instance()));
  }
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    if (learners_[i].crashed) {
      text += "\n  learner " + std::to_string(i) + " crashed";
      continue;
    }
    const auto& learner = learners_[i].node->learner();
    text += "\n  learner " + std::to_string(i) + ": delivered below " +
            std::to_string(raw(learner.delivered_below())) + ", decided below " +
            std::to_string(raw(learner.decided_below())) +
            (learner.behind_log() ? ", behind the log" : "") +
            (learners_[i].node->current() ? "" : ", fetches its state");
  }
  for (const ClientMachine& machine : clients_) {
    text += (machine.crashed ? "\n  crashed: " : "\n  ") + machine.client->describe();
  }
  for (const RawMachine& machine : raw_clients_) {
    text += (machine.crashed ? "\n  crashed: " : "\n  ") + machine.client->describe();
  }
  return text;
}

}  // namespace annulus::sim
