// The one seam for planted bugs. `if (DEFECT(kName))` inside a role is constant false in every
// production object; the simulator compiles the same sources with ANNULUS_SIMULATION and selects at
// most one defect at a time, to prove that its checkers find it (tests/sim/planted.cc).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace annulus {

/// Each breaks one rule of the protocol at one place. The comment says which.
enum class Defect : std::uint8_t {
  kNone,
  kLearnerTakesLatestValue,    // T6: delivers the newest value held, not the decided ballot's
  kAcceptorVotesWithoutValue,  // forwards a Phase 2B although a fragment of the value is missing
  kAcceptorForgetsPromise,     // accepts a Phase 2A below the promised ballot
  kQuorumOneTooFew,            // the coordinator decides with one vote less than a majority
  kBallotNotUnique,            // T2: two coordinators make the same ballot
  kDecisionAcrossBallots,      // the watermark of one ballot decides values of another
  kPhase1MinorityEnough,       // a new coordinator starts after a minority of promises
  kPhase1ForgetsAccepted,      // an acceptor promises without telling what it accepted
  kSessionKeepsMaximum,        // T9: dedupe by the highest sequence seen of a session
  kDuplicateExecuted,          // a retransmitted command is executed again
  kReplyBeforePrefix,          // delivers an instance although a lower one is missing
  kSkipUndecidedMask,          // skips by the mask of a Phase 2A that is not decided
  kReplicaSkipsWrite,          // under pressure a replica drops a delivered value
  kReadsInSessionTable,        // T10: read-only commands change replicated session state
  kFloorRaisedAtSubmission,    // T9: the client reports commands as answered when it sends them
  kCachedReplyOfNeighbour,     // a duplicate gets the cached reply of the session's last command
  kRepliesBySubstitute,        // the answer to a query is executed now, not looked up
  kChecksumIgnored,            // a frame with a wrong checksum is let through
  kHoleTakesCommand,           // T7: a hole below the top accepted instance is given to a client
  kPhase1TakesLowest,          // Phase 1 recovers the value of the lowest ballot
  kPhase1ForgetsOwn,           // a new coordinator leaves out what its own acceptor accepted
  kFragmentOfAnyValue,         // a fragment is taken from any value proposed at the instance
  kPulledTakenAsDecided,       // a learner takes a pulled value that is not known to be decided
  kStaleExecuted,              // T9: a command below its session's floor is executed
  kExpiryIgnoresActivity,      // a session that was used since is expired
  kReadAnsweredUnordered,      // a query for a read is answered before the read is ordered
  kReplyPartsMixed,            // T8: frames of two replies to one value are put together
  kRefusalBelieved,            // a repeated command refused is reported as not executed
  kAmnesiacVotes,              // T5: an acceptor that lost its memory goes on as who it was
  kProposesPastChange,         // T5b: proposes past a change of members that is not decided
  kOtherEpochVotes,            // T5b: votes, promises count from nodes of another configuration
  kUnsettledVotes,             // T5b: takes part before it holds what was decided earlier
  kChangeKeepsBallot,          // T5b: goes on under new members without Phase 1 among them
  kConfigurationNotKept,       // T5b: acts under a configuration that its log does not have
  kTrailingOutrun,             // a slow learner is not waited for before the acceptors forget
  kVoteBeforeWrite,            // T5: a vote is cast before the log has what was voted for
  kPromiseNotKept,             // T5: a promise is told without being given to the log
  kLogChecksumIgnored,         // a torn block of the log is taken for whole
  kLogCutAtDamage,             // a log is cut at a damaged block below its tail
  kLaterWriteVouches,          // a write that is done stands for those begun before it
  kDiskErrorIgnored,           // an acceptor whose write failed goes on
  kDamageDenied,               // a promise does not tell what a damaged log may have lost
  kSessionsNotCopied,          // T9: state transfer leaves the session table behind
  kImageTorn,                  // T13: execution goes on while the state is copied
  kImageOffByOne,              // a copy is taken to contain the instance after its own
  kHalfImageInstalled,         // a copy is installed before all of it came, its hash unchecked
  kWireVersionIgnored,         // a frame of another wire version is acted on
  kRemovedVotes,               // T5b: an acceptor that was taken out goes on at its former place
  kHalfEnough,                 // T5b: half of an even number of acceptors decides
  kCount,
};

constexpr std::array<const char*, static_cast<std::size_t>(Defect::kCount)> kDefectNames = {
    "none",
    "learner-takes-latest-value",
    "acceptor-votes-without-value",
    "acceptor-forgets-promise",
    "quorum-one-too-few",
    "ballot-not-unique",
    "decision-across-ballots",
    "phase1-minority-enough",
    "phase1-forgets-accepted",
    "session-keeps-maximum",
    "duplicate-executed",
    "reply-before-prefix",
    "skip-undecided-mask",
    "replica-skips-write",
    "reads-in-session-table",
    "floor-raised-at-submission",
    "cached-reply-of-neighbour",
    "replies-by-substitute",
    "checksum-ignored",
    "hole-takes-command",
    "phase1-takes-lowest",
    "phase1-forgets-own",
    "fragment-of-any-value",
    "pulled-taken-as-decided",
    "stale-executed",
    "expiry-ignores-activity",
    "read-answered-unordered",
    "reply-parts-mixed",
    "refusal-believed",
    "amnesiac-votes",
    "proposes-past-change",
    "other-epoch-votes",
    "unsettled-votes",
    "change-keeps-ballot",
    "configuration-not-kept",
    "trailing-outrun",
    "vote-before-write",
    "promise-not-kept",
    "log-checksum-ignored",
    "log-cut-at-damage",
    "later-write-vouches",
    "disk-error-ignored",
    "damage-denied",
    "sessions-not-copied",
    "image-torn",
    "image-off-by-one",
    "half-image-installed",
    "wire-version-ignored",
    "removed-votes",
    "half-enough",
};

#ifdef ANNULUS_SIMULATION
/// Set by the simulator between runs; the simulator has one thread.
inline Defect planted_defect = Defect::kNone;
#define DEFECT(id) (::annulus::planted_defect == ::annulus::Defect::id)
#else
#define DEFECT(id) false
#endif

}  // namespace annulus
