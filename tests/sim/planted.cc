#include "tests/sim/planted.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "dataplane/defect.h"
#include "tests/sim/child.h"
#include "tests/sim/search.h"

namespace annulus::sim {
namespace {

constexpr auto kDefects = static_cast<std::size_t>(Defect::kCount);

/// The lowest seed that finds each defect; kept up to date from what `--planted` prints.
struct Found {
  Defect defect;
  std::uint64_t seed;
};
constexpr Found kRecorded[] = {
    {Defect::kLearnerTakesLatestValue, 9},
    {Defect::kAcceptorVotesWithoutValue, 1},
    {Defect::kAcceptorForgetsPromise, 4},
    {Defect::kQuorumOneTooFew, 1},
    {Defect::kBallotNotUnique, 1},
    {Defect::kDecisionAcrossBallots, 4},
    {Defect::kPhase1MinorityEnough, 2},
    {Defect::kPhase1ForgetsAccepted, 1},
    {Defect::kSessionKeepsMaximum, 3},
    {Defect::kDuplicateExecuted, 1},
    {Defect::kReplyBeforePrefix, 1},
    {Defect::kSkipUndecidedMask, 50},
    {Defect::kReplicaSkipsWrite, 1},
    {Defect::kReadsInSessionTable, 1},
    {Defect::kFloorRaisedAtSubmission, 6},
    {Defect::kCachedReplyOfNeighbour, 1},
    {Defect::kRepliesBySubstitute, 1},
    {Defect::kChecksumIgnored, 3},
    {Defect::kHoleTakesCommand, 6},
    {Defect::kPhase1TakesLowest, 17},
    {Defect::kPhase1ForgetsOwn, 9},
    {Defect::kFragmentOfAnyValue, 28},
    {Defect::kPulledTakenAsDecided, 2},
    {Defect::kStaleExecuted, 11},
    {Defect::kExpiryIgnoresActivity, 8},
    {Defect::kReadAnsweredUnordered, 1},
    {Defect::kReplyPartsMixed, 15},
    {Defect::kRefusalBelieved, 1},
    {Defect::kAmnesiacVotes, 1},
    {Defect::kProposesPastChange, 1},
    {Defect::kOtherEpochVotes, 5},
    {Defect::kUnsettledVotes, 1},
    {Defect::kChangeKeepsBallot, 1},
    {Defect::kConfigurationNotKept, 3},
    {Defect::kTrailingOutrun, 540},
    {Defect::kVoteBeforeWrite, 2},
    {Defect::kPromiseNotKept, 1},
    {Defect::kLogChecksumIgnored, 2},
    {Defect::kLogCutAtDamage, 5},
    {Defect::kLaterWriteVouches, 1},
    {Defect::kDiskErrorIgnored, 1},
    {Defect::kDamageDenied, 274},
    {Defect::kSessionsNotCopied, 6},
    {Defect::kImageTorn, 27},
    {Defect::kImageOffByOne, 6},
    {Defect::kHalfImageInstalled, 6},
    {Defect::kWireVersionIgnored, 3},
    {Defect::kRemovedVotes, 5},
    {Defect::kHalfEnough, 5},
};

void print(Defect defect, std::uint64_t seed, const std::string& how) {
  std::printf("%-30s seed %-4llu %s\n", kDefectNames[static_cast<std::size_t>(defect)],
              static_cast<unsigned long long>(seed), how.substr(0, 150).c_str());
  std::fflush(stdout);
}

/// What runs without a defect did: many defects share a seed.
class CleanRuns {
 public:
  const std::string& outcome(const RunOptions& options) {
    const auto [at, fresh] = outcomes_.try_emplace({options.seed, options.schedule});
    if (fresh) at->second = outcome_in_child(options);
    return at->second;
  }

 private:
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> outcomes_;
};

/// Found by this run, and only because of the defect.
bool finds(const RunOptions& options, Defect defect, CleanRuns& clean, std::string& how) {
  how = outcome_in_child(options, defect);
  if (how.empty()) return false;
  const std::string& without = clean.outcome(options);
  if (!without.empty()) {
    std::printf("%s fails without a defect: %s\n", replay_command(options).c_str(),
                without.substr(0, 150).c_str());
  }
  return without.empty();
}

/// The first neighbour of `run` that finds the defect too, into `run`; false if none does.
bool find_neighbour(RunOptions& run, Defect defect, CleanRuns& clean, std::string& how) {
  for (run.schedule = 1; run.schedule <= kNeighbours; ++run.schedule) {
    if (finds(run, defect, clean, how)) return true;
  }
  return false;
}

bool replay_one(const Found& one, CleanRuns& clean) {
  std::string how;
  RunOptions run{.seed = one.seed};
  const bool found = finds(run, one.defect, clean, how);
  print(one.defect, one.seed, how.empty() ? "NOT FOUND" : how);
  if (!found) return false;
  const bool again = find_neighbour(run, one.defect, clean, how);
  std::printf("%-30s neighbour %llu %s\n", "", static_cast<unsigned long long>(run.schedule),
              again ? how.substr(0, 150).c_str() : "DOES NOT EXIST: none finds it");
  std::fflush(stdout);
  return again;
}

}  // namespace

bool find_planted(const char* only, std::uint64_t seeds_max) {
  std::uint32_t wanted = 0;
  std::uint32_t found = 0;
  for (std::size_t i = 1; i < kDefects; ++i) {
    if (only != nullptr && std::strcmp(only, kDefectNames[i]) != 0) continue;
    ++wanted;
    const auto defect = static_cast<Defect>(i);
    CleanRuns clean;
    std::string how;
    std::string again;
    std::uint64_t seed = 0;
    for (bool good = false; !good && seed < seeds_max;) {
      RunOptions run{.seed = ++seed};
      how.clear();
      good = finds(run, defect, clean, how) && find_neighbour(run, defect, clean, again);
      if (!good) how.clear();
    }
    found += !how.empty();
    print(defect, seed, how.empty() ? "NOT FOUND" : how);
  }
  std::printf("%u of %u planted defects found within %llu seeds each\n", found, wanted,
              static_cast<unsigned long long>(seeds_max));
  return wanted != 0 && found == wanted;
}

bool replay_planted(std::uint64_t part, std::uint64_t parts) {
  bool good = true;
  CleanRuns clean;
  for (const Found& one : kRecorded) {
    if (static_cast<std::uint64_t>(one.defect) % parts != part % parts) continue;
    good &= replay_one(one, clean);
  }
  // A defect without a recorded seed is one that nobody has shown to be found.
  for (std::size_t i = 1; i < kDefects; ++i) {
    const bool recorded =
        std::any_of(std::begin(kRecorded), std::end(kRecorded),
                    [&](const Found& one) { return static_cast<std::size_t>(one.defect) == i; });
    if (!recorded) std::printf("%-30s has no recorded seed\n", kDefectNames[i]);
    good &= recorded;
  }
  return good;
}

}  // namespace annulus::sim
