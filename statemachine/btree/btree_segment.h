// Inside one segment of the B-tree service: a root, leaves of 512 bytes, and blocks for the values
// that do not fit a leaf. Offsets only. Which keys belong to a segment is btree_tree.h's business.
//
//   | header | root: sample, separators, children | heap of leaves and value blocks |
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "dataplane/hash.h"
#include "statemachine/btree/btree_codec.h"
#include "statemachine/segment.h"
#include "statemachine/slab.h"

namespace annulus::statemachine::btree {

/// Not a power of two: the roots of all segments would share a few sets of every cache.
constexpr std::uint32_t kSegmentBytes = 68 * 1024;
constexpr std::uint32_t kSegmentGranules = kSegmentBytes / kGranuleBytes;
constexpr std::uint32_t kLeafEntries = 28;
constexpr std::uint32_t kLeavesMax = 128;
constexpr std::uint64_t kLastKey = ~std::uint64_t{0};

/// Key classes: fixed key ranges, the same everywhere. Sixteen to every power of two from 2^16 on,
/// so that keys drawn from 0 .. n spread over some thirty classes whatever n is, and the top
/// classes of the full 64 bits hold a 32nd of it each; all keys below 2^16 are class 0. (Keys that
/// only ever grow, as time stamps do, fall into one class at a time.)
constexpr std::uint32_t kKeyClasses = 1 + 48 * 16;
constexpr std::uint32_t class_of(std::uint64_t key) {
  if (key >> 16 == 0) return 0;
  const auto top = static_cast<std::uint32_t>(std::bit_width(key)) - 1;
  return 1 + (top - 16) * 16 + (static_cast<std::uint32_t>(key >> (top - 4)) & 15);
}
constexpr std::uint64_t class_first(std::uint32_t key_class) {
  if (key_class == 0) return 0;
  const std::uint32_t top = 16 + (key_class - 1) / 16;
  return (std::uint64_t{16} + (key_class - 1) % 16) << (top - 4);
}
constexpr std::uint64_t class_last(std::uint32_t key_class) {
  return key_class + 1 == kKeyClasses ? ~std::uint64_t{0} : class_first(key_class + 1) - 1;
}
static_assert(class_of(~std::uint64_t{0}) == kKeyClasses - 1 && class_of(1 << 16) == 1);
static_assert(class_of(class_first(700)) == 700 && class_of(class_last(700)) == 700);

/// Values up to this size lie in the leaf.
constexpr std::uint32_t kInlineBytes = 8;

/// How many of `keys` are below (or at most) `key`. Branch-free, and made of vector compares.
template <std::size_t kSize>
std::uint32_t count_below(const std::uint64_t (&keys)[kSize], std::uint64_t key) {
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < kSize; ++i) count += keys[i] < key ? 1 : 0;
  return static_cast<std::uint32_t>(count);
}

/// Entries in key order. Eight cache lines: four of keys, four of values. Keys behind the last are
/// kLastKey.
struct alignas(64) Leaf {
  std::uint16_t count;
  std::uint16_t reserved[3];
  std::uint64_t keys[kLeafEntries];
  std::uint64_t words[kLeafEntries];  // the value, or its block's SlabOffset
  std::uint16_t sizes[kLeafEntries];  // of the value

  std::uint32_t lower_bound(std::uint64_t key) const { return count_below(keys, key); }
  bool holds(std::uint32_t position, std::uint64_t key) const {
    return position < count && keys[position] == key;
  }
  /// Opens a gap at `position`; the caller fills it.
  void open(std::uint32_t position);
  void close(std::uint32_t position);
  /// Appends entries first .. count of `from` to this leaf.
  void append(const Leaf& from, std::uint32_t first);
  void truncate(std::uint32_t size);
};
static_assert(sizeof(Leaf) == 512);
constexpr std::uint32_t kLeafGranules = sizeof(Leaf) / kGranuleBytes;

/// A value of more than kInlineBytes. Key and value without a gap, as they are hashed.
struct ValueBlock {
  std::uint64_t hash;  // this entry's part of the state hash
  std::uint64_t key;
  std::byte* value() { return reinterpret_cast<std::byte*>(this + 1); }
  const std::byte* value() const { return reinterpret_cast<const std::byte*>(this + 1); }
  std::uint64_t computed_hash(std::uint32_t value_bytes) const {
    return dataplane::hash_bytes({reinterpret_cast<const std::byte*>(&key), 8 + value_bytes});
  }
};
constexpr SlabSize block_size(std::uint32_t value_bytes) {
  return slab_size(granules_of(sizeof(ValueBlock) + value_bytes));
}

struct alignas(64) BtreeSegment {
  SegmentHeader common;
  std::uint64_t first_key;  // the closed range of keys it holds
  std::uint64_t last_key;
  std::uint32_t leaf_count;  // at least 1
  std::uint32_t entry_count;
  std::uint32_t structure;  // changes whenever an entry may have moved to another leaf
  SlabOffset free_leaf;     // list
  std::uint16_t pad[17];
  // The root. A leaf holds the keys from its separator to the next one's; the first separator is
  // first_key, those behind the last are kLastKey. `sample` is every eighth separator.
  std::uint64_t sample[kLeavesMax / 8];
  std::uint64_t separators[kLeavesMax];
  SlabOffset children[kLeavesMax];
  SlabHeap heap;

  void init(std::uint64_t first, std::uint64_t last);

  std::byte* base() { return reinterpret_cast<std::byte*>(this); }
  const std::byte* base() const { return reinterpret_cast<const std::byte*>(this); }
  Leaf& leaf_at(SlabOffset offset) {
    return *reinterpret_cast<Leaf*>(base() + std::size_t{offset} * kGranuleBytes);
  }
  const Leaf& leaf_at(SlabOffset offset) const {
    return *reinterpret_cast<const Leaf*>(base() + std::size_t{offset} * kGranuleBytes);
  }
  Leaf& leaf(std::uint32_t index) { return leaf_at(children[index]); }
  const Leaf& leaf(std::uint32_t index) const { return leaf_at(children[index]); }
  ValueBlock& block(std::uint64_t word) {
    return *reinterpret_cast<ValueBlock*>(base() + word * kGranuleBytes);
  }
  const ValueBlock& block(std::uint64_t word) const {
    return *reinterpret_cast<const ValueBlock*>(base() + word * kGranuleBytes);
  }

  /// The eight separators among which `key` is; then the leaf it belongs to. `key` is in range.
  std::uint32_t group_of(std::uint64_t key) const {
    return key == kLastKey ? (leaf_count - 1) / 8 : count_below(sample, key + 1) - 1;
  }
  std::uint32_t leaf_of(std::uint64_t key, std::uint32_t group) const {
    if (key == kLastKey) return leaf_count - 1;
    std::uint32_t count = 0;
    for (std::uint32_t i = 0; i < 8; ++i) count += separators[group * 8 + i] <= key ? 1 : 0;
    return group * 8 + count - 1;
  }

  Bytes value(const Leaf& leaf, std::uint32_t position) const {
    const std::uint32_t size = leaf.sizes[position];
    if (size <= kInlineBytes) {
      return {reinterpret_cast<const std::byte*>(&leaf.words[position]), size};
    }
    return {block(leaf.words[position]).value(), size};
  }
  std::uint64_t entry_hash(const Leaf& leaf, std::uint32_t position) const {
    if (leaf.sizes[position] > kInlineBytes) return block(leaf.words[position]).hash;
    return inline_hash(leaf.keys[position], leaf.words[position], leaf.sizes[position]);
  }
  std::uint64_t computed_hash(const Leaf& leaf, std::uint32_t position) const {
    const std::uint32_t size = leaf.sizes[position];
    if (size > kInlineBytes) return block(leaf.words[position]).computed_hash(size);
    return inline_hash(leaf.keys[position], leaf.words[position], size);
  }
  static std::uint64_t inline_hash(std::uint64_t key, std::uint64_t word, std::uint32_t size) {
    const std::uint64_t both[2] = {key, word};
    return dataplane::hash_bytes({reinterpret_cast<const std::byte*>(both), 8 + size});
  }

  /// Writes an entry's value: into `word`, or a new block. False when there is no room for it.
  bool place_value(std::uint64_t key, Bytes value, std::uint64_t& word);
  void release_value(std::uint64_t word, std::uint32_t size) {
    if (size <= kInlineBytes) return;
    heap.release(base(), static_cast<SlabOffset>(word), block_size(size));
  }

  SlabOffset allocate_leaf();  // an empty one, or 0
  void release_leaf(SlabOffset offset);
  void insert_child(std::uint32_t index, std::uint64_t separator, SlabOffset offset);
  void remove_child(std::uint32_t index);  // not the leaf itself
  /// Halves the full leaf `index`; `append` leaves it full and makes an empty one behind it, from
  /// `key` on. False when there is no room.
  bool split_leaf(std::uint32_t index, std::uint64_t key, bool append);
  /// After an entry has gone: merges a leaf that has become small with a neighbour.
  void tidy_leaf(std::uint32_t index);

  /// Copies leaves first .. last (exclusive) of `from`, with their values, behind the own. Fits.
  void adopt(const BtreeSegment& from, std::uint32_t first, std::uint32_t last);
  /// Drops the leaves from `first` on, with their values.
  void drop(std::uint32_t first);
  std::uint32_t leaf_weight(std::uint32_t index) const;  // granules, values included

  /// Whether foreign bytes are a sound segment of class `common.key_class`.
  bool sound() const;

 private:
  void refresh_sample();
  bool leaf_sound(const Leaf& leaf, std::uint64_t first, std::uint64_t last,
                  SlabCheck& check) const;
};
static_assert(offsetof(BtreeSegment, sample) == 128);
static_assert(sizeof(BtreeSegment) % 64 == 0);
/// One leaf with the greatest values fills less than half a segment: two always fit.
static_assert(2 * (kLeafGranules + kLeafEntries * block_size(kValueBytesMax).granules) +
                  sizeof(BtreeSegment) / kGranuleBytes <
              kSegmentGranules);

}  // namespace annulus::statemachine::btree
