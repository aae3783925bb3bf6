// Is there one order of all commands, within their real-time intervals, that explains every reply?
// Two checkers that know nothing of the cluster but its clients' histories and, for the second, an
// order that is claimed to be a witness.
//
// search_order() looks for any order (Wing and Gong's search, with the memory that Lowe added):
// complete, but exponential in the worst case; for short histories.
// check_witness() verifies one order, in linear time; for the long histories of a run.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dataplane/clock.h"
#include "tools/history/model.h"

namespace annulus::history {

/// One command as its client saw it.
struct Operation {
  std::uint64_t id = 0;  // unique in the history; names the operation in a witness
  Nanos invoked = 0;
  Nanos returned = kNever;  // kNever: outcome unknown. It may take effect at any later time, or not
  std::uint8_t service = 0;
  std::string body;
  Outcome outcome;          // meaningful when it returned,
  bool reply_known = true;  // and not when its client learned only that it was executed
};

enum class Verdict : std::uint8_t { kLinearizable, kNotLinearizable, kGaveUp };

/// Searches for an order of `history`, starting from an empty model, in at most `steps_max` steps.
Verdict search_order(std::span<const Operation> history, std::uint64_t steps_max,
                     std::uint32_t reply_bytes_max = 64 * 1024);

/// Splits a history into parts that touch disjoint keys: linearizable iff each part is.
std::vector<std::vector<Operation>> independent_parts(std::span<const Operation> history);

/// An operation's place in the witness. `latest` is the latest moment at which the place can have
/// been taken: no place below it was taken later than that.
struct Placed {
  std::uint64_t operation = 0;  // Operation::id
  Nanos latest = 0;
};

/// Verifies that executing `order` explains every reply, and that each operation's place was taken
/// within its interval. One that changes nothing may be placed more than once, and may be explained
/// by any state from its place on that was reached before it returned. Returns what is wrong in
/// words, or nothing.
std::string check_witness(std::span<const Operation> history, std::span<const Placed> order,
                          std::uint32_t reply_bytes_max = 64 * 1024);

/// One line for a failure report.
std::string describe(const Operation& operation);

}  // namespace annulus::history
