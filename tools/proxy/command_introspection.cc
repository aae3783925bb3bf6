// COMMAND, COMMAND COUNT, DOCS, INFO and LIST: the command table as Redis reports its own.
#include <string>
#include <vector>

#include "tools/proxy/local_commands.h"

namespace annulus::proxy {
namespace {

std::vector<const CommandInfo*> subcommands_of(const CommandInfo& container) {
  std::vector<const CommandInfo*> found;
  const std::string prefix = std::string(container.name) + "|";
  for (const CommandInfo& command : all_commands()) {
    if (command.name.starts_with(prefix)) found.push_back(&command);
  }
  return found;
}

std::uint64_t count_commands() {
  std::uint64_t count = 0;
  for (const CommandInfo& command : all_commands()) count += is_subcommand(command) ? 0 : 1;
  return count;
}

void write_info(const CommandInfo& command, RespWriter& writer) {
  writer.array(10);
  writer.bulk(command.name);
  writer.integer(command.arity);
  std::vector<std::string_view> flags;
  if (command.traits & kWrites) flags.push_back("write");
  if (command.traits & kReads) flags.push_back("readonly");
  if (command.traits & kDenyOom) flags.push_back("denyoom");
  if (command.traits & kFast) flags.push_back("fast");
  if (command.traits & kNotInMulti) flags.push_back("no_multi");
  writer.set(flags.size());
  for (std::string_view flag : flags) writer.simple(flag);
  writer.integer(command.first_key);
  writer.integer(command.last_key);
  writer.integer(command.key_step);
  writer.set(1);  // access categories
  writer.simple(std::string("@") + std::string(command.group));
  writer.array(0);  // tips
  writer.array(0);  // key specifications
  const auto subcommands = subcommands_of(command);
  writer.array(subcommands.size());
  for (const CommandInfo* subcommand : subcommands) write_info(*subcommand, writer);
}

void write_docs(const CommandInfo& command, RespWriter& writer) {
  const auto subcommands = subcommands_of(command);
  writer.bulk(command.name);
  writer.map(subcommands.empty() ? 3 : 4);
  writer.bulk("summary");
  writer.bulk(command.summary);
  writer.bulk("since");
  writer.bulk(command.since);
  writer.bulk("group");
  writer.bulk(command.group);
  if (subcommands.empty()) return;
  writer.bulk("subcommands");
  writer.map(subcommands.size());
  for (const CommandInfo* subcommand : subcommands) write_docs(*subcommand, writer);
}

/// A command by name, or a subcommand by "container|name".
const CommandInfo* find_any(std::string_view name) {
  const std::size_t bar = name.find('|');
  if (bar == std::string_view::npos) return find_command(name);
  const CommandInfo* container = find_command(name.substr(0, bar));
  return container == nullptr ? nullptr : find_subcommand(*container, name.substr(bar + 1));
}

void write_all_info(RespWriter& writer) {
  writer.array(count_commands());
  for (const CommandInfo& command : all_commands()) {
    if (!is_subcommand(command)) write_info(command, writer);
  }
}

}  // namespace

void command_introspection(const CommandInfo& command, std::span<const std::string_view> arguments,
                           RespWriter& writer) {
  const auto named = arguments.subspan(std::min<std::size_t>(arguments.size(), 2));
  switch (command.id) {
    case CommandId::kCommandCount:
      return writer.integer(static_cast<std::int64_t>(count_commands()));
    case CommandId::kCommandList:
      if (!named.empty()) return writer.error("ERR syntax error");
      writer.array(count_commands());
      for (const CommandInfo& each : all_commands()) {
        if (!is_subcommand(each)) writer.bulk(each.name);
      }
      return;
    case CommandId::kCommandInfo:
      if (named.empty()) return write_all_info(writer);
      writer.array(named.size());
      for (std::string_view name : named) {
        const CommandInfo* found = find_any(name);
        found == nullptr ? writer.null() : write_info(*found, writer);
      }
      return;
    case CommandId::kCommandDocs: {
      std::vector<const CommandInfo*> found;
      for (const CommandInfo& each : all_commands()) {
        if (named.empty() && !is_subcommand(each)) found.push_back(&each);
      }
      for (std::string_view name : named) {
        if (const CommandInfo* each = find_any(name)) found.push_back(each);
      }
      writer.map(found.size());
      for (const CommandInfo* each : found) write_docs(*each, writer);
      return;
    }
    default:
      return write_all_info(writer);
  }
}

}  // namespace annulus::proxy
