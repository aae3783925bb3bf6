#include "statemachine/worker.h"

#include <algorithm>
#include <string>

namespace annulus::statemachine {

using Admission = SessionTable::Admission;
using consensus::DeliveryKind;
using consensus::Instance;

namespace {

/// A turn of the worker takes no longer than this many commands do, batches however large: what
/// shares its core is what keeps it fed.
constexpr std::uint64_t kCommandsPerTurn = 256;

std::uint32_t most_classes(const std::vector<Service*>& services) {
  std::uint32_t most = SessionTable::key_classes();
  for (const Service* service : services) {
    if (service != nullptr) most = std::max(most, service->key_classes());
  }
  return most;
}

}  // namespace

Worker::Worker(const WorkerOptions& options, std::vector<Service*> services, const Rings& rings)
    : options_(options),
      services_(std::move(services)),
      rings_(rings),
      sessions_(options.sessions),
      writer_(options.replies, rings.replies),
      recent_(options.recent_values),
      idle_({options.node, options.epoch, options.session_idle}, sessions_, rings.proposals),
      class_hashes_(most_classes(services_)),
      commands_(kCommandsPerBatchMax),
      parts_(kAtomicPartsMax),
      scratch_pool_(2, kGroupMax * padded(options.reply_bytes_max)),
      scratch_(scratch_pool_.allocate()),
      atomic_scratch_(scratch_pool_.allocate()),
      replies_({scratch_.mutable_data(), scratch_.size()}, reply_entries_,
               options.reply_bytes_max) {
  CHECK(options.reply_bytes_max <= kReplyBytesMax && options.reply_bytes_max % 8 == 0);
  CHECK(options.reply_bytes_max >= sizeof(ReplyEntry) * kAtomicPartsMax);
  CHECK(services_.empty() || services_[kSystemService] == nullptr);
}

dataplane::PollResult Worker::poll(Nanos now, std::uint32_t budget) {
  std::uint32_t work = 0;
  if (copier_ != nullptr || installer_ != nullptr) {
    writer_.flush();
    const bool stood_still = stands_still();
    work_on_state(now);
    if (stood_still || stands_still()) return {1, now};
  }
  answer_state_hashes();
  const std::uint64_t enough = counters_[WorkerCounter::kCommands].get() + kCommandsPerTurn;
  while (work < budget && counters_[WorkerCounter::kCommands].get() < enough) {
    // Nothing is executed before the replies of what came before are on their way.
    if (!writer_.flush()) {
      counters_[WorkerCounter::kReplyRingFull].add();
      publish_counters();
      return {work, now};
    }
    consensus::Delivery* delivery = rings_.deliveries.front();
    if (delivery == nullptr) break;
    if (!take(*delivery, now)) break;
    rings_.deliveries.pop();
    ++work;
    if (stands_still()) return {work, now};
  }
  writer_.flush();
  const Nanos deadline = idle_.poll(now);
  publish_counters();
  if (copier_ != nullptr) return {work + 1, now};
  return {work, writer_.idle() ? deadline : now};
}

bool Worker::take(consensus::Delivery& delivery, Nanos now) {
  if (delivery.kind == DeliveryKind::kQuery) {
    std::uint32_t count = 0;
    counters_[WorkerCounter::kQueries].add();
    if (open_value(delivery, count)) answer_query(delivery, count);
    return true;
  }
  if (delivery.kind == DeliveryKind::kCopyState || delivery.kind == DeliveryKind::kInstallState) {
    begin_state(delivery);
    return true;
  }
  Instance asked;
  if (hash_exchange_.pending(asked) && delivery.instance > asked) answer_state_hashes();
  std::uint32_t count = 0;
  idle_.on_delivered(delivery.value.id);
  if (DEFECT(kReplicaSkipsWrite) && rings_.deliveries.size() == rings_.deliveries.capacity()) {
    executed_.store(raw(delivery.instance), std::memory_order_release);
    return true;
  }
  if (open_value(delivery, count)) {
    execute_value(delivery, count, now);
  } else {
    counters_[WorkerCounter::kDropMalformedValue].add();
  }
  executed_.store(raw(delivery.instance), std::memory_order_release);
  answer_state_hashes();
  return true;
}

/// Parses the value; its header must say what was voted on.
bool Worker::open_value(const consensus::Delivery& delivery, std::uint32_t& count) {
  if (!parse_batch(delivery.bytes.bytes(), commands_, count)) return false;
  current_.header = reinterpret_cast<const BatchHeader*>(delivery.bytes.data());
  const BatchHeader& header = *current_.header;
  const consensus::ValueId& id = delivery.value.id;
  return header.proposer == raw(id.proposer) && header.epoch == id.epoch &&
         header.sequence == id.sequence && header.mask == raw(delivery.value.mask);
}

void Worker::execute_value(const consensus::Delivery& delivery, std::uint32_t count, Nanos now) {
  const std::uint16_t replier = current_.header->replier;
  current_.instance = delivery.instance;
  current_.replying = delivery.kind == DeliveryKind::kDirect
                          ? replier != kNoReplica
                          : replier == kAnyReplica || replier == options_.replies.replica;
  writer_.begin(delivery.value.id, {current_.header->reply_address, current_.header->reply_port});
  for (std::uint32_t next = 0; next < count;) {
    if (commands_[next].header->service == kSystemService) {
      run_system(next++);
    } else {
      next = run_group(next, count);
    }
  }
  sessions_.end_batch();
  recent_.insert(delivery.value.id, writer_.end());
  counters_[WorkerCounter::kValues].add();
  counters_[WorkerCounter::kCommands].add(count);
  executed_ns_.record(static_cast<std::uint64_t>(std::max<Nanos>(now - delivery.received, 0)));
}

/// Admits and executes commands from `first` on, up to the first that must wait for their outcome.
/// Returns where to go on.
std::uint32_t Worker::run_group(std::uint32_t first, std::uint32_t count) {
  const std::uint32_t last = std::min(first + kGroupMax, count);
  prefetch(first, last);
  std::uint32_t planned = 0;
  std::uint32_t next = first;
  while (next < last && commands_[next].header->service != kSystemService && plan(next, planned)) {
    ++next;
  }
  run_plans(planned);
  return next;
}

void Worker::prefetch(std::uint32_t first, std::uint32_t last) const {
  for (std::uint32_t i = first; i < last; ++i) {
    sessions_.prefetch_place(commands_[i].header->session);
  }
  for (std::uint32_t i = first; i < last; ++i) {
    sessions_.prefetch_session(commands_[i].header->session);
  }
  for (std::uint32_t i = first; i < last; ++i) {
    sessions_.prefetch_entry(commands_[i].header->session, commands_[i].header->sequence);
  }
}

/// False when the command depends on one planned before it.
bool Worker::plan(std::uint32_t index, std::uint32_t& planned) {
  const CommandHeader& header = *commands_[index].header;
  if ((header.flags & ~kReadOnly) != 0 || service(header.service) == nullptr) {
    counters_[WorkerCounter::kMalformedCommands].add();
    reply(index, CommandStatus::kMalformed, {});
    return true;
  }
  if ((header.flags & kReadOnly) != 0) {
    plan_read(index, planned);
    return true;
  }
  const auto admitted = sessions_.admit(header);
  if (admitted.admission == Admission::kInProgress) return false;
  if (admitted.admission == Admission::kExecute) {
    plans_[planned++] = {static_cast<std::uint16_t>(index), true, admitted};
  } else if (admitted.admission == Admission::kRepeat) {
    counters_[WorkerCounter::kRepeated].add();
    reply(index, admitted.status, admitted.reply);
  } else {
    refuse(index, admitted.admission);
  }
  return true;
}

/// Only the replying replica executes a read, and no replica keeps anything of it (T10).
void Worker::plan_read(std::uint32_t index, std::uint32_t& planned) {
  if (!current_.replying) {
    counters_[WorkerCounter::kReadsSkipped].add();
    return;
  }
  if (!reads_only(commands_[index])) {
    counters_[WorkerCounter::kMalformedCommands].add();
    reply(index, CommandStatus::kMalformed, {});
    return;
  }
  if (DEFECT(kReadsInSessionTable)) {
    sessions_.keep_alive(commands_[index].header->session, current_.instance);
  }
  plans_[planned++] = {static_cast<std::uint16_t>(index), false, {}};
}

bool Worker::reads_only(const Command& command) {
  return reads_only(command.header->service, command.body);
}

bool Worker::reads_only(std::uint8_t service_id, std::span<const std::byte> body) {
  footprint_.clear();
  service(service_id)->footprint(body, footprint_);
  for (const Access& access : footprint_.accesses()) {
    if (access.write) return false;
  }
  return true;
}

void Worker::refuse(std::uint32_t index, Admission admission) {
  switch (admission) {
    case Admission::kStale:
      counters_[WorkerCounter::kRefusedStale].add();
      return reply(index, CommandStatus::kStaleSequence, {});
    case Admission::kBeyondWindow:
      counters_[WorkerCounter::kRefusedBeyondWindow].add();
      return reply(index, CommandStatus::kMalformed, {});
    default:
      counters_[WorkerCounter::kRefusedNoSession].add();
      return reply(index, CommandStatus::kNoSuchSession, {});
  }
}

/// Each stretch of plans for one service becomes one call of it.
void Worker::run_plans(std::uint32_t planned) {
  std::uint32_t first = 0;
  while (first < planned) {
    const std::uint8_t id = commands_[plans_[first].command].header->service;
    std::uint32_t end = first;
    for (; end < planned && commands_[plans_[end].command].header->service == id; ++end) {
      run_[end - first] = commands_[plans_[end].command];
    }
    run_service(id, first, end - first);
    first = end;
  }
}

void Worker::run_service(std::uint8_t id, std::uint32_t first_plan, std::uint32_t count) {
  replies_.clear();
  service(id)->execute({run_.data(), count}, replies_);
  CHECK(replies_.count() == count);
  counters_[WorkerCounter::kRuns].add();
  counters_[WorkerCounter::kExecuted].add(count);
  const auto entries = replies_.entries();
  for (std::uint32_t i = 0; i < count; ++i) {
    const Plan& plan = plans_[first_plan + i];
    const auto bytes = replies_.bytes(entries[i]);
    if (plan.recorded) {
      sessions_.record(plan.admitted, entries[i].status, bytes, current_.instance);
    }
    reply(plan.command, entries[i].status, bytes);
  }
}

void Worker::reply(std::uint32_t command, CommandStatus status, std::span<const std::byte> bytes) {
  if (!current_.replying) return;
  if (!writer_.add(command, status, bytes)) {
    counters_[WorkerCounter::kReplyDropNoBuffer].add();
  }
}

void Worker::answer_state_hashes() {
  Instance at;
  if (!hash_exchange_.pending(at)) return;
  consensus::Delivery* next = rings_.deliveries.front();
  const bool past = next != nullptr && next->kind != DeliveryKind::kQuery &&
                    next->kind != DeliveryKind::kInstallState && next->instance > at;
  if (executed() < at && !past) return;
  counters_[WorkerCounter::kStateHashes].add();
  hash_exchange_.answer(compute_hashes());
}

StateHashes Worker::compute_hashes() {
  StateHashes result;
  result.executed = executed();
  result.sessions = sessions_.count();
  const auto fold = [&](const auto& source) {
    const std::span classes{class_hashes_.data(), source.key_classes()};
    source.hashes(classes);
    result.kept = fold_hashes(result.kept, classes);
    source.recompute_hashes(classes);
    result.recomputed = fold_hashes(result.recomputed, classes);
  };
  fold(sessions_);
  for (const Service* each : services_) {
    if (each != nullptr) fold(*each);
  }
  return result;
}

void Worker::publish_counters() {
  counters_[WorkerCounter::kReplyFrames].set(writer_.frames());
  counters_[WorkerCounter::kReplyStreams].set(writer_.streams());
  counters_[WorkerCounter::kExpiryProposals].set(idle_.proposals());
}

void Worker::add_counters(dataplane::Registry& registry, const std::string& node) {
  registry.add(node, "stage.worker", stage_counters());
  registry.add(node, "worker", counters_);
  registry.add(node, "received_to_executed_ns", executed_ns_);
}

std::string Worker::memory_plan(const WorkerOptions& options) {
  const auto line = [](std::uint64_t bytes, const char* what) {
    return std::to_string(bytes) + " bytes: " + what + "\n";
  };
  return line(std::uint64_t{options.sessions.segment_bytes} * options.sessions.segments_max,
              "sessions, touched as they open") +
         line(std::uint64_t{options.sessions.sessions_max} * 45,
              "index of sessions, hashes, idle times") +
         line(std::uint64_t{options.replies.block_bytes} * options.replies.blocks,
              "replies kept and in flight") +
         line(std::uint64_t{2} * kGroupMax * options.reply_bytes_max,
              "replies of one call of a service, touched as they grow") +
         line(std::uint64_t{options.recent_values} * sizeof(RecentValues::Entry),
              "values executed lately");
}

}  // namespace annulus::statemachine

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(statemachine::WorkerCounter::kCount)>
    CounterNames<statemachine::WorkerCounter>::names = {"values",
                                                        "commands",
                                                        "executed",
                                                        "runs",
                                                        "reads_skipped",
                                                        "atomic_groups",
                                                        "repeated",
                                                        "refused_stale",
                                                        "refused_beyond_window",
                                                        "refused_no_session",
                                                        "malformed_commands",
                                                        "drop_malformed_value",
                                                        "sessions_opened",
                                                        "sessions_refused",
                                                        "sessions_closed",
                                                        "sessions_expired",
                                                        "expiry_proposals",
                                                        "reply_streams",
                                                        "reply_frames",
                                                        "reply_ring_full",
                                                        "reply_drop_no_buffer",
                                                        "queries",
                                                        "queries_resent",
                                                        "queries_answered",
                                                        "queries_unanswered",
                                                        "state_hashes",
                                                        "states_copied",
                                                        "states_installed",
                                                        "states_refused"};

}  // namespace annulus::dataplane
