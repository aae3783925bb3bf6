// A service's whole state in one file: its segments as they lie in memory, each checksummed
// together with the identity of the image. For tools and tests; blocks until the file is on disk.
#pragma once

#include <cstdint>
#include <string>

#include "consensus/types.h"
#include "dataplane/result.h"
#include "dataplane/wire_int.h"
#include "statemachine/service.h"

namespace annulus::recovery {

/// Whose state, and as of when. Part of every checksum, so that an image or a segment of another
/// origin is seen as one.
struct ImageIdentity {
  std::uint64_t cluster = 0;
  consensus::NodeId node{};
  consensus::Position position;  // the last instance executed
  bool operator==(const ImageIdentity&) const = default;
};

constexpr std::uint64_t kImageMagic = 0x474d494745534e41;  // "ANSEGIMG"
constexpr std::uint16_t kImageVersion = 1;

/// First bytes of the file. `segments` records follow, and nothing else.
struct ImageHeader {
  u64le magic;
  u16le version;
  u16le ring;
  std::uint8_t service;
  std::uint8_t reserved[3];
  u64le cluster;
  u64le instance;
  u32le node;
  u32le segment_bytes;  // of a whole segment
  u32le segments;
  u32le reserved2;
  u64le checksum;  // XXH3 of what is above
};
static_assert(sizeof(ImageHeader) == 56);

/// Before each segment's used bytes.
struct ImageRecord {
  u32le index;  // 0, 1, 2 …
  u32le bytes;
  u64le checksum;  // XXH3 of the bytes, seeded by that of the two fields above, seeded by the
                   // header's
};
static_assert(sizeof(ImageRecord) == 16);

/// Writes all segments of the service. The file appears under its name only when it is complete and
/// on disk.
Status write_segment_image(const std::string& path, const ImageIdentity& identity,
                           statemachine::Service& service);

/// Replaces the state of the service by that of the image, which must have this identity. After an
/// error the service is empty.
Status read_segment_image(const std::string& path, const ImageIdentity& identity,
                          statemachine::Service& service);

}  // namespace annulus::recovery
