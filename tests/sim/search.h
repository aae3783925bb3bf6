// Looking for failures, and for what causes one.
#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/run.h"

namespace annulus::sim {

/// Random seeds, each with a random mix of faults, for so long. True if none failed.
bool swarm(double minutes);

/// Leaves out faults of a failing run as long as it still fails in the same way, and tells what
/// happens in what is left. False if the run does not fail.
bool shrink(const RunOptions& options);

/// The command that runs it again.
std::string replay_command(const RunOptions& options);

}  // namespace annulus::sim
