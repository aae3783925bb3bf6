// Proof that the checkers can fail: every defect planted in production code (dataplane/defect.h)
// must be found within a number of seeds.
#pragma once

#include <cstdint>

namespace annulus::sim {

/// Searches seeds 1, 2, … for each defect, or for the one named, and prints which found it and how.
/// True if all were found within `seeds_max`.
bool find_planted(const char* only, std::uint64_t seeds_max);

/// Runs each defect with the seed recorded for it, and that seed without it. True if every run with
/// a defect fails and every one without passes.
bool replay_planted();

}  // namespace annulus::sim
