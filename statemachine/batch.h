// Layout of a value's bytes: a batch of commands; and of the reply stream that answers it. Both are
// read in place; nothing is serialised.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "consensus/types.h"
#include "dataplane/wire_int.h"

namespace annulus::statemachine {

constexpr std::uint16_t kBatchVersion = 1;
constexpr std::uint16_t kAnyReplica = 0xffff;
constexpr std::uint16_t kNoReplica = 0xfffe;  // nobody waits for replies
constexpr std::uint32_t kCommandsPerBatchMax = 1'024;
constexpr std::uint32_t kSessionWindowMax = 4'096;
constexpr std::uint32_t kAtomicPartsMax = 4'096;
/// Of one command's reply; what would be longer is answered kTooLarge.
constexpr std::uint32_t kReplyBytesMax = 1u << 20;

/// First bytes of every value. Repeats the value's id and mask, so that the content hash covers
/// them.
struct BatchHeader {
  u16le version;
  u16le count;  // commands that follow
  u32le proposer;
  u64le epoch;
  u64le sequence;
  u64le mask;
  u32le reply_address;  // where replies go
  u16le reply_port;
  u16le replier;  // index of the one learner that replies; kAnyReplica: each of them
};
static_assert(sizeof(BatchHeader) == 40 && alignof(BatchHeader) == 1);

/// The replicated service a command is for. 0 is the engine's own (sessions, atomic groups).
constexpr std::uint8_t kSystemService = 0;

enum CommandFlag : std::uint8_t {
  kReadOnly = 1,  // changes nothing; executed by the replying replica only, not in the session
                  // table. A command so flagged whose footprint() writes is kMalformed
};

/// Before each command's body. Header and body together are padded with zeros to a multiple of 8.
struct CommandHeader {
  u64le session;   // 0: none (reads; engine commands that are idempotent by themselves)
  u64le sequence;  // within the session, from 1; kOpenSession: the proposer's number for it
  u32le bytes;     // of the body, without padding
  u16le
      acked_distance;  // sequence - acked_below: every sequence below acked_below was answered (T9)
  std::uint8_t service;
  std::uint8_t flags;
};
static_assert(sizeof(CommandHeader) == 24);

constexpr std::uint32_t padded(std::uint32_t bytes) { return (bytes + 7) & ~7u; }
constexpr std::uint32_t command_bytes(std::uint32_t body_bytes) {
  return static_cast<std::uint32_t>(sizeof(CommandHeader)) + padded(body_bytes);
}

/// One command in place.
struct Command {
  const CommandHeader* header = nullptr;
  std::span<const std::byte> body;
};

/// Checks that `bytes` is a batch whose commands lie within it, and lists them in `commands`, which
/// has room for kCommandsPerBatchMax. False if not: the value is then executed as a no-op by every
/// replica, and counted.
bool parse_batch(std::span<const std::byte> bytes, std::span<Command> commands,
                 std::uint32_t& count);

/// Checks the body of a kAtomic command in the same way. `parts` has room for kAtomicPartsMax.
struct AtomicCommand {
  std::uint8_t service = 0;
  std::span<const std::byte> body;
};
bool parse_atomic(std::span<const std::byte> body, std::span<AtomicCommand> parts,
                  std::uint32_t& count);

/// How a command ended.
enum class CommandStatus : std::uint8_t {
  kOk = 0,
  kNotFound = 1,       // the key or entry does not exist
  kRefused = 2,        // the service declined: condition not met, wrong type, overflow
  kMalformed = 3,      // the body is not a command of this service
  kTooLarge = 4,       // key, value or reply over the limit
  kNoSpace = 5,        // the service's state is at its configured limit
  kNoSuchSession = 6,  // expired or never opened: open a new one
  kStaleSequence = 7,  // below the session's floor: was answered, or given up, before
  kReplyDropped = 8,   // executed, once, but the reply is no longer cached
  kSessionsFull = 9,   // the session table is full
  kOutcomeUnknown =
      100,         // the deadline passed: may or may not have been executed. Client side only
  kNotSent = 101,  // refused before it was sent. Client side only
};
const char* to_string(CommandStatus status);

/// A reply stream of one value: for each answered command, an entry and then its bytes, padded to
/// 8. A stream is at most consensus::kReplyStreamBytesMax long (a value with more to say has
/// several), and is cut anywhere into Reply frames (see consensus/messages.h).
struct ReplyEntry {
  u16le command;  // index in the batch
  std::uint8_t status;
  std::uint8_t reserved;
  u32le bytes;
};
static_assert(sizeof(ReplyEntry) == 8);

/// Bodies of kSystemService begin with one of these.
enum class SystemCommand : std::uint8_t {
  kOpenSession = 1,    // OpenSession; reply: u64 session id. Once for each (proposer, epoch,
                       // sequence of its CommandHeader): a repetition gets the same id
  kCloseSession = 2,   // CloseSession
  kExpireSession = 3,  // CloseSession: takes effect only if `last_activity` still is what it says
  kKeepAlive = 4,      // SystemHead: marks the header's session active
  kAtomic = 5,         // AtomicHead, then for each part AtomicPart and its body, padded to 8:
                       // executed as one command; reply: for each part ReplyEntry and its bytes,
                       // padded to 8 (kReplyDropped for parts that no longer fit)
};

struct SystemHead {
  std::uint8_t kind;
  std::array<std::uint8_t, 7> zero;
};
struct OpenSession {
  std::uint8_t kind;
  std::uint8_t zero;
  u16le reply_bytes;  // longest reply that is kept for a repetition of its command
  u32le window;       // commands outstanding: a power of two, at most kSessionWindowMax
};
struct CloseSession {
  SystemHead head;
  u64le session;
  u64le last_activity;  // kExpireSession; else zero
};
struct AtomicHead {
  std::uint8_t kind;
  std::array<std::uint8_t, 3> zero;
  u32le count;
};
struct AtomicPart {
  std::uint8_t service;
  std::array<std::uint8_t, 3> zero;
  u32le bytes;  // of the body, without padding
};

}  // namespace annulus::statemachine
