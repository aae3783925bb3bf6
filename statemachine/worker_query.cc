// Answers to clients that did not get a reply: the frames sent before, what the session table
// keeps, and reads anew. Nothing that changes state is executed here.
#include "statemachine/worker.h"

namespace annulus::statemachine {

using Admission = SessionTable::Admission;

void Worker::answer_query(const consensus::Delivery& delivery, std::uint32_t count) {
  const consensus::ValueId& id = delivery.value.id;
  const consensus::Endpoint to{current_.header->reply_address, current_.header->reply_port};
  const RecentValues::Entry* known = recent_.find(id);
  if (known != nullptr && writer_.resend(known->replies, id, to)) {
    counters_[WorkerCounter::kQueriesResent].add();
    return;
  }
  current_.replying = true;
  current_.instance = executed();
  writer_.begin(id, to);
  std::uint32_t answered = 0;
  for (std::uint32_t i = 0; i < count; ++i) answered += answer_again(i, known != nullptr);
  writer_.end();
  counters_[answered != 0 ? WorkerCounter::kQueriesAnswered : WorkerCounter::kQueriesUnanswered]
      .add();
}

/// `executed`: the value is known to have been executed here. Silence means: not known.
bool Worker::answer_again(std::uint32_t index, bool executed) {
  const Command& command = commands_[index];
  const CommandHeader& header = *command.header;
  const bool system = header.service == kSystemService;
  const auto kind =
      static_cast<SystemCommand>(!system || command.body.empty() ? std::byte{0} : command.body[0]);
  if (kind == SystemCommand::kOpenSession) {
    const std::uint64_t id =
        sessions_.opened_by({consensus::NodeId{current_.header->proposer.get()},
                             current_.header->epoch, header.sequence});
    if (id == 0) return false;
    opened_id_ = id;
    reply(index, CommandStatus::kOk, std::as_bytes(std::span{&opened_id_, 1}));
    return true;
  }
  if (system && kind != SystemCommand::kAtomic) return false;
  if ((header.flags & kReadOnly) != 0) {
    // The value is in its place in the order, so a read here and now is not too early. Later is
    // allowed: its client has no answer yet.
    if (!executed && !DEFECT(kReadAnsweredUnordered)) return false;
    answer_read(index);
    return true;
  }
  const auto admitted = sessions_.look_up(header.session, header.sequence);
  if (DEFECT(kRepliesBySubstitute) && !system && service(header.service) != nullptr) {
    answer_read(index);
    return true;
  }
  if (admitted.admission != Admission::kRepeat) return false;
  reply(index, admitted.status, admitted.reply);
  return true;
}

void Worker::answer_read(std::uint32_t index) {
  const Command& command = commands_[index];
  if (command.header->service == kSystemService) {
    run_atomic(index);  // flagged as a read: changes nothing
  } else if (service(command.header->service) == nullptr ||
             (!reads_only(command) && !DEFECT(kRepliesBySubstitute))) {
    reply(index, CommandStatus::kMalformed, {});
  } else {
    run_[0] = command;
    plans_[0] = {static_cast<std::uint16_t>(index), false, {}};
    run_service(command.header->service, 0, 1);
  }
}

}  // namespace annulus::statemachine
