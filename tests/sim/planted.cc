#include "tests/sim/planted.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "dataplane/defect.h"
#include "tests/sim/run.h"

namespace annulus::sim {
namespace {

constexpr auto kDefects = static_cast<std::size_t>(Defect::kCount);

/// The lowest seed that finds each defect; kept up to date from what `--planted` prints.
struct Found {
  Defect defect;
  std::uint64_t seed;
};
constexpr Found kRecorded[] = {
    {Defect::kLearnerTakesLatestValue, 7}, {Defect::kAcceptorVotesWithoutValue, 1},
    {Defect::kAcceptorForgetsPromise, 6},  {Defect::kQuorumOneTooFew, 1},
    {Defect::kBallotNotUnique, 1},         {Defect::kDecisionAcrossBallots, 1},
    {Defect::kPhase1MinorityEnough, 1},    {Defect::kPhase1ForgetsAccepted, 1},
    {Defect::kSessionKeepsMaximum, 1},     {Defect::kDuplicateExecuted, 2},
    {Defect::kReplyBeforePrefix, 1},       {Defect::kSkipUndecidedMask, 22},
    {Defect::kReplicaSkipsWrite, 1},       {Defect::kReadsInSessionTable, 1},
    {Defect::kFloorRaisedAtSubmission, 1}, {Defect::kCachedReplyOfNeighbour, 20},
    {Defect::kRepliesBySubstitute, 1},     {Defect::kChecksumIgnored, 3},
};

/// What the run says about the seed; a defect may also trip a CHECK or worse, so it runs in a
/// child.
std::string run_in_child(Defect defect, std::uint64_t seed) {
  int ends[2];
  if (pipe(ends) != 0) return "pipe() failed";
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);
    planted_defect = defect;
    RunOptions options;
    options.seed = seed;
    const std::string failure = run_seed(options).failure;
    const std::size_t line = std::min(failure.find('\n'), failure.size());
    if (write(ends[1], failure.data(), line) < 0) _exit(2);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t bytes; (bytes = read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(bytes));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) text = "crash: " + text;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

void print(Defect defect, std::uint64_t seed, const std::string& how) {
  std::printf("%-30s seed %-4llu %s\n", kDefectNames[static_cast<std::size_t>(defect)],
              static_cast<unsigned long long>(seed), how.substr(0, 150).c_str());
  std::fflush(stdout);
}

}  // namespace

bool find_planted(const char* only, std::uint64_t seeds_max) {
  std::uint32_t wanted = 0;
  std::uint32_t found = 0;
  for (std::size_t i = 1; i < kDefects; ++i) {
    if (only != nullptr && std::strcmp(only, kDefectNames[i]) != 0) continue;
    ++wanted;
    const auto defect = static_cast<Defect>(i);
    std::string how;
    std::uint64_t seed = 0;
    while (how.empty() && seed < seeds_max) how = run_in_child(defect, ++seed);
    found += !how.empty();
    print(defect, seed, how.empty() ? "NOT FOUND" : how);
  }
  std::printf("%u of %u planted defects found within %llu seeds each\n", found, wanted,
              static_cast<unsigned long long>(seeds_max));
  return wanted != 0 && found == wanted;
}

bool replay_planted() {
  bool good = true;
  for (const Found& one : kRecorded) {
    const std::string with = run_in_child(one.defect, one.seed);
    const std::string without = run_in_child(Defect::kNone, one.seed);
    print(one.defect, one.seed, with.empty() ? "NOT FOUND" : with);
    if (!without.empty()) print(Defect::kNone, one.seed, without);
    good &= !with.empty() && without.empty();
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
