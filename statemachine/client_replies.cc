// The client's receiving side: replies to completions, deadlines, and batches that nobody answers.
#include <algorithm>
#include <cstring>

#include "statemachine/client_impl.h"

namespace annulus::statemachine {

using consensus::Effects;
using consensus::MessageType;
using consensus::Received;

namespace {

// How often batches without an answer are looked at.
constexpr Nanos kCheckUnanswered = 2 * kMillisecond;

// Looked at in one turn, whether they are to be kept alive.
constexpr std::uint32_t kSessionsPerTurn = 1'024;
// When no batch could be started for that: the rest soon, for they may be many.
constexpr Nanos kKeepAliveAgain = kMillisecond;

void mark_expired(ClientSession& session) {
  if (session.state == SessionState::kReady) session.state = SessionState::kExpired;
}

}  // namespace

std::uint32_t Client::Impl::receive(Nanos now, std::uint32_t budget, bool& drained) {
  std::uint32_t work = 0;
  while (work < budget) {
    const std::span<Received> burst = port_.receive(now);
    for (const Received& in : burst) {
      if (effects_.room() < Effects::kPerStepMax) port_.send(now, effects_);
      news_.on_frame(in, configuration_, false, now, effects_);
      if (in.type == MessageType::kReply) {
        on_reply(in, now);
      } else if (in.type == MessageType::kConfiguration) {
        adopt(in, now);
      } else if (in.type == MessageType::kSubmitAck) {
        proposer_.on_submit_ack(consensus::NodeId{in.frame.header->sender.get()},
                                consensus::message<consensus::SubmitAck>(in.frame), now, effects_);
      } else {
        counters_[ClientCounter::kMessageDropUnwanted].add();
      }
    }
    work += static_cast<std::uint32_t>(burst.size());
    consensus::Port::release(burst);
    drained = burst.size() < consensus::Port::kBurst;
    if (drained) break;
  }
  return work;
}

void Client::Impl::adopt(const Received& in, Nanos now) {
  consensus::Configuration next = consensus::decode(in.frame.message, configuration_);
  if (next.epoch <= configuration_.epoch) return;
  std::swap(configuration_, next);
  proposer_.on_configuration(next, now);
}

void Client::Impl::on_reply(const Received& in, Nanos now) {
  const auto& message = consensus::message<consensus::Reply>(in.frame);
  const std::uint64_t sequence = message.value.sequence;
  const bool own =
      message.value.epoch == options_.epoch && message.value.proposer == raw(options_.node);
  const bool awaited = own && proposer_.outstanding(sequence);
  if (own) proposer_.on_reply(sequence, message.replica, now);
  if (!awaited) {
    counters_[ClientCounter::kReplyDropUnknown].add();
    return;
  }
  if (message.fragment.count == 1) {
    take_stream(message, in.frame.payload.bytes(), now);
    return;
  }
  dataplane::Slice stream;
  switch (assembly_.add(message, in.frame.payload, stream)) {
    case ReplyAssembly::Outcome::kPartial:
      break;
    case ReplyAssembly::Outcome::kRefused:
      counters_[ClientCounter::kReplyDropNoBuffer].add();
      break;
    case ReplyAssembly::Outcome::kComplete:
      take_stream(message, stream.bytes(), now);
      break;
  }
}

void Client::Impl::take_stream(const consensus::Reply& message, std::span<const std::byte> stream,
                               Nanos now) {
  Batch& batch = at(message.value.sequence);
  counters_[ClientCounter::kReplyStreams].add();
  std::size_t next = 0;
  while (stream.size() - next >= sizeof(ReplyEntry)) {
    const auto& entry = *reinterpret_cast<const ReplyEntry*>(stream.data() + next);
    next += sizeof entry;
    const std::uint64_t bytes = entry.bytes;
    const std::uint64_t extent = (bytes + 7) & ~std::uint64_t{7};
    if (extent > stream.size() - next || entry.command >= batch.count) {
      counters_[ClientCounter::kReplyDropMalformed].add();
      break;
    }
    Pending& pending = batch.commands[entry.command];
    if (pending.done) {
      counters_[ClientCounter::kReplyDropUnwanted].add();
    } else {
      finish(batch, pending, static_cast<CommandStatus>(entry.status), stream.subspan(next, bytes),
             now);
    }
    next += extent;
  }
  if (batch.left == 0) {
    batch.bytes.reset();
    proposer_.on_replied(batch.sequence, now);
  }
  hand_over(now);
}

void Client::Impl::finish(Batch& batch, Pending& pending, CommandStatus status,
                          std::span<const std::byte> reply, Nanos now) {
  pending.done = true;
  --batch.left;
  // A command that was perhaps executed before, in an earlier value or in this one under another
  // coordinator: that its session is gone by now does not say that it was not; nor, of one in an
  // earlier value, that it came too late this time.
  const bool again = batch.reordered || proposer_.repeated(batch.sequence);
  if (!DEFECT(kRefusalBelieved) && ((again && status == CommandStatus::kNoSuchSession) ||
                                    (batch.reordered && status == CommandStatus::kStaleSequence))) {
    if (status == CommandStatus::kNoSuchSession) mark_expired(sessions_[pending.session]);
    status = CommandStatus::kOutcomeUnknown;
    reply = {};
  }
  if (pending.kind != Kind::kCommand) return finish_own(pending, status, reply);
  ClientSession& session = sessions_[pending.session];
  session.on_answered(pending.sequence);
  if (status == CommandStatus::kNoSuchSession) mark_expired(session);
  --outstanding_;
  if (status == CommandStatus::kOutcomeUnknown) {
    counters_[ClientCounter::kOutcomeUnknown].add();
  } else {
    counters_[ClientCounter::kCompletions].add();
    latency_.record(static_cast<std::uint64_t>(now - pending.submitted));
  }
  completions_.push_back(
      {pending.tag, SessionHandle{pending.session}, status, reply, now - pending.submitted});
  if (session.closing) sessions_.release_if_done(pending.session);
}

/// The end of one of the client's own commands.
void Client::Impl::finish_own(const Pending& pending, CommandStatus status,
                              std::span<const std::byte> reply) {
  ClientSession& session = sessions_[pending.session];
  if (pending.kind == Kind::kKeepAlive) {
    if (status == CommandStatus::kNoSuchSession) mark_expired(session);
    return;
  }
  session.requested = false;
  if (pending.kind == Kind::kClose) {
    sessions_.release_if_done(pending.session);
    return;
  }
  if (status == CommandStatus::kOk && reply.size() == sizeof(session.id)) {
    std::memcpy(&session.id, reply.data(), sizeof session.id);
    session.state = session.closing ? SessionState::kClosed : SessionState::kReady;
    if (session.closing) sessions_.ask_for_command(pending.session);
  } else if (status == CommandStatus::kOutcomeUnknown) {
    sessions_.ask_for_command(pending.session);  // under the same number: opened once at most
  } else {
    session.state = session.closing ? SessionState::kClosed : SessionState::kRefused;
    session.id = 0;
    if (session.closing) sessions_.release_if_done(pending.session);
  }
}

void Client::Impl::hand_over(Nanos now) {
  if (completions_.empty()) return;
  sink_.on_completions(completions_, now);
  completions_.clear();
}

void Client::Impl::check_deadlines(Nanos now) {
  if (now < next_deadline_) return;
  next_deadline_ = kNever;
  const std::uint64_t next = proposer_.next_sequence();
  for (std::uint64_t sequence = next - proposer_.outstanding(); sequence < next; ++sequence) {
    if (proposer_.outstanding(sequence)) expire(at(sequence), now);
  }
  if (used_ != 0) expire(filling(), now);
}

void Client::Impl::expire(Batch& batch, Nanos now) {
  if (batch.deadline <= now) {
    batch.deadline = kNever;
    const bool sent = batch.sequence != proposer_.next_sequence();
    for (std::uint32_t i = 0; i < batch.count; ++i) {
      Pending& pending = batch.commands[i];
      if (pending.done) continue;
      if (pending.deadline <= now) {
        finish(batch, pending, CommandStatus::kOutcomeUnknown, {}, now);
      } else {
        batch.deadline = std::min(batch.deadline, pending.deadline);
      }
    }
    if (batch.left == 0 && sent) {
      batch.bytes.reset();
      proposer_.abandon(batch.sequence);
    }
    const Nanos rest = batch.deadline;
    hand_over(now);
    next_deadline_ = std::min(next_deadline_, rest);
    return;
  }
  next_deadline_ = std::min(next_deadline_, batch.deadline);
}

/// A batch that every replica was asked about twice, in vain, is put into the order again: what was
/// executed is answered from the session table there, and reads are read anew. The last place is
/// the oldest one's: places are free only once that is answered.
void Client::Impl::check_unanswered(Nanos now) {
  if (proposer_.outstanding() == 0 || now < check_unanswered_at_) return;
  check_unanswered_at_ = now + kCheckUnanswered;
  const std::uint32_t asked = 2 * proposer_.answerers();
  const std::uint64_t next = proposer_.next_sequence();
  const std::uint64_t oldest = next - proposer_.outstanding();
  for (std::uint64_t sequence = oldest; sequence < next; ++sequence) {
    if (!proposer_.outstanding(sequence) || proposer_.queries(sequence) <= asked) continue;
    if (used_ != 0) {
      if (!proposer_.can_propose()) return;
      propose_batch(now);
    }
    const std::size_t places = batches_.size() - (sequence == oldest ? 0 : 1);
    if (!proposer_.can_propose() || !begin_batch(places, now)) return;
    reorder(at(sequence), now);
  }
}

void Client::Impl::reorder(Batch& batch, Nanos now) {
  counters_[ClientCounter::kReordered].add();
  const std::byte* from = batch.bytes.data() + sizeof(BatchHeader);
  for (std::uint32_t i = 0; i < batch.count; ++i) {
    const auto& header = *reinterpret_cast<const CommandHeader*>(from);
    if (!batch.commands[i].done) {
      std::span<std::byte> body;
      *append(header, body) = batch.commands[i];
      std::memcpy(body.data(), from + sizeof header, body.size());
    }
    from += command_bytes(header.bytes);
  }
  filling().reordered = true;
  filling().deadline = batch.deadline;
  proposer_.abandon(batch.sequence);
  batch.left = 0;
  batch.bytes.reset();
  propose_batch(now);
}

void Client::Impl::send_session_commands(Nanos now) {
  for (; sessions_.any_asked(); sessions_.drop_next()) {
    const std::uint32_t index = sessions_.next();
    ClientSession& session = sessions_[index];
    if (session.requested) continue;  // asks again when that is answered
    if (session.state == SessionState::kOpening) {
      const OpenSession body{static_cast<std::uint8_t>(SystemCommand::kOpenSession), 0,
                             session.reply_bytes, session.window};
      if (!send_own(index, Kind::kOpen, std::as_bytes(std::span{&body, 1}), now)) return;
    } else if (session.closing && session.id != 0) {
      CloseSession body{};
      body.head.kind = static_cast<std::uint8_t>(SystemCommand::kCloseSession);
      body.session = session.id;
      if (!send_own(index, Kind::kClose, std::as_bytes(std::span{&body, 1}), now)) return;
      session.id = 0;
    } else {
      continue;
    }
    session.requested = true;
  }
}

bool Client::Impl::send_own(std::uint32_t index, Kind kind, std::span<const std::byte> content,
                            Nanos now) {
  const auto bytes = static_cast<std::uint32_t>(content.size());
  if (!make_room(command_bytes(bytes), now)) return false;
  const ClientSession& session = sessions_[index];
  CommandHeader header{};
  header.session = kind == Kind::kKeepAlive ? session.id : 0;
  header.sequence = kind == Kind::kOpen ? session.opener_sequence : 0;
  header.bytes = bytes;
  header.service = kSystemService;
  std::span<std::byte> body;
  Pending* pending = append(header, body);
  std::memcpy(body.data(), content.data(), bytes);
  *pending = {0, 0, now, now + options_.deadline, index, kind, false};
  Batch& batch = filling();
  batch.deadline = std::min(batch.deadline, pending->deadline);
  next_deadline_ = std::min(next_deadline_, pending->deadline);
  return true;
}

/// A round over all sessions takes an eighth of the time after which one is kept alive.
void Client::Impl::keep_sessions_alive(Nanos now) {
  if (now < keep_alive_at_) return;
  SystemHead body{};
  body.kind = static_cast<std::uint8_t>(SystemCommand::kKeepAlive);
  const std::uint32_t end = std::min(keep_alive_next_ + kSessionsPerTurn, sessions_.size());
  for (; keep_alive_next_ < end; ++keep_alive_next_) {
    ClientSession& session = sessions_[keep_alive_next_];
    if (session.state != SessionState::kReady || now - session.last_write < options_.keepalive) {
      continue;
    }
    if (!send_own(keep_alive_next_, Kind::kKeepAlive, std::as_bytes(std::span{&body, 1}), now)) {
      keep_alive_at_ = now + kKeepAliveAgain;
      return;
    }
    session.last_write = now;
    counters_[ClientCounter::kKeepAlives].add();
  }
  if (keep_alive_next_ == sessions_.size()) keep_alive_next_ = 0;
  const Nanos turns = (sessions_.size() + kSessionsPerTurn - 1) / kSessionsPerTurn;
  keep_alive_at_ = now + options_.keepalive / 8 / turns;
}

}  // namespace annulus::statemachine
