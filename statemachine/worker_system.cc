// The engine's own commands: sessions, and atomic groups over several services.
#include <algorithm>
#include <cstring>

#include "statemachine/worker.h"

namespace annulus::statemachine {

using Admission = SessionTable::Admission;

namespace {

/// The body as a T, if it is one: exact size, and `zero` bytes of its head zero.
template <typename T>
const T* body_as(const Command& command) {
  if (command.body.size() != sizeof(T)) return nullptr;
  return reinterpret_cast<const T*>(command.body.data());
}

bool zero(const SystemHead& head) { return head.zero == decltype(head.zero){}; }

}  // namespace

void Worker::run_system(std::uint32_t index) {
  const Command& command = commands_[index];
  const auto kind =
      static_cast<SystemCommand>(command.body.empty() ? std::byte{0} : command.body[0]);
  if (kind == SystemCommand::kAtomic) return run_atomic(index);
  CommandStatus status = CommandStatus::kMalformed;
  std::span<const std::byte> bytes;
  if (command.header->flags != 0) {
    // None of these can be a read.
  } else if (kind == SystemCommand::kOpenSession) {
    status = open_session(command, bytes);
  } else if (kind == SystemCommand::kCloseSession) {
    status = end_session(command, false);
  } else if (kind == SystemCommand::kExpireSession) {
    status = end_session(command, true);
  } else if (kind == SystemCommand::kKeepAlive) {
    const auto* body = body_as<SystemHead>(command);
    if (body != nullptr && zero(*body)) {
      status = sessions_.keep_alive(command.header->session, current_.instance)
                   ? CommandStatus::kOk
                   : CommandStatus::kNoSuchSession;
    }
  }
  if (status == CommandStatus::kMalformed) counters_[WorkerCounter::kMalformedCommands].add();
  reply(index, status, bytes);
}

CommandStatus Worker::open_session(const Command& command, std::span<const std::byte>& reply) {
  const auto* body = body_as<OpenSession>(command);
  if (body == nullptr || body->zero != 0 || command.header->session != 0) {
    return CommandStatus::kMalformed;
  }
  const SessionOpener opener{consensus::NodeId{current_.header->proposer.get()},
                             current_.header->epoch, command.header->sequence};
  std::uint64_t id = 0;
  const std::uint32_t before = sessions_.count();
  const CommandStatus status =
      sessions_.open(opener, body->window, body->reply_bytes, current_.instance, id);
  if (status != CommandStatus::kOk) {
    counters_[WorkerCounter::kSessionsRefused].add();
    return status;
  }
  counters_[WorkerCounter::kSessionsOpened].add(sessions_.count() - before);
  opened_id_ = id;
  reply = std::as_bytes(std::span{&opened_id_, 1});
  return status;
}

CommandStatus Worker::end_session(const Command& command, bool expire) {
  const auto* body = body_as<CloseSession>(command);
  if (body == nullptr || !zero(body->head) || (!expire && body->last_activity != 0)) {
    return CommandStatus::kMalformed;
  }
  if (expire) {
    const consensus::Instance seen{body->last_activity.get()};
    if (!sessions_.expire(body->session, seen)) return CommandStatus::kRefused;
    counters_[WorkerCounter::kSessionsExpired].add();
    return CommandStatus::kOk;
  }
  if (!sessions_.close(body->session)) return CommandStatus::kNoSuchSession;
  counters_[WorkerCounter::kSessionsClosed].add();
  return CommandStatus::kOk;
}

void Worker::run_atomic(std::uint32_t index) {
  const Command& command = commands_[index];
  const CommandHeader& header = *command.header;
  std::span<const std::byte> bytes;
  if ((header.flags & ~kReadOnly) != 0) {
    counters_[WorkerCounter::kMalformedCommands].add();
    return reply(index, CommandStatus::kMalformed, {});
  }
  if ((header.flags & kReadOnly) != 0) {
    if (!current_.replying) {
      counters_[WorkerCounter::kReadsSkipped].add();
      return;
    }
    const CommandStatus status = execute_atomic(command.body, true, bytes);
    return reply(index, status, bytes);
  }
  const auto admitted = sessions_.admit(header);
  if (admitted.admission == Admission::kRepeat) {
    counters_[WorkerCounter::kRepeated].add();
    return reply(index, admitted.status, admitted.reply);
  }
  if (admitted.admission != Admission::kExecute) return refuse(index, admitted.admission);
  const CommandStatus status = execute_atomic(command.body, false, bytes);
  sessions_.record(admitted, status, bytes, current_.instance);
  reply(index, status, bytes);
}

CommandStatus Worker::execute_atomic(std::span<const std::byte> body, bool read_only,
                                     std::span<const std::byte>& reply) {
  std::uint32_t count = 0;
  bool well_formed = parse_atomic(body, parts_, count);
  for (std::uint32_t i = 0; well_formed && i < count; ++i) {
    well_formed = service(parts_[i].service) != nullptr &&
                  (!read_only || reads_only(parts_[i].service, parts_[i].body));
  }
  if (!well_formed) {
    counters_[WorkerCounter::kMalformedCommands].add();
    return CommandStatus::kMalformed;
  }
  counters_[WorkerCounter::kAtomicGroups].add();
  std::uint32_t used = 0;
  for (std::uint32_t first = 0; first < count;) {
    const std::uint8_t id = parts_[first].service;
    std::uint32_t end = first;
    while (end < count && end - first < kGroupMax && parts_[end].service == id) ++end;
    execute_parts(id, std::span{parts_}.subspan(first, end - first), count - first, used);
    first = end;
  }
  reply = atomic_scratch_.bytes().first(used);
  return CommandStatus::kOk;
}

/// Appends the replies of a stretch of parts for one service to the group's reply, as far as they
/// leave room for the heads of all `parts_left`, these included.
void Worker::execute_parts(std::uint8_t id, std::span<const AtomicCommand> parts,
                           std::uint32_t parts_left, std::uint32_t& used) {
  for (std::size_t i = 0; i < parts.size(); ++i) run_[i] = {nullptr, parts[i].body};
  replies_.clear();
  service(id)->execute({run_.data(), parts.size()}, replies_);
  CHECK(replies_.count() == parts.size());
  counters_[WorkerCounter::kRuns].add();
  counters_[WorkerCounter::kExecuted].add(parts.size());
  for (const Replies::Entry& part : replies_.entries()) {
    const auto bytes = replies_.bytes(part);
    const std::uint32_t room = options_.reply_bytes_max - used -
                               parts_left * static_cast<std::uint32_t>(sizeof(ReplyEntry));
    const bool fits = padded(part.bytes) <= room;
    std::byte* place = atomic_scratch_.mutable_data() + used;
    const ReplyEntry entry{
        0, static_cast<std::uint8_t>(fits ? part.status : CommandStatus::kReplyDropped), 0,
        fits ? part.bytes : 0};
    std::memcpy(place, &entry, sizeof entry);
    used += static_cast<std::uint32_t>(sizeof entry);
    if (fits && part.bytes != 0) {
      std::memset(place + sizeof entry + padded(part.bytes) - 8, 0, 8);
      std::memcpy(place + sizeof entry, bytes.data(), bytes.size());
      used += padded(part.bytes);
    }
    --parts_left;
  }
}

}  // namespace annulus::statemachine
