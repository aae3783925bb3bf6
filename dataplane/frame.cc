#include "dataplane/frame.h"

#include <cstddef>
#include <cstring>

#include "dataplane/defect.h"
#include "dataplane/hash.h"

namespace annulus::dataplane {
namespace {

constexpr std::size_t kHashedFrom = offsetof(FrameHeader, cluster);

std::uint64_t frame_checksum(const FrameHeader& header, std::uint32_t message_bytes) {
  std::uint64_t seed;
  std::memcpy(&seed, &header, sizeof seed);
  const auto* bytes = reinterpret_cast<const std::byte*>(&header);
  return hash_bytes({bytes + kHashedFrom, sizeof(FrameHeader) - kHashedFrom + message_bytes}, seed);
}

}  // namespace

const char* to_string(FrameFault fault) {
  static constexpr const char* kNames[] = {
      "none",         "truncated",       "bad_magic",    "bad_version",
      "bad_flags",    "foreign_cluster", "foreign_ring", "trailing_bytes",
      "bad_checksum", "bad_payload_hash"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(FrameFault::kCount));
  return kNames[static_cast<std::size_t>(fault)];
}

FrameFault open_frame(const Slice& head, const Slice& payload, const FrameFilter& filter,
                      Frame& frame) {
  if (head.size() < sizeof(FrameHeader)) return FrameFault::kTruncated;
  const auto* header = reinterpret_cast<const FrameHeader*>(head.data());
  if (header->magic != kFrameMagic) return FrameFault::kBadMagic;
  if (header->version != kWireVersion && !DEFECT(kWireVersionIgnored))
    return FrameFault::kBadVersion;
  if ((header->flags & ~kRelay) != 0) return FrameFault::kBadFlags;
  if (header->cluster != filter.cluster) return FrameFault::kForeignCluster;
  if (header->ring != filter.ring) return FrameFault::kForeignRing;
  const std::uint32_t message_bytes = header->message_bytes;
  const std::uint64_t payload_bytes = header->payload_bytes;
  const std::uint64_t head_bytes = sizeof(FrameHeader) + message_bytes;
  const std::uint64_t expected = head_bytes + payload_bytes;
  const std::uint64_t received = std::uint64_t{head.size()} + payload.size();
  if (received < expected || head.size() < head_bytes) return FrameFault::kTruncated;
  if (received > expected) return FrameFault::kTrailingBytes;
  if ((header->tag != decltype(header->tag){} ||
       frame_checksum(*header, message_bytes) != header->checksum) &&
      !DEFECT(kChecksumIgnored)) {
    return FrameFault::kBadChecksum;
  }
  frame.header = header;
  frame.message = {head.data() + sizeof(FrameHeader), message_bytes};
  // The payload lies in one piece: behind the message, or in a slice of its own.
  if (head.size() == expected) {
    frame.payload = payload_bytes == 0 ? Slice{}
                                       : head.part(static_cast<std::uint32_t>(head_bytes),
                                                   static_cast<std::uint32_t>(payload_bytes));
  } else if (payload.size() == payload_bytes) {
    frame.payload = payload;
  } else {
    return FrameFault::kTruncated;
  }
  if (payload_bytes != 0 && hash_bytes(frame.payload.bytes()) != header->payload_hash &&
      !DEFECT(kChecksumIgnored)) {
    return FrameFault::kBadPayloadHash;
  }
  return FrameFault::kNone;
}

void seal_frame(FrameHeader& header, std::uint8_t type, std::uint32_t message_bytes,
                std::uint32_t payload_bytes, std::uint64_t payload_hash, const FrameSeal& seal,
                std::uint16_t flags) {
  header.magic = kFrameMagic;
  header.version = kWireVersion;
  header.type = type;
  header.flags = flags;
  header.tag = {};
  header.cluster = seal.cluster;
  header.sender = seal.sender;
  header.ring = seal.ring;
  header.message_bytes = static_cast<std::uint16_t>(message_bytes);
  header.config_epoch = seal.config_epoch;
  header.payload_bytes = payload_bytes;
  header.sender_epoch = seal.sender_epoch;
  header.sequence = seal.sequence;
  header.payload_hash = payload_hash;
  header.checksum = frame_checksum(header, message_bytes);
}

}  // namespace annulus::dataplane
