// State in segments: page-aligned blocks of one fixed size without pointers, each for one key
// class. What lies in memory is what is written, sent and installed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dataplane/result.h"
#include "dataplane/wire_int.h"

namespace annulus::statemachine {

__extension__ using Uint128 = unsigned __int128;

/// Order-independent content hash: the sum modulo 2^128 of the hashes of a class's entries (T19).
struct ContentHash {
  Uint128 sum = 0;
  void add(std::uint64_t entry_hash) { sum += spread(entry_hash); }
  void remove(std::uint64_t entry_hash) { sum -= spread(entry_hash); }
  ContentHash& operator+=(const ContentHash& other) {
    sum += other.sum;
    return *this;
  }
  bool operator==(const ContentHash&) const = default;

 private:
  // 64 hash bits over 128: sums of few entries must not stay in the low half.
  static Uint128 spread(std::uint64_t hash) {
    constexpr Uint128 kOdd =
        (static_cast<Uint128>(0x9e3779b97f4a7c15ull) << 64) | 0xd6e8feb86659fd93ull;
    return (static_cast<Uint128>(hash | 1) * kOdd) + hash;
  }
};

/// Names a segment within its service's store; stable while the segment lives.
enum class SegmentId : std::uint32_t {};

/// First bytes of every segment. The service's own header and data follow.
struct SegmentHeader {
  u32le magic;
  u16le version;
  std::uint8_t service;  // id in the cluster's config
  std::uint8_t reserved;
  u32le key_class;   // same on all replicas; a class has one or more segments
  u32le used_bytes;  // what must be copied: the rest is free space at the end
  std::uint8_t pad[48];
};
static_assert(sizeof(SegmentHeader) == 64);
constexpr std::uint32_t kSegmentMagic = 0x47455341;  // "ASEG"
constexpr std::uint16_t kSegmentVersion = 1;

/// The segments of one service: equal, page-aligned blocks in one reserved address range.
///
/// One core at a time may create and destroy. Others may go on reading and writing segments that
/// are live.
class SegmentStore {
 public:
  /// Reserves address space for `count_max` segments of `segment_bytes` (a multiple of 4096);
  /// memory is touched as segments are used.
  SegmentStore(std::uint8_t service, std::uint32_t segment_bytes, std::uint32_t count_max);
  SegmentStore(const SegmentStore&) = delete;
  SegmentStore& operator=(const SegmentStore&) = delete;
  ~SegmentStore();

  /// A new zeroed segment with its header filled, or nothing when the store is full.
  std::optional<SegmentId> create(std::uint32_t key_class);
  /// Gives a segment back. Its id may be used again.
  void destroy(SegmentId id);
  /// Whether `bytes` may be installed here: magic, version, service and lengths. What lies behind
  /// the header is for the service to check (Service::on_segments_installed()).
  Status verify(std::span<const std::byte> bytes) const;
  /// Puts a copy of a foreign segment's bytes into the store; verify() has passed them.
  std::optional<SegmentId> install(std::span<const std::byte> bytes);
  /// Removes all segments.
  void clear();

  std::byte* at(SegmentId id) {
    return base_ + std::size_t{static_cast<std::uint32_t>(id)} * segment_bytes_;
  }
  const std::byte* at(SegmentId id) const {
    return base_ + std::size_t{static_cast<std::uint32_t>(id)} * segment_bytes_;
  }
  SegmentHeader& header(SegmentId id) { return *reinterpret_cast<SegmentHeader*>(at(id)); }
  const SegmentHeader& header(SegmentId id) const {
    return *reinterpret_cast<const SegmentHeader*>(at(id));
  }
  bool live(SegmentId id) const { return live_[static_cast<std::uint32_t>(id)] != 0; }
  std::uint32_t segment_bytes() const { return segment_bytes_; }
  std::uint32_t count() const { return count_; }
  std::uint32_t count_max() const { return static_cast<std::uint32_t>(live_.size()); }
  /// Every live segment's id is below this.
  std::uint32_t id_end() const { return next_; }
  std::uint8_t service() const { return service_; }

  /// The bytes of `id` that matter.
  std::span<const std::byte> bytes(SegmentId id) const { return {at(id), header(id).used_bytes}; }

 private:
  std::optional<SegmentId> take();

  std::uint8_t service_;
  std::uint32_t segment_bytes_;
  std::size_t mapped_bytes_;
  std::byte* mapped_;
  std::byte* base_;
  std::vector<std::uint8_t> live_;   // by id
  std::vector<std::uint32_t> free_;  // ids below next_ that are not live
  std::uint32_t next_ = 0;           // ids from here on were never used: their memory is zero
  std::uint32_t count_ = 0;
};

}  // namespace annulus::statemachine
