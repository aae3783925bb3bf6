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
  Probe locate(std::uint64_t hash) const;
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
  /// A segment in the directory, with the copy of its bucket count that spares a cache miss.
  struct Place {
    SegmentId id{};
    std::uint32_t bucket_count = 0;
  };

  KvSegment& at(SegmentId id) { return *reinterpret_cast<KvSegment*>(segments_.at(id)); }
  const KvSegment& at(SegmentId id) const {
    return *reinterpret_cast<const KvSegment*>(segments_.at(id));
  }
  std::uint32_t* starts(std::uint32_t key_class) { return &starts_[key_class * stride_]; }
  const std::uint32_t* starts(std::uint32_t key_class) const {
    return &starts_[key_class * stride_];
  }
  Place* places(std::uint32_t key_class) { return &places_[key_class * stride_]; }
  const Place* places(std::uint32_t key_class) const { return &places_[key_class * stride_]; }
  Probe probe_of(std::uint64_t hash, std::uint32_t index) const;
  KvSegment::Slot find_slot(Probe& probe, Bytes key) const;

  void overwrite(Class& key_class, KvEntry& entry, Bytes value);
  void write_new(Class& key_class, const Probe& probe, KvEntry& entry, Bytes key, Bytes value);
  void make_room(std::uint32_t key_class, std::uint32_t index, SlabSize wanted);
  void split(std::uint32_t key_class, std::uint32_t index);
  bool follows(const KvSegment& segment) const;
  void merge_around(std::uint32_t key_class, std::uint32_t index);
  bool merge(std::uint32_t key_class, std::uint32_t index);
  SegmentId create(std::uint32_t key_class, std::uint32_t first, std::uint32_t last,
                   std::uint32_t average_entry_bytes, std::uint32_t bucket_count_max);
  void set_place(std::uint32_t key_class, std::uint32_t index, SegmentId id);
  void insert_place(std::uint32_t key_class, std::uint32_t index, SegmentId id);
  void erase_place(std::uint32_t key_class, std::uint32_t index);

  const std::uint64_t class_limit_;
  const std::uint32_t stride_;  // of the directory: most segments a class can come to
  SegmentStore segments_;
  std::vector<Class> classes_;
  std::vector<std::uint32_t> starts_;  // first position of each segment, sorted in each class
  std::vector<Place> places_;          // same order
  std::uint64_t version_ = 0;          // changes whenever an entry's segment or bucket may have
};

}  // namespace annulus::statemachine::kv
