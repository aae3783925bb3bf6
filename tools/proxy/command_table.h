// The commands the proxy knows: names, arities, and what COMMAND says of them. One row a command,
// subcommands as rows of their own ("client|id").
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace annulus::proxy {

enum class CommandId : std::uint8_t {
  kPing,
  kEcho,
  kHello,
  kAuth,
  kSelect,
  kQuit,
  kClient,
  kClientId,
  kClientGetName,
  kClientSetName,
  kClientSetInfo,
  kClientList,
  kClientInfo,
  kClientNoEvict,
  kClientNoTouch,
  kCommand,
  kCommandCount,
  kCommandDocs,
  kCommandInfo,
  kCommandList,
  kConfig,
  kConfigGet,
  kInfo,
  kMulti,
  kExec,
  kDiscard,
  kDbSize,
  kFlushAll,
  kFlushDb,
  kGet,
  kSet,
  kSetNx,
  kGetSet,
  kGetDel,
  kDel,
  kExists,
  kMget,
  kMset,
  kMsetNx,
  kIncr,
  kDecr,
  kIncrBy,
  kDecrBy,
  kAppend,
  kStrlen,
  kSetRange,
  kGetRange,
  kBtInsert,
  kBtDelete,
  kBtRange,
  kBtCount,
};

enum class CommandKind : std::uint8_t {
  kLocal,        // answered by the proxy itself
  kContainer,    // has subcommands
  kTransaction,  // MULTI, EXEC, DISCARD
  kReplicated,   // ordered and executed by the cluster
};

/// As COMMAND reports them.
enum CommandTrait : std::uint8_t {
  kWrites = 1,
  kReads = 2,
  kDenyOom = 4,
  kFast = 8,
  kNotInMulti = 16,
};

struct CommandInfo {
  CommandId id;
  CommandKind kind;
  std::string_view name;  // lower case, as error texts quote it
  std::int8_t arity;      // with the name; negative: at least
  std::uint8_t traits;    // of CommandTrait
  std::int8_t first_key;  // 0: none
  std::int8_t last_key;   // from the end when negative
  std::int8_t key_step;
  std::string_view since;  // the Redis release, or Annulus' own
  std::string_view group;
  std::string_view summary;
};

/// Every command, then every subcommand.
std::span<const CommandInfo> all_commands();
bool is_subcommand(const CommandInfo& command);

/// The command of that name in any case, or null. Not for subcommands.
const CommandInfo* find_command(std::string_view name);
/// The subcommand of a container, or null.
const CommandInfo* find_subcommand(const CommandInfo& container, std::string_view name);

inline bool arity_matches(const CommandInfo& command, std::uint32_t arguments) {
  return command.arity >= 0 ? arguments == static_cast<std::uint32_t>(command.arity)
                            : arguments >= static_cast<std::uint32_t>(-command.arity);
}

/// ASCII, case folded, as Redis compares names and options.
bool equals_ignoring_case(std::string_view a, std::string_view b);

}  // namespace annulus::proxy
