// What the nodes' telemetry says of them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace annulus::chaos {

struct Reading {
  pid_t pid = 0;
  std::uint64_t accepted = 0;       // proposals, by an acceptor
  std::uint64_t elections_won = 0;  // by an acceptor
  std::uint64_t executed = 0;       // the last instance, by a replica
};
/// Nothing when the node does not answer.
std::optional<Reading> read_node(const std::string& directory, const std::string& name);

}  // namespace annulus::chaos
