#include "tests/sim/replay.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "statemachine/batch.h"

namespace annulus::sim {

using statemachine::BatchHeader;
using statemachine::CloseSession;
using statemachine::CommandHeader;
using statemachine::SystemCommand;

Replay::Replay(const History& history,
               const std::map<std::uint64_t, std::uint32_t>& client_of_epoch, Failure& failure)
    : history_(history), client_of_epoch_(client_of_epoch), failure_(failure) {
  for (const Recorded& recorded : history.operations) {
    Operation operation = recorded.operation;
    // Its session was gone: it must not be executed, which run_command() sees to.
    if (operation.returned != kNever && operation.outcome.status == CommandStatus::kStaleSequence) {
      failure.set("T9: below its session's floor, though its client waits for it: " +
                  describe(operation));
    }
    if (operation.outcome.status == CommandStatus::kNoSuchSession ||
        operation.outcome.status == CommandStatus::kStaleSequence) {
      operation.returned = kNever;
    }
    operations_.push_back(std::move(operation));
  }
}

bool Replay::Command::system() const {
  return service == statemachine::kSystemService &&
         (body.empty() || body[0] != static_cast<char>(SystemCommand::kAtomic));
}

void Replay::run(const std::vector<ProtocolChecker::Chosen>& order) {
  for (const ProtocolChecker::Chosen& value : order) {
    if (!value.known) continue;
    for (const Command& command : commands_of(value)) find_log(command);
  }
  match_unnamed_sessions(order);
  give_up_unnamed_sessions();
  for (std::uint64_t i = 0; i < order.size() && !failure_.failed(); ++i) {
    if (order[i].known) run_value(i, order[i]);
  }
}

std::vector<Replay::Command> Replay::commands_of(const ProtocolChecker::Chosen& value) const {
  std::vector<Command> commands;
  BatchHeader header;
  if (value.bytes.size() < sizeof header) return commands;
  std::memcpy(&header, value.bytes.data(), sizeof header);
  if (header.version != statemachine::kBatchVersion) return commands;
  std::size_t at = sizeof header;
  for (std::uint32_t i = 0; i < header.count; ++i) {
    CommandHeader wire;
    CHECK(at + sizeof wire <= value.bytes.size());
    std::memcpy(&wire, value.bytes.data() + at, sizeof wire);
    commands.push_back({wire.session, wire.sequence, wire.acked_distance, wire.service, wire.flags,
                        value.bytes.substr(at + sizeof wire, wire.bytes)});
    at += statemachine::command_bytes(wire.bytes);
  }
  return commands;
}

void Replay::run_value(std::uint64_t instance, const ProtocolChecker::Chosen& value) {
  const auto client = client_of_epoch_.find(value.value.id.epoch);
  for (const Command& command : commands_of(value)) {
    if (command.system()) {
      run_system(instance, command);
    } else if (client == client_of_epoch_.end()) {
      failure_.set("integrity: a command from nobody at instance " + std::to_string(instance));
    } else {
      run_command(client->second, instance, command, value.first_delivered);
    }
  }
}

void Replay::run_system(std::uint64_t instance, const Command& command) {
  const auto kind = static_cast<SystemCommand>(command.body[0]);
  if (kind == SystemCommand::kKeepAlive) {
    sessions_[command.session].last_activity = instance;
  } else if (kind == SystemCommand::kCloseSession || kind == SystemCommand::kExpireSession) {
    CloseSession close;
    CHECK(command.body.size() == sizeof close);
    std::memcpy(&close, command.body.data(), sizeof close);
    Session& session = sessions_[close.session];
    session.closed |= kind == SystemCommand::kCloseSession ||
                      session.last_activity == 0 ||  // opened and never used
                      session.last_activity == close.last_activity;
  }
}

/// A written value names its writer, and so the log that a session's commands belong to.
void Replay::find_log(const Command& command) {
  if (command.system() || (command.flags & statemachine::kReadOnly) != 0) return;
  Session& session = sessions_[command.session];
  if (session.log != kUnknownLog) return;
  const std::size_t dot = command.body.find('.', command.body.find('<'));
  if (dot == std::string::npos) return;
  const std::uint64_t writer = std::strtoull(command.body.c_str() + dot + 1, nullptr, 10);
  if (writer == 0 || writer > history_.writers.size() || history_.writers[writer - 1] == 0) return;
  session.log = history_.operations[history_.writers[writer - 1] - 1].log;
}

/// The write that names a session's writer may be lost, and only one that does not be ordered: then
/// the log is the one of this client that has the very same commands, if there is just one.
void Replay::match_unnamed_sessions(const std::vector<ProtocolChecker::Chosen>& order) {
  std::map<std::uint64_t, std::set<std::uint64_t>> candidates;  // logs, by session
  std::set<std::uint64_t> named;
  for (const auto& [id, session] : sessions_) named.insert(session.log);
  const auto matches = [&](std::uint64_t log, std::uint32_t client, const Command& command) {
    const SessionLog& of = history_.sessions[log];
    return of.client == client && command.sequence - 1 < of.operations.size() &&
           operations_[of.operations[command.sequence - 1] - 1].body == command.body;
  };
  for (const ProtocolChecker::Chosen& value : order) {
    const auto client = client_of_epoch_.find(value.value.id.epoch);
    if (!value.known || client == client_of_epoch_.end()) continue;
    for (const Command& command : commands_of(value)) {
      if (command.system() || sessions_[command.session].log != kUnknownLog) continue;
      const auto [logs, fresh] = candidates.try_emplace(command.session);
      for (std::uint64_t log = 0; fresh && log < history_.sessions.size(); ++log) {
        if (!named.contains(log)) logs->second.insert(log);
      }
      std::erase_if(logs->second,
                    [&](std::uint64_t log) { return !matches(log, client->second, command); });
    }
  }
  for (const auto& [session, logs] : candidates) {
    if (logs.size() == 1) sessions_[session].log = *logs.begin();
  }
}

/// A session of which no write was ever ordered cannot be told from others. It changed nothing:
/// what it read stays unjudged.
void Replay::give_up_unnamed_sessions() {
  std::set<std::uint64_t> named;
  for (const auto& [id, session] : sessions_) named.insert(session.log);
  for (const Recorded& recorded : history_.operations) {
    if (named.contains(recorded.log) || !recorded.read_only) continue;
    operations_[recorded.operation.id - 1].returned = kNever;
    ++unjudged_;
  }
}

void Replay::run_command(std::uint32_t client, std::uint64_t instance, const Command& command,
                         Nanos delivered) {
  Session& session = sessions_[command.session];
  if (session.log == kUnknownLog) return;
  const SessionLog& log = history_.sessions[session.log];
  if (log.client != client || command.sequence == 0 || command.sequence > log.operations.size() ||
      operations_[log.operations[command.sequence - 1] - 1].body != command.body) {
    return failure_.set("integrity: not what was sent: client " + std::to_string(client) +
                        ", session " + std::to_string(command.session) + ", sequence " +
                        std::to_string(command.sequence) + " at instance " +
                        std::to_string(instance));
  }
  const std::uint64_t id = log.operations[command.sequence - 1];
  if ((command.flags & statemachine::kReadOnly) != 0) {
    if (!reads_seen_.insert(id).second) ++repeated_reads_;
    placed_.push_back({id, delivered});
    return;
  }
  if (session.closed) {
    ++after_close_;
    return;
  }
  session.floor = std::max(session.floor,
                           command.sequence - std::min(command.acked_distance, command.sequence));
  if (command.sequence < session.floor) {
    ++stale_;
  } else if (!session.executed.insert(command.sequence).second) {
    ++duplicates_;
  } else {
    if (operations_[id - 1].outcome.status == CommandStatus::kNoSuchSession) {
      failure_.set("T9: executed at instance " + std::to_string(instance) +
                   ", though its client was told that the session was gone: " +
                   describe(operations_[id - 1]));
    }
    session.last_activity = instance;
    placed_.push_back({id, delivered});
  }
}

}  // namespace annulus::sim
