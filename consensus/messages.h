// Every message, and the protocol they carry. The same bytes go to wire, log and replies.
//
// Ring Paxos (M-Ring). Proposers send values to the coordinator (Submit). The coordinator, having
// run Phase 1 for all instances from some point on (Phase1A/Phase1B), gives each value an instance
// and multicasts it once to acceptors and learners (Phase2A). Votes travel the ring of f+1
// acceptors towards the coordinator, which is its last member (Phase2B, carrying the set of
// acceptors that accepted, so a duplicate is harmless). The ring is a route, not a quorum rule: any
// majority of distinct acceptors decides, and a spare whose clock says the ring is late sends its
// own Phase2B to the coordinator. Decisions ride on later Phase2As, or on Decision when the
// pipeline is idle.
//
// How decisions are told. Within one ballot at most one value is proposed in an instance. So
// `Decided{ballot, from, below}` says: every instance in [from, below) is decided, and the value is
// the one proposed at `ballot`. A learner that holds that very proposal knows the outcome; one that
// holds none, or only another ballot's, asks an acceptor (Pull), and never takes "the latest value
// seen" for the decided one (T6). Instances below `from` were decided under earlier ballots.
//
// Repair. Every loss has a remedy that does not wait for its sender's timer: a missing fragment or
// value is pulled by itself (Pull kValue, answered with Value frames), from the ring predecessor
// that must hold it (acceptors) or from a preferential acceptor (learners); a missing Phase2B is
// pulled from the predecessor (Pull kVote); a missing decision from a preferential acceptor
// (Pull kDecision).
//
// Values longer than a frame travel as fragments: each a frame that stands alone.
//
// Behind the log. A replica whose next value the acceptors have given up (Trimmed) takes over the
// state of another one, in pieces that it asks for by number (StateAsk to StateChunk).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "consensus/types.h"
#include "dataplane/clock.h"
#include "dataplane/frame.h"
#include "dataplane/transport.h"
#include "dataplane/wire_int.h"

namespace annulus::consensus {

using dataplane::Endpoint;

/// Values are never reused.
enum class MessageType : std::uint8_t {
  kSubmit = 1,          // proposer -> coordinator: one fragment of a value
  kSubmitAck = 2,       // coordinator -> proposer: what arrived, and how far the proposer may go
  kPhase1A = 3,         // coordinator -> acceptors
  kPhase1B = 4,         // acceptor -> coordinator
  kPhase2A = 5,         // coordinator -> acceptors and learners: one fragment of a proposal
  kPhase2B = 6,         // acceptor -> next in ring, or spare -> coordinator
  kDecision = 7,        // coordinator -> acceptors and learners
  kReject = 8,          // acceptor -> coordinator: it promised a higher ballot, or its log is full
  kPull = 9,            // anyone -> acceptor: send again
  kValue = 10,          // acceptor -> whoever pulled: one fragment of an accepted value
  kTrimmed = 11,        // acceptor -> whoever pulled: below the retained log
  kLearnerStatus = 12,  // learner -> its preferential acceptor and the coordinator
  kReply = 13,          // replica -> proposer: replies to the commands of one value
  kQuery = 14,          // proposer -> replica: answer this value's commands if you executed them
  kPreVote = 15,        // acceptor -> acceptors: do you miss the coordinator, too?
  kPreVoteAnswer = 16,  // and back
  kConfiguration = 17,  // anyone -> anyone of an older epoch: the members (membership.h)
  kJoin = 18,           // a node without identity -> acceptors: admit me
  kChange = 19,         // acceptor -> coordinator: what an operator asks for
  kStateAsk = 20,       // replica -> replica: have you a copy of your state to give?
  kStateManifest = 21,  // and back: what there is
  kStatePull = 22,      // replica -> replica: pieces of the copy, by number
  kStateChunk = 23,     // and back: one piece
};
constexpr std::uint8_t kMessageTypeLast = 23;
const char* to_string(MessageType type);

constexpr std::uint32_t kAcceptorsMax = 15;
constexpr std::uint32_t kRingMax = 8;  // f+1 of 2f+1
constexpr std::uint32_t kLearnersMax = 16;
constexpr std::uint32_t kFragmentsMax = 64;  // of a value
/// Of one reply stream: one entry of statemachine::kReplyBytesMax, or many shorter ones.
constexpr std::uint32_t kReplyStreamBytesMax = (1u << 20) + 8;
/// Instances an acceptor takes past the first it does not know chosen: what Phase 1 must report.
constexpr std::uint32_t kUndecidedMax = 1'024;
constexpr std::uint32_t kPhase1BPartsMax = 64;

struct WireValueId {
  u32le proposer;
  u64le epoch;
  u64le sequence;
};
struct WireValue {
  WireValueId id;
  u64le content_hash;
  u64le mask;
  u32le bytes;
};
static_assert(sizeof(WireValue) == 40);

/// Which part of the value this frame's payload is. All fragments but the last are `bytes` long.
struct WireFragment {
  u16le index;
  u16le count;
  u32le bytes;
};

struct WireDecided {
  u64le ballot;
  u64le from;
  u64le below;
};

/// The acceptors along which votes travel, by index in the configuration; the last is the
/// coordinator; kRouteEnd fills the rest.
constexpr std::uint8_t kRouteEnd = 0xff;
struct WireRoute {
  std::array<std::uint8_t, kRingMax> acceptor;
};

struct Submit {
  WireValue value;
  WireFragment fragment;
  u64le oldest;  // the proposer's oldest value without a reply: nothing below it will be sent again
};

struct SubmitAck {
  u64le epoch;           // of the proposer
  u64le received_below;  // every value below arrived
  u64le limit;           // the proposer may send sequences below this (credit)
  u64le ballot;          // the highest known; its coordinator, if not the sender, is to be sent to
};

struct Phase1A {
  u64le ballot;
  u64le from;         // the promise covers every instance from here on
  u64le fingerprint;  // of the cluster-wide config; a mismatch refuses the peer
};

struct Phase1BEntry {
  u64le instance;
  u64le ballot;  // at which it was accepted
  WireValue value;
};
/// The accepted instances from max(Phase1A::from, chosen_below), in parts; entries ascend. What the
/// acceptor knows decided is among them while its log has it: perhaps nobody else alive knows.
struct Phase1B {
  u64le ballot;
  u64le answer;        // hash of the whole answer: parts belong together only if they agree
  u64le chosen_below;  // instances below are decided: "trimmed", never "empty" (T15)
  u64le
      unknown_from;  // what is not listed of [unknown_from, unknown_below) may have been accepted:
  u64le unknown_below;  // the sender's log is damaged there. No range: both 0
  WireDecided decided;
  u16le part;
  u16le parts;
  u16le count;
  // Phase1BEntry[count]
};

struct Phase2A {
  u64le instance;
  u64le ballot;
  WireValue value;
  WireFragment fragment;
  WireDecided decided;
  WireRoute route;
};

struct Phase2BEntry {
  u64le instance;
  WireValueId value;
  u64le content_hash;
  u32le acceptors;
};
struct LearnerCredit {
  u32le learner;
  u64le epoch;  // of the learner's start
  u64le delivered_below;
};
struct Phase2B {
  u64le ballot;
  u16le count;
  u16le credits;
  // Phase2BEntry[count], LearnerCredit[credits]
};

struct Decision {
  WireDecided decided;
  u32le within_us;  // the coordinator's next word; 0 from others
};
/// After a proposal the coordinator is heard again within this time.
constexpr Nanos kBusySilence = kMillisecond;

struct PreVote {
  u64le ballot;    // of the coordinator that is missed
  u32le question;  // to be repeated in the answer
};
struct PreVoteAnswer {
  u64le ballot;  // the highest that the answerer knows
  u32le question;
  std::uint8_t missed;  // 1: it misses the coordinator, too
  std::array<std::uint8_t, 3> reserved;
};

enum class JoinKind : std::uint8_t { kAcceptor = 1, kReplica = 2 };
struct Join {
  u64le incarnation;   // random: names this one start of a process
  u32le config_epoch;  // the newest that it has heard of: an old Join, come late, admits nobody
  std::uint8_t kind;
  std::array<std::uint8_t, 3> reserved;
};

enum class ChangeVerb : std::uint8_t { kAdd = 1, kRemove = 2, kReplace = 3 };
/// One member comes, goes, or comes for another. Done at most once per operation id.
struct ChangeRequest {
  u64le operation;
  u64le incarnation;  // of who comes
  u64le partitions;   // of a replica that comes
  u32le member;       // who goes
  u32le address;      // of who comes
  u16le port;
  std::uint8_t verb;
  std::uint8_t kind;  // JoinKind
  u32le reserved;
};

struct Reject {
  u64le promised;
  u64le refused;  // the ballot that was too low; if both are the same, the log is full
};

enum class PullKind : std::uint8_t { kValue = 1, kVote = 2, kDecision = 3, kConfiguration = 4 };
struct PullEntry {
  u64le instance;
  u64le fragments;  // bit i: fragment i wanted; all ones when the count is not known
};
struct Pull {
  std::uint8_t kind;
  std::uint8_t reserved;
  u16le count;
  u64le ballot;  // kVote: of the votes wanted
  // PullEntry[count]
};

struct ValueMessage {
  u64le instance;
  u64le ballot;  // at which the sender accepted it
  WireValue value;
  WireFragment fragment;
  WireDecided decided;  // what the sender knows of decisions
  std::uint8_t chosen;  // 1: the sender knows this value to be the decided one
  std::array<std::uint8_t, 7> reserved;
};

struct Trimmed {
  u64le trimmed_below;
};

struct LearnerStatus {
  u64le delivered_below;     // contiguous; handed to execution, unless the state is still lacking
  std::uint8_t lacks_state;  // 1: cannot give anybody the state of before `delivered_below`
  std::array<std::uint8_t, 7> reserved;
};

/// One fragment of a reply stream of a value; see statemachine/batch.h for the stream. A replica
/// that answers with more than one stream numbers them; each can be read by itself.
struct Reply {
  WireValueId value;
  u64le content_hash;  // XXH3 of the whole stream; 0 when it came in one frame
  u16le replica;       // index of the replying learner
  u16le stream;
  u32le bytes;  // of the whole stream
  WireFragment fragment;
};

struct Query {
  WireValue value;
  WireFragment fragment;
};

/// State transfer: see state_receiver.h and state_source.h. A replica that cannot go on asks for a
/// state as of `from` or later.
struct StateAsk {
  u64le from;
};
enum class StateOffer : std::uint8_t {
  kHere = 1,  // the rest of the manifest says what
  kWait = 2,  // ask again soon: it is being made, or may not be made yet
  kNone = 3,  // the answerer lacks its own state
};
struct StateManifest {
  u64le image;  // names the copy; never used twice
  u64le instance;
  u64le bytes;
  u64le hash;  // of all its segments; see statemachine/state_image.h
  u32le segments;
  u32le chunk_bytes;  // of all pieces but the last
  std::uint8_t offer;
  std::array<std::uint8_t, 7> reserved;
};
struct StatePull {
  u64le image;
  u32le count;
  u32le reserved;
  // u32le[count]: numbers of pieces
};
struct StateChunk {
  u64le image;
  u32le index;
  u32le bytes;
};
constexpr std::uint32_t kStateChunkBytesMax = 65'536;

/// How many bytes of message may precede a list, and how many entries then fit into one frame.
template <typename Head, typename Entry>
constexpr std::uint32_t entries_max() {
  return static_cast<std::uint32_t>((dataplane::kMessageBytesMax - sizeof(Head)) / sizeof(Entry));
}
constexpr std::uint32_t kPhase1BEntriesMax = entries_max<Phase1B, Phase1BEntry>();
static_assert(kPhase1BEntriesMax * kPhase1BPartsMax >= kUndecidedMax);
constexpr std::uint32_t kPhase2BEntriesMax = 20;
static_assert(sizeof(Phase2B) + kPhase2BEntriesMax * sizeof(Phase2BEntry) +
                  kLearnersMax * sizeof(LearnerCredit) <=
              dataplane::kMessageBytesMax);
constexpr std::uint32_t kPullEntriesMax = entries_max<Pull, PullEntry>();
constexpr std::uint32_t kStatePullEntriesMax = entries_max<StatePull, u32le>();

/// The widest message in front of a value's fragment; sets how much of a frame payload may fill.
constexpr std::uint32_t kFragmentMessageBytesMax = sizeof(ValueMessage);
static_assert(sizeof(Phase2A) <= kFragmentMessageBytesMax &&
              sizeof(Submit) <= kFragmentMessageBytesMax &&
              sizeof(Query) <= kFragmentMessageBytesMax &&
              sizeof(Reply) <= kFragmentMessageBytesMax &&
              sizeof(StateChunk) <= kFragmentMessageBytesMax);

/// Payload bytes of a full fragment on a transport whose frames hold `frame_bytes_max`.
constexpr std::uint32_t fragment_bytes(std::uint32_t frame_bytes_max) {
  return frame_bytes_max - static_cast<std::uint32_t>(sizeof(dataplane::FrameHeader)) -
         kFragmentMessageBytesMax;
}

Value from_wire(const WireValue& wire);
WireValue to_wire(const Value& value);
ValueId from_wire(const WireValueId& wire);
WireValueId to_wire(const ValueId& id);

/// What `Decided` says (see the top of this file), unpacked.
struct Decided {
  Ballot ballot{};
  Instance from = kFirstInstance;
  Instance below = kFirstInstance;
  bool operator==(const Decided&) const = default;
};
Decided from_wire(const WireDecided& wire);
WireDecided to_wire(const Decided& decided);

/// A fragment's place, checked.
struct Fragment {
  std::uint16_t index = 0;
  std::uint16_t count = 1;
  std::uint32_t bytes = 0;  // of all fragments but the last
  std::uint32_t offset() const { return std::uint32_t{index} * bytes; }
};
Fragment from_wire(const WireFragment& wire);
WireFragment to_wire(const Fragment& fragment);
/// How a value of `bytes` is cut: the fragment numbered `index`.
Fragment cut(std::uint32_t bytes, std::uint32_t fragment_bytes, std::uint32_t index);

/// True when the frame's message and payload are what its type says: sizes, counts, ranges,
/// reserved bytes zero, fragment arithmetic right. Only then may a role look at it.
bool validate(const dataplane::Frame& frame, std::uint32_t value_bytes_max);

/// A validated message's struct and list, in place.
template <typename T>
const T& message(const dataplane::Frame& frame) {
  return *reinterpret_cast<const T*>(frame.message.data());
}
template <typename Entry, typename Head>
std::span<const Entry> entries(const Head& head, std::size_t count) {
  return {reinterpret_cast<const Entry*>(&head + 1), count};
}

}  // namespace annulus::consensus
