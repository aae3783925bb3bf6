// The proxy's commands and replies: what a connection sent becomes a reply of the proxy's own or a
// command of the cluster; what the cluster answers goes out in the order of the commands.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tools/proxy/proxy.h"
#include "tools/proxy/reply.h"

namespace annulus::proxy {
namespace {

using statemachine::CommandStatus;
using statemachine::Completion;
using statemachine::SubmitOutcome;

constexpr std::uint32_t kCommandsPerServe = 256;
constexpr std::uint32_t kPendingMax = 1'024;
/// Replies unread and expected at which a connection's input is not followed further,
constexpr std::uint64_t kOutputPauseBytes = 1u << 20;
/// and at which it is closed: only replies much larger than expected get there.
constexpr std::uint64_t kOutputBytesMax = 64u << 20;
/// A connection may hold this part of the reply memory that is free, so that however many do not
/// read, something is left for those that do.
constexpr std::uint64_t kOutputShare = 8;

constexpr std::string_view kNotTaken =
    "ERR not executed: the cluster did not take the command in time; see that a coordinator and "
    "replicas run and that the proxy reaches them";

}  // namespace

/// Executes the proxy's own commands when their transaction is executed.
class Proxy::InTransaction final : public LocalExecutor {
 public:
  InTransaction(Proxy& proxy, Connection& connection, Nanos now)
      : proxy_(proxy), connection_(connection), now_(now) {}
  void execute(std::span<const std::string_view> arguments, RespWriter& writer) override {
    const CommandInfo* command = find_command(arguments[0]);
    if (command->kind == CommandKind::kContainer && arguments.size() > 1) {
      command = find_subcommand(*command, arguments[1]);
    }
    if (command->kind == CommandKind::kReplicated) {
      // Queued like this because its arguments are wrong.
      writer.error(proxy_.request_->prepare(*command, arguments));
    } else {
      proxy_.local_.execute(*command, arguments, connection_, now_, writer);
    }
  }

 private:
  Proxy& proxy_;
  Connection& connection_;
  Nanos now_;
};

std::uint32_t Proxy::take_slot(Connection& connection) {
  const std::uint32_t index = slots_free_;
  if (index == kNone) return kNone;
  Slot& slot = slots_[index];
  slots_free_ = slot.next;
  slot.connection = connection.index;
  slot.next = kNone;
  slot.resp3 = connection.resp3;
  slot.done = false;
  slot.short_bytes = 0;
  return index;
}

void Proxy::give_back(std::uint32_t index) {
  slots_[index].connection = kNone;
  slots_[index].next = slots_free_;
  slots_free_ = index;
}

void Proxy::append_slot(Connection& connection, std::uint32_t index) {
  if (connection.slots_last == kNone) {
    connection.slots_first = index;
  } else {
    slots_[connection.slots_last].next = index;
  }
  connection.slots_last = index;
  ++connection.pending;
}

void Proxy::pop_slot(Connection& connection) {
  const std::uint32_t index = connection.slots_first;
  connection.slots_first = slots_[index].next;
  if (connection.slots_first == kNone) connection.slots_last = kNone;
  --connection.pending;
  give_back(index);
}

/// Puts a whole reply aside until those before it are there.
void Proxy::keep_reply(Slot& slot, ByteChain& reply) {
  slot.done = true;
  if (reply.bytes() <= Slot::kShortBytes) {
    slot.short_bytes = static_cast<std::uint8_t>(reply.bytes());
    reply.copy_to(slot.short_reply);
    reply.clear(chunks_);
  } else {
    slot.bytes = reply;
    reply = ByteChain{};
  }
}

/// A reply of the proxy's own, in the order of the connection's commands. run() saw to a slot.
template <typename Write>
void Proxy::answer(Connection& connection, Write write) {
  counters_[ProxyCounter::kCommandsLocal].add();
  if (connection.pending == 0) {
    RespWriter writer(connection.out, chunks_, connection.resp3);
    write(writer);
    mark_dirty(connection);
    check_output(connection, writer);
    return;
  }
  const std::uint32_t index = take_slot(connection);
  CHECK(index != kNone);
  RespWriter writer(scratch_reply_, chunks_, connection.resp3);
  write(writer);
  keep_reply(slots_[index], scratch_reply_);
  append_slot(connection, index);
  check_output(connection, writer);
}

void Proxy::answer_error(Connection& connection, std::string_view error) {
  answer(connection, [error](RespWriter& writer) { writer.error(error); });
}

void Proxy::answer_ok(Connection& connection) {
  answer(connection, [](RespWriter& writer) { writer.ok(); });
}

void Proxy::check_output(Connection& connection, const RespWriter& writer) {
  if (writer.failed()) {
    abort(connection, ProxyCounter::kCloseNoMemory);
  } else if (connection.out.bytes() > kOutputBytesMax) {
    abort(connection, ProxyCounter::kCloseOutputFull);
  }
}

bool Proxy::may_take_command(Connection& connection) {
  const std::uint64_t expected =
      connection.out.bytes() + std::uint64_t{connection.pending} * connection.reply_bytes_expected;
  const std::uint64_t share = std::uint64_t{chunks_.available()} * Chunk::kBytes / kOutputShare;
  if (connection.pending < kPendingMax && expected <= std::min(kOutputPauseBytes, share)) {
    return true;
  }
  if (!connection.out.empty() && connection.write_blocked) {
    counters_[ProxyCounter::kPausedOutput].add();
  }
  return connection.pending == 0 && connection.out.empty();
}

Proxy::Progress Proxy::run(Connection& connection, std::string_view input, std::size_t& consumed,
                           Nanos now) {
  for (std::uint32_t commands = 0;; ++commands) {
    if (connection.closing) return Progress::kClosing;
    if (commands == kCommandsPerServe) return Progress::kQuantum;
    if (!may_take_command(connection)) return Progress::kPaused;
    // Whatever the command turns out to be, it then has a place in the order of replies.
    if (connection.pending > 0 && slots_free_ == kNone) return Progress::kWaiting;
    std::size_t used = 0;
    const ParseOutcome outcome = connection.parser.next(input, *arguments_, used);
    switch (outcome) {
      case ParseOutcome::kIncomplete:
        consumed += used;
        return Progress::kStarved;
      case ParseOutcome::kBroken:
        answer_error(connection, "ERR " + std::string(connection.parser.error()));
        close_after_replies(connection, ProxyCounter::kCloseProtocolError);
        break;
      case ParseOutcome::kTooLarge:
        counters_[ProxyCounter::kOversizedSkipped].add();
        reject(connection,
               "ERR command is too large: an argument has at most 65536 bytes, a command 131072 "
               "bytes and 8192 arguments");
        break;
      case ParseOutcome::kCommand:
        if (arguments_->size() > 0 && !execute(connection, now)) return Progress::kWaiting;
        break;
    }
    consumed += used;
    input.remove_prefix(used);
  }
}

/// An error before a command was even queued: it also spoils the transaction it was meant for.
void Proxy::reject(Connection& connection, std::string_view error) {
  answer_error(connection, error);
  if (connection.transaction.open()) connection.transaction.fail();
}

void Proxy::reject_arity(Connection& connection, const CommandInfo& command) {
  const std::string error =
      "wrong number of arguments for '" + std::string(command.name) + "' command";
  if (command.id != CommandId::kExec) {
    reject(connection, "ERR " + error);
    return;
  }
  connection.transaction.clear(chunks_);  // an EXEC ends the transaction, whatever is wrong with it
  answer_error(connection, "EXECABORT Transaction discarded because of: " + error);
}

void Proxy::reject_unknown(Connection& connection, const CommandInfo* container) {
  const auto until_zero = [](std::string_view text) { return text.substr(0, text.find('\0')); };
  std::string text;
  if (container != nullptr) {
    text = "ERR unknown subcommand '";
    text += until_zero((*arguments_)[1]).substr(0, 128);
    text += "'. Try ";
    for (char c : container->name) text += static_cast<char>(c - 'a' + 'A');
    text += " HELP.";
    reject(connection, text);
    return;
  }
  text = "ERR unknown command '";
  text += until_zero((*arguments_)[0]).substr(0, 128);
  text += "', with args beginning with: ";
  std::size_t shown = 0;
  for (std::uint32_t i = 1; i < arguments_->size() && shown < 128; ++i) {
    const std::string_view argument = until_zero((*arguments_)[i]).substr(0, 128 - shown);
    text += "'";
    text += argument;
    text += "' ";
    shown += argument.size() + 3;
  }
  reject(connection, text);
}

/// False when the connection must wait; the command is then looked at again.
bool Proxy::execute(Connection& connection, Nanos now) {
  const std::string_view name = (*arguments_)[0];
  const CommandInfo* command = find_command(name);
  if (command == nullptr) {
    reject_unknown(connection, nullptr);
    return true;
  }
  if (command->kind == CommandKind::kContainer && arguments_->size() > 1) {
    const CommandInfo* subcommand = find_subcommand(*command, (*arguments_)[1]);
    if (subcommand == nullptr) {
      reject_unknown(connection, command);
      return true;
    }
    command = subcommand;
  }
  connection.last_command = command;
  if (!arity_matches(*command, arguments_->size())) {
    reject_arity(connection, *command);
    return true;
  }
  return execute_known(connection, *command, now);
}

bool Proxy::execute_known(Connection& connection, const CommandInfo& command, Nanos now) {
  if (command.kind == CommandKind::kTransaction) {
    return control_transaction(connection, command, now);
  }
  if (command.id == CommandId::kQuit) {
    answer_ok(connection);
    close_after_replies(connection, ProxyCounter::kCloseQuit);
    return true;
  }
  if (connection.transaction.open()) {
    queue_command(connection, command);
    return true;
  }
  if (command.kind != CommandKind::kReplicated) {
    answer(connection, [&](RespWriter& writer) {
      local_.execute(command, arguments_->all(), connection, now, writer);
    });
    return true;
  }
  const std::string_view error = request_->prepare(command, arguments_->all());
  if (error.empty()) return submit_request(connection, now);
  answer_error(connection, error);
  return true;
}

bool Proxy::submit_request(Connection& connection, Nanos now) {
  std::uint32_t index = kNone;
  std::span<std::byte> body;
  const std::uint32_t bytes = request_->body_bytes();
  switch (submit(connection, request_->service(), request_->flags(), bytes, now, index, body)) {
    case SubmitOutcome::kAccepted:
      request_->encode(body);
      slots_[index].shape = request_->shape();
      return true;
    case SubmitOutcome::kTooLarge:
      answer_too_large(connection, bytes);
      return true;
    case SubmitOutcome::kSessionNotReady:  // refused for good
      answer_error(connection, kNotTaken);
      return true;
    default:
      return false;
  }
}

void Proxy::answer_too_large(Connection& connection, std::uint32_t bytes) {
  answer_error(connection, "ERR command is too large: " + std::to_string(bytes) +
                               " bytes for the cluster, at most " +
                               std::to_string(body_bytes_max_));
}

/// kSessionNotReady: the cluster had its time; the connection is to be told so.
SubmitOutcome Proxy::submit(Connection& connection, std::uint8_t service, std::uint8_t flags,
                            std::uint32_t body_bytes, Nanos now, std::uint32_t& index,
                            std::span<std::byte>& body) {
  if (body_bytes > body_bytes_max_) return SubmitOutcome::kTooLarge;
  index = take_slot(connection);
  if (index == kNone) return SubmitOutcome::kBusy;
  SubmitOutcome outcome = SubmitOutcome::kBusy;
  for (std::uint32_t tried = 0; tried < sessions_.size(); ++tried) {
    outcome = client_.submit(sessions_[session_], service, flags, body_bytes, index, now, body,
                             options_.deadline);
    if (outcome == SubmitOutcome::kAccepted) {
      append_slot(connection, index);
      counters_[ProxyCounter::kCommandsReplicated].add();
      connection.refuse_next = false;
      return outcome;
    }
    if (outcome == SubmitOutcome::kBusy || outcome == SubmitOutcome::kTooLarge) break;
    session_ = session_ + 1 == sessions_.size() ? 0 : session_ + 1;
  }
  give_back(index);
  if (outcome == SubmitOutcome::kTooLarge) return outcome;
  if (!connection.refuse_next && !cluster_silent_) return SubmitOutcome::kBusy;
  // Only one connection waits its full time; the others are told at once, until something answers.
  connection.refuse_next = false;
  cluster_silent_ = true;
  counters_[ProxyCounter::kNotAcceptedInTime].add();
  return SubmitOutcome::kSessionNotReady;
}

void Proxy::queue_command(Connection& connection, const CommandInfo& command) {
  Transaction& transaction = connection.transaction;
  if (command.traits & kNotInMulti) {
    reject(connection, "ERR Command not allowed inside a transaction");
    return;
  }
  bool queued = true;
  if (!transaction.failed()) {
    const bool sound = command.kind == CommandKind::kReplicated &&
                       request_->prepare(command, arguments_->all()).empty();
    const auto scratch = std::as_writable_bytes(std::span(scratch_));
    queued = sound ? transaction.add(chunks_, *request_, scratch, body_bytes_max_)
                   : transaction.add_local(chunks_, arguments_->all());
  }
  if (queued) {
    answer(connection, [](RespWriter& writer) { writer.raw("+QUEUED\r\n"); });
  } else {
    reject(connection, "ERR transaction is too large: its commands have at most " +
                           std::to_string(body_bytes_max_) + " bytes together");
  }
}

bool Proxy::control_transaction(Connection& connection, const CommandInfo& command, Nanos now) {
  Transaction& transaction = connection.transaction;
  if (command.id == CommandId::kMulti) {
    if (transaction.open()) {
      answer_error(connection, "ERR MULTI calls can not be nested");
    } else {
      transaction.begin();
      answer_ok(connection);
    }
  } else if (!transaction.open()) {
    answer_error(connection, command.id == CommandId::kExec ? "ERR EXEC without MULTI"
                                                            : "ERR DISCARD without MULTI");
  } else if (command.id == CommandId::kDiscard) {
    transaction.clear(chunks_);
    answer_ok(connection);
  } else if (transaction.failed()) {
    transaction.clear(chunks_);
    answer_error(connection, "EXECABORT Transaction discarded because of previous errors.");
  } else {
    return run_transaction(connection, now);
  }
  return true;
}

bool Proxy::run_transaction(Connection& connection, Nanos now) {
  Transaction& transaction = connection.transaction;
  if (!transaction.any_replicated()) {
    ByteChain notes = transaction.take_notes();
    transaction.clear(chunks_);
    const std::span<char> flat(scratch_.data(), notes.bytes());
    notes.copy_to(flat.data());
    notes.clear(chunks_);
    InTransaction local(*this, connection, now);
    answer(connection, [&](RespWriter& writer) {
      render_transaction(flat, CommandStatus::kOk, {}, local, writer);
    });
    return true;
  }
  std::uint32_t index = kNone;
  std::span<std::byte> body;
  const std::uint32_t bytes = transaction.body_bytes();
  switch (submit(connection, statemachine::kSystemService, transaction.flags(), bytes, now, index,
                 body)) {
    case SubmitOutcome::kAccepted:
      transaction.encode(body);
      slots_[index].shape = ReplyShape::kTransaction;
      slots_[index].bytes = transaction.take_notes();
      transaction.clear(chunks_);
      counters_[ProxyCounter::kTransactions].add();
      return true;
    case SubmitOutcome::kTooLarge:
      transaction.clear(chunks_);
      answer_too_large(connection, bytes);
      return true;
    case SubmitOutcome::kSessionNotReady:
      transaction.clear(chunks_);
      answer_error(connection, kNotTaken);
      return true;
    default:
      return false;
  }
}

void Proxy::on_completions(std::span<const Completion> completions, Nanos now) {
  for (const Completion& completion : completions) complete(completion, now);
}

void Proxy::complete(const Completion& completion, Nanos now) {
  const auto index = static_cast<std::uint32_t>(completion.tag);
  Slot& slot = slots_[index];
  if (completion.status != CommandStatus::kOk && completion.status != CommandStatus::kNotFound &&
      completion.status != CommandStatus::kRefused) {
    counters_[ProxyCounter::kErrorReplies].add();
  }
  if (completion.status != CommandStatus::kOutcomeUnknown) cluster_silent_ = false;
  if (slot.connection == kNone) {  // its client is gone
    give_back(index);
    return;
  }
  Connection& connection = connections_[slot.connection];
  const auto bytes = static_cast<std::uint32_t>(completion.reply.size()) + 16;
  connection.reply_bytes_expected =
      std::max(bytes, connection.reply_bytes_expected - connection.reply_bytes_expected / 16);
  if (connection.slots_first == index) {
    RespWriter writer(connection.out, chunks_, slot.resp3);
    render(connection, slot, completion, now, writer);
    pop_slot(connection);
    deliver_done(connection);
    check_output(connection, writer);
    mark_dirty(connection);
  } else {
    counters_[ProxyCounter::kRepliesOutOfOrder].add();
    RespWriter writer(scratch_reply_, chunks_, slot.resp3);
    render(connection, slot, completion, now, writer);
    keep_reply(slot, scratch_reply_);
    check_output(connection, writer);
  }
}

void Proxy::render(Connection& connection, Slot& slot, const Completion& completion, Nanos now,
                   RespWriter& writer) {
  if (slot.shape != ReplyShape::kTransaction) {
    render_reply(slot.shape, completion.status, completion.reply, writer);
    return;
  }
  const std::span<char> flat(scratch_.data(), slot.bytes.bytes());
  slot.bytes.copy_to(flat.data());
  slot.bytes.clear(chunks_);
  InTransaction local(*this, connection, now);
  render_transaction(flat, completion.status, completion.reply, local, writer);
}

/// Replies that were waiting for the one just delivered.
void Proxy::deliver_done(Connection& connection) {
  while (connection.slots_first != kNone && slots_[connection.slots_first].done) {
    Slot& slot = slots_[connection.slots_first];
    const bool fits = slot.short_bytes > 0
                          ? connection.out.append(chunks_, {slot.short_reply, slot.short_bytes})
                          : connection.out.take(chunks_, slot.bytes);
    if (!fits) abort(connection, ProxyCounter::kCloseNoMemory);
    pop_slot(connection);
  }
}

}  // namespace annulus::proxy
