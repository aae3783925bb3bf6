// Proof that the checkers can fail: every defect planted in production code (dataplane/defect.h)
// must be found within a number of seeds.
#pragma once

#include <cstdint>

namespace annulus::sim {

/// Searches seeds 1, 2, … for each defect, or for the one named, and prints the first that finds it
/// and has a neighbour that does too, and how.
/// True if all were found within `seeds_max`.
bool find_planted(const char* only, std::uint64_t seeds_max);

/// Neighbours of a recorded seed: the same cluster, load and faults, other schedules.
constexpr std::uint64_t kNeighbours = 20;

/// Of the defects those whose number leaves `part` divided by `parts`. For each:
/// - the recorded seed must find it, and so must one of its neighbours: what only a single order of
///   polls shows was met by luck, and the next change of anything would lose it. They are tried one
///   after another, up to the first: most of the time that is the first or second of the twenty;
/// - both runs must pass without the defect: as runs are the same twice, only the defect can then
///   have made them fail.
/// A neighbour is not the next seed: that has other faults, and of rare ones twenty seeds may have
/// none. True if all that holds, and every defect has a recorded seed.
bool replay_planted(std::uint64_t part = 0, std::uint64_t parts = 1);

}  // namespace annulus::sim
