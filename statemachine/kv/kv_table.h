// All entries of the key-value service: key classes, the segments of each, and the directory that
// finds a key's segment. Calls are by key hash; kv.h decides what a command does.
//
// Each class holds its keys in segments, sorted by the range of hash positions they hold. A full
// segment is compacted or splits at its median; neighbours that together fill less than half of one
// merge. So segments are at least a quarter full on average, and a limit on what the entries of a
// class may weigh (which depends on its content alone, and is the same on every replica) bounds
// the segments.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "statemachine/kv/kv_segment.h"
#include "statemachine/segment.h"

namespace annulus::statemachine::kv {

class KvTable {
 public:
  /// `limit_bytes` of entries, divided evenly among the classes.
  KvTable(std::uint8_t service, std::uint64_t limit_bytes);

  static std::uint64_t hash_of(Bytes key) { return dataplane::hash_bytes(key); }

  /// Where a key is or would be. Stale as soon as version() has changed.
  struct Probe {
    std::uint64_t hash = 0;
    KvSegment* segment = nullptr;  // null: the class is empty
    std::uint32_t home = 0;        // bucket
    std::uint32_t index = 0;       // of the segment in its class
  };
  Probe locate(std::uint64_t hash) const {
    const Place* const begin = &directory_[class_of(hash) * stride_];
    // The last place that starts at or below the position. A fixed number of steps: no branch.
    const std::uint64_t target = std::uint64_t{position_of(hash)} << 32 | 0xfffffffe;
    std::uint32_t index = 0;
    for (std::uint32_t step = 1u << search_steps_ >> 1; step != 0; step >>= 1) {
      index += raw(begin[index + step]) <= target ? step : 0;
    }
    return probe_of(hash, begin[index], index);
  }
  std::uint64_t version() const { return version_; }

  /// Brings in the bucket; then, once it is there, the entry's first line, or for a write as many
  /// lines as `entry_bytes` has.
  void prefetch_bucket(const Probe& probe) const {
    if (probe.segment != nullptr) __builtin_prefetch(&probe.segment->buckets()[probe.home], 1);
  }
  void prefetch_entry(const Probe& probe, std::uint32_t entry_bytes) const;

  /// The entry, or null. `probe` is not stale.
  KvEntry* find(Probe probe, Bytes key) const {
    const KvSegment::Slot slot = find_slot(probe, key);
    return slot ? probe.segment->entry(slot) : nullptr;
  }

  /// Writes the value of a key, new or not. `value` does not lie in a segment. False, with nothing
  /// changed, when the class is at its limit.
  bool store(Probe probe, Bytes key, Bytes value);
  /// Removes a key; false if it is absent.
  bool remove(Probe probe, Bytes key);
  void clear();

  /// What an entry counts towards its class's limit, and how much the class has left.
  static constexpr std::uint32_t weight_of(std::size_t key_bytes, std::size_t value_bytes) {
    return entry_size(key_bytes, value_bytes).granules * kGranuleBytes + 8;
  }
  std::uint64_t room(std::uint32_t key_class) const {
    return class_limit_ - classes_[key_class].weight;
  }

  std::uint64_t count() const;
  SegmentStore& segments() { return segments_; }
  /// Checks one segment that was installed, so that rebuild() need not.
  Status check(SegmentId id);
  Status rebuild();
  void hashes(std::span<ContentHash> per_class) const;
  void recompute_hashes(std::span<ContentHash> per_class) const;

 private:
  struct Class {
    ContentHash hash;
    std::uint64_t weight = 0;
    std::uint32_t entries = 0;
    std::uint32_t segments = 0;
  };
  /// What a sound segment's entries add to its class.
  struct Sum {
    ContentHash hash;
    std::uint64_t weight = 0;
  };
  /// A segment in the directory, in one word, so that a class's eight first fit a cache line: first
  /// position, id, and a copy of the bucket count that spares a cache miss. Words sort by position.
  enum class Place : std::uint64_t {};
  static constexpr Place kNoPlace{~std::uint64_t{0}};
  static constexpr std::uint32_t kBucketBits = 10;
  static_assert(kBucketsMax < (1u << kBucketBits) - 1);
  static std::uint64_t raw(Place place) { return static_cast<std::uint64_t>(place); }
  static std::uint32_t start_of(Place place) {
    return static_cast<std::uint32_t>(raw(place) >> 32);
  }
  static SegmentId id_of(Place place) {
    return SegmentId{static_cast<std::uint32_t>(raw(place)) >> kBucketBits};
  }
  static std::uint32_t buckets_of(Place place) {
    return static_cast<std::uint32_t>(raw(place)) & ((1u << kBucketBits) - 1);
  }

  KvSegment& at(SegmentId id) { return *reinterpret_cast<KvSegment*>(segments_.at(id)); }
  const KvSegment& at(SegmentId id) const {
    return *reinterpret_cast<const KvSegment*>(segments_.at(id));
  }
  std::span<Place> places(std::uint32_t key_class) {
    return {&directory_[key_class * stride_], classes_[key_class].segments};
  }
  std::span<const Place> places(std::uint32_t key_class) const {
    return {&directory_[key_class * stride_], classes_[key_class].segments};
  }
  Probe probe_of(std::uint64_t hash, Place place, std::uint32_t index) const {
    if (place == kNoPlace) return {hash, nullptr, 0, 0};
    auto* const segment = const_cast<KvSegment*>(&at(id_of(place)));
    return {hash, segment, KvSegment::home_of(position_of(hash), tag_of(hash), buckets_of(place)),
            index};
  }
  KvSegment::Slot find_slot(Probe& probe, Bytes key) const;

  void overwrite(Class& key_class, KvEntry& entry, Bytes value);
  void write_new(Class& key_class, const Probe& probe, KvEntry& entry, Bytes key, Bytes value);
  void make_room(std::uint32_t key_class, std::uint32_t index, SlabSize wanted);
  void split(std::uint32_t key_class, std::uint32_t index);
  void forget();
  Error damaged(SegmentId id) const;
  Sum sum_of(SegmentId id) const;
  bool follows(const KvSegment& segment) const;
  void merge_around(std::uint32_t key_class, std::uint32_t index);
  bool merge(std::uint32_t key_class, std::uint32_t index);
  SegmentId create(std::uint32_t key_class, std::uint32_t first, std::uint32_t last,
                   std::uint32_t average_entry_bytes, std::uint32_t bucket_count_max);
  void set_place(std::uint32_t key_class, std::uint32_t index, SegmentId id);
  void insert_place(std::uint32_t key_class, std::uint32_t index, SegmentId id);
  void erase_place(std::uint32_t key_class, std::uint32_t index);

  const std::uint64_t class_limit_;
  const std::uint32_t places_max_;  // of one class
  const std::uint32_t stride_;      // of the directory
  SegmentStore segments_;
  std::vector<Class> classes_;
  std::vector<std::optional<Sum>> checked_;  // by segment, until rebuild(); else empty
  std::vector<Place> directory_;    // by class, then sorted; kNoPlace behind each class's last
  std::uint32_t search_steps_ = 0;  // every class has fewer than 2^search_steps_ segments
  std::uint64_t version_ = 0;       // changes whenever an entry's segment or bucket may have
};

}  // namespace annulus::statemachine::kv
