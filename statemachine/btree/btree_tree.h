// All entries of the B-tree service: segments, each a root with its leaves, and the directory over
// them, sorted by key, which is rebuilt from the segments' headers.
//
// A segment holds a range of keys within one key class. A full one is compacted, or its upper half
// moves to a new one (an ascending load starts a new one instead); neighbours in a class that
// together fill less than half of one merge.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "statemachine/btree/btree_segment.h"
#include "statemachine/segment.h"

namespace annulus::statemachine::btree {

class BtreeTree {
 public:
  BtreeTree(std::uint8_t service, std::uint64_t limit_bytes);

  /// Where a key is or would be, found in steps, between which others may prefetch what the next
  /// one reads: seek_segment, prefetch_root, seek_group (prefetches), seek_leaf, prefetch_leaf.
  /// `current()` tells whether it still holds.
  struct Cursor {
    std::uint64_t key = 0;
    BtreeSegment* segment = nullptr;  // null: none holds the key's range
    std::uint32_t index = 0;          // of the segment in the directory
    std::uint32_t group = 0;
    std::uint32_t leaf_index = 0;
    std::uint32_t structure = 0;
    Leaf* leaf = nullptr;
    std::uint64_t version = 0;
  };
  void seek_segment(Cursor& cursor) const;
  void seek_group(Cursor& cursor) const;
  void seek_leaf(Cursor& cursor) const;
  void prefetch_root(const Cursor& cursor) const;
  void prefetch_leaf(const Cursor& cursor) const;
  bool current(const Cursor& cursor) const {
    return cursor.version == version_ &&
           (cursor.segment == nullptr || cursor.structure == cursor.segment->structure);
  }
  Cursor locate(std::uint64_t key) const {
    Cursor cursor{.key = key};
    seek_segment(cursor);
    seek_group(cursor);
    seek_leaf(cursor);
    return cursor;
  }

  /// The value of the cursor's key; false if it is absent. The cursor is current.
  bool find(const Cursor& cursor, Bytes& value) const;

  enum class Stored : std::uint8_t { kNew, kReplaced, kNoSpace };
  Stored store(Cursor cursor, Bytes value);
  /// False if the key is absent.
  bool remove(const Cursor& cursor);
  /// Removes every key.
  void clear();

  /// Calls `visit(segment, leaf, first, last)` for the runs of entries [first, last) with keys from
  /// the cursor's to `last_key`, in order, until it returns false. Prefetches leaves ahead.
  template <typename Visit>
  void scan(const Cursor& from, std::uint64_t last_key, Visit&& visit) const;
  std::uint64_t count(const Cursor& from, std::uint64_t last_key) const;

  SegmentStore& segments() { return segments_; }
  Status rebuild();
  void hashes(std::span<ContentHash> per_class) const;
  void recompute_hashes(std::span<ContentHash> per_class) const;

 private:
  BtreeSegment& at(SegmentId id) { return *reinterpret_cast<BtreeSegment*>(segments_.at(id)); }
  BtreeSegment& at(SegmentId id) const {
    return *reinterpret_cast<BtreeSegment*>(const_cast<std::byte*>(segments_.at(id)));
  }
  BtreeSegment& segment(std::uint32_t index) const { return at(ids_[index]); }
  static std::uint64_t weight_of(std::uint32_t value_bytes) {
    return 32 + (value_bytes > kInlineBytes ? block_size(value_bytes).granules * kGranuleBytes : 0);
  }

  void replace(const Cursor& cursor, std::uint32_t position, std::uint64_t word, Bytes value);
  void make_room(const Cursor& cursor, std::uint32_t granules);
  void compact(std::uint32_t index);
  void split(std::uint32_t index);
  void merge_around(std::uint32_t index);
  bool merge(std::uint32_t index);
  SegmentId create(std::uint64_t first, std::uint64_t last);
  void insert_place(std::uint32_t index, SegmentId id);
  void erase_place(std::uint32_t index);
  void forget();

  static constexpr std::uint64_t kNoKey = kLastKey;

  const std::uint64_t limit_;
  SegmentStore segments_;
  std::vector<ContentHash> hashes_;  // by class
  std::uint64_t weight_ = 0;         // of all entries
  // The directory: segments by first key. Behind the last, kNoKey, as far as a search may look.
  std::vector<std::uint64_t> first_keys_;
  std::vector<SegmentId> ids_;
  std::uint32_t size_ = 0;
  std::uint32_t search_steps_ = 0;  // size_ < 2^search_steps_
  std::uint64_t version_ = 0;       // changes with the directory
};

template <typename Visit>
void BtreeTree::scan(const Cursor& from, std::uint64_t last_key, Visit&& visit) const {
  std::uint32_t index = from.index;
  std::uint32_t leaf_index = from.leaf_index;
  if (from.segment == nullptr) {  // the key lies between segments, or before the first
    if (index < size_ && first_keys_[index] < from.key) ++index;
    leaf_index = 0;
  }
  constexpr std::uint32_t kAhead = 3;  // leaves
  for (; index < size_ && first_keys_[index] <= last_key; ++index, leaf_index = 0) {
    const BtreeSegment& segment = this->segment(index);
    if (index + 1 < size_) __builtin_prefetch(this->segment(index + 1).children);
    for (; leaf_index < segment.leaf_count; ++leaf_index) {
      if (leaf_index + kAhead < segment.leaf_count) {
        const auto* ahead = reinterpret_cast<const std::byte*>(&segment.leaf(leaf_index + kAhead));
        for (std::size_t line = 0; line < sizeof(Leaf); line += 64) {
          __builtin_prefetch(ahead + line);
        }
      }
      const Leaf& leaf = segment.leaf(leaf_index);
      const std::uint32_t first = leaf.lower_bound(from.key);
      std::uint32_t last = leaf.count;
      const bool end = leaf.count > 0 && leaf.keys[leaf.count - 1] >= last_key;
      if (end) {
        last = leaf.lower_bound(last_key);
        last += leaf.holds(last, last_key) ? 1 : 0;
      }
      if (first < last && !visit(segment, leaf, first, last)) return;
      if (end) return;
    }
  }
}

}  // namespace annulus::statemachine::btree
