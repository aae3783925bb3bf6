// The one frame: [Ethernet / IPv4 / UDP] / FrameHeader / message / payload. Sealed by the sender,
// opened (validated) by the receiver before any role sees it.
//
// A message is a struct of wire_int fields (consensus/messages.h). A payload is an immutable slice
// that travels by reference; only its hash is in the header, so a frame that forwards a payload
// seals without reading it again.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/buffer.h"
#include "dataplane/wire_int.h"

namespace annulus::dataplane {

constexpr std::uint32_t kFrameMagic = 0x554e4e41;  // "ANNU"
constexpr std::uint8_t kWireVersion = 1;
/// Ethernet 14 is not counted: an MTU is what IPv4 may carry.
constexpr std::uint32_t kIpUdpHeaderBytes = 20 + 8;
constexpr std::uint32_t kMtuMin = 1280;
/// The largest IPv4 datagram; `local` and memif carry it.
constexpr std::uint32_t kMtuMax = 65'535;

/// Dissemination by ring: each receiver passes the frame on to the next node, unchanged.
constexpr std::uint16_t kRelay = 1;

struct FrameHeader {
  u32le magic;
  std::uint8_t version;
  std::uint8_t type;  // consensus::MessageType; this layer does not interpret it
  u16le flags;        // kRelay or zero
  u64le checksum;  // XXH3 of everything from `cluster` to the message's end, seeded by the 8 bytes
                   // above
  std::array<std::uint8_t, 16> tag;  // authentication tag; zero while frames are not authenticated
  u64le cluster;                     // random id of the cluster, from its config
  u32le sender;                      // node id; 0 is a client that the config does not list
  u16le ring;
  u16le message_bytes;
  u32le config_epoch;
  u32le payload_bytes;
  u64le sender_epoch;  // a sender's sequence restarts only under a new epoch
  u64le sequence;
  u64le payload_hash;  // XXH3 of the payload; 0 without payload
};
static_assert(sizeof(FrameHeader) == 80 && alignof(FrameHeader) == 1);

/// Header and message of one outgoing frame, in place: the message is written first, then sealed.
constexpr std::uint32_t kMessageBytesMax = kMtuMin - kIpUdpHeaderBytes - sizeof(FrameHeader);
constexpr std::uint32_t kHeadBytesMax = sizeof(FrameHeader) + kMessageBytesMax;

/// Why a frame was dropped. Each is a counter of its receiver.
enum class FrameFault : std::uint8_t {
  kNone = 0,
  kTruncated,  // shorter than a frame header, or than its lengths say
  kBadMagic,
  kBadVersion,
  kBadFlags,
  kForeignCluster,
  kForeignRing,
  kTrailingBytes,  // longer than its lengths say
  kBadChecksum,    // or a tag where none is due
  kBadPayloadHash,
  kCount,
};
const char* to_string(FrameFault fault);

/// A validated frame. `message` and `payload` keep the memory alive by themselves.
struct Frame {
  const FrameHeader* header = nullptr;
  std::span<const std::byte> message;
  Slice payload;
};

/// What a receiver admits.
struct FrameFilter {
  std::uint64_t cluster = 0;
  std::uint16_t ring = 0;
};

/// Validates a received frame. `head` holds the header, the message and, on transports that receive
/// into one block, the payload as well; otherwise `payload` holds it. On success `frame` refers to
/// both. Reads nothing past the slices' ends whatever their content.
FrameFault open_frame(const Slice& head, const Slice& payload, const FrameFilter& filter,
                      Frame& frame);

/// Fills everything of `header` but type and message: identity, lengths, hashes, checksum.
/// `header` is followed in memory by `message_bytes` of message.
struct FrameSeal {
  std::uint64_t cluster;
  std::uint32_t sender;
  std::uint16_t ring;
  std::uint32_t config_epoch;
  std::uint64_t sender_epoch;
  std::uint64_t sequence;
};
void seal_frame(FrameHeader& header, std::uint8_t type, std::uint32_t message_bytes,
                std::uint32_t payload_bytes, std::uint64_t payload_hash, const FrameSeal& seal,
                std::uint16_t flags = 0);

}  // namespace annulus::dataplane
