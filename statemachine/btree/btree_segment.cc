#include "statemachine/btree/btree_segment.h"

#include <algorithm>

namespace annulus::statemachine::btree {

namespace {
constexpr std::uint32_t kHeaderGranules = sizeof(BtreeSegment) / kGranuleBytes;
constexpr std::uint32_t kLeafAlignment = 64 / kGranuleBytes;
constexpr std::uint32_t kSmallLeaf = 10;   // a leaf with fewer entries looks for a neighbour
constexpr std::uint32_t kMergedLeaf = 20;  // with which it has no more than this

/// Moves `size` elements of each of a leaf's arrays.
void move_entries(Leaf& to, std::uint32_t to_position, const Leaf& from,
                  std::uint32_t from_position, std::uint32_t size) {
  std::memmove(&to.keys[to_position], &from.keys[from_position], size * sizeof(to.keys[0]));
  std::memmove(&to.words[to_position], &from.words[from_position], size * sizeof(to.words[0]));
  std::memmove(&to.sizes[to_position], &from.sizes[from_position], size * sizeof(to.sizes[0]));
}
}  // namespace

void Leaf::open(std::uint32_t position) {
  move_entries(*this, position + 1, *this, position, count - position);
  ++count;
}

void Leaf::close(std::uint32_t position) {
  move_entries(*this, position, *this, position + 1, count - position - 1);
  keys[--count] = kLastKey;
}

void Leaf::append(const Leaf& from, std::uint32_t first) {
  move_entries(*this, count, from, first, from.count - first);
  count = static_cast<std::uint16_t>(count + from.count - first);
}

void Leaf::truncate(std::uint32_t size) {
  std::fill(&keys[size], &keys[count], kLastKey);
  count = static_cast<std::uint16_t>(size);
}

void BtreeSegment::init(std::uint64_t first, std::uint64_t last) {
  first_key = first;
  last_key = last;
  leaf_count = 0;
  entry_count = 0;
  std::fill(std::begin(separators), std::end(separators), kLastKey);
  std::fill(std::begin(sample), std::end(sample), kLastKey);
  heap.init(kHeaderGranules, kSegmentGranules);
  common.used_bytes = heap.top * kGranuleBytes;
}

bool BtreeSegment::place_value(std::uint64_t key, Bytes value, std::uint64_t& word) {
  if (value.size() <= kInlineBytes) {
    word = 0;
    if (value.size() == 8) {
      std::memcpy(&word, value.data(), 8);
    } else if (!value.empty()) {
      std::memcpy(&word, value.data(), value.size());
    }
    return true;
  }
  const auto bytes = static_cast<std::uint32_t>(value.size());
  const SlabOffset offset = heap.allocate(base(), block_size(bytes));
  if (offset == 0) return false;
  common.used_bytes = heap.top * kGranuleBytes;
  ValueBlock& fresh = block(offset);
  fresh.key = key;
  std::memcpy(fresh.value(), value.data(), bytes);
  fresh.hash = fresh.computed_hash(bytes);
  word = offset;
  return true;
}

SlabOffset BtreeSegment::allocate_leaf() {
  SlabOffset offset = free_leaf;
  if (offset != 0) {
    std::memcpy(&free_leaf, &leaf_at(offset), sizeof(free_leaf));
  } else {
    const std::uint32_t aligned = (heap.top + kLeafAlignment - 1) / kLeafAlignment * kLeafAlignment;
    if (aligned + kLeafGranules > heap.end) return 0;
    offset = static_cast<SlabOffset>(aligned);
    heap.top = aligned + kLeafGranules;
    common.used_bytes = heap.top * kGranuleBytes;
  }
  heap.live += kLeafGranules;
  Leaf& fresh = leaf_at(offset);
  fresh = {};
  std::fill(std::begin(fresh.keys), std::end(fresh.keys), kLastKey);
  return offset;
}

void BtreeSegment::release_leaf(SlabOffset offset) {
  std::memcpy(static_cast<void*>(&leaf_at(offset)), &free_leaf, sizeof(free_leaf));
  free_leaf = offset;
  heap.live -= kLeafGranules;
}

void BtreeSegment::refresh_sample() {
  for (std::uint32_t i = 0; i < kLeavesMax / 8; ++i) sample[i] = separators[i * 8];
  ++structure;
}

void BtreeSegment::insert_child(std::uint32_t index, std::uint64_t separator, SlabOffset offset) {
  CHECK(leaf_count < kLeavesMax);
  std::copy_backward(separators + index, separators + leaf_count, separators + leaf_count + 1);
  std::copy_backward(children + index, children + leaf_count, children + leaf_count + 1);
  separators[index] = separator;
  children[index] = offset;
  ++leaf_count;
  refresh_sample();
}

void BtreeSegment::remove_child(std::uint32_t index) {
  std::copy(separators + index + 1, separators + leaf_count, separators + index);
  std::copy(children + index + 1, children + leaf_count, children + index);
  separators[--leaf_count] = kLastKey;
  separators[0] = first_key;
  refresh_sample();
}

bool BtreeSegment::split_leaf(std::uint32_t index, std::uint64_t key, bool append) {
  if (leaf_count == kLeavesMax) return false;
  const SlabOffset offset = allocate_leaf();
  if (offset == 0) return false;
  Leaf& left = leaf(index);
  if (append) {
    insert_child(index + 1, key, offset);
    return true;
  }
  constexpr std::uint32_t kHalf = kLeafEntries / 2;
  leaf_at(offset).append(left, kHalf);
  left.truncate(kHalf);
  insert_child(index + 1, leaf_at(offset).keys[0], offset);
  return true;
}

void BtreeSegment::tidy_leaf(std::uint32_t index) {
  if (leaf(index).count >= kSmallLeaf || leaf_count == 1) return;
  const std::uint32_t most = leaf(index).count == 0 ? kLeafEntries : kMergedLeaf;
  for (const std::uint32_t left : {index, index - 1}) {
    if (left >= leaf_count - 1) continue;  // also index - 1 of 0
    Leaf& into = leaf(left);
    const SlabOffset gone = children[left + 1];
    if (into.count + leaf_at(gone).count > most) continue;
    into.append(leaf_at(gone), 0);
    remove_child(left + 1);
    release_leaf(gone);
    return;
  }
}

void BtreeSegment::adopt(const BtreeSegment& from, std::uint32_t first, std::uint32_t last) {
  for (std::uint32_t i = first; i < last; ++i) {
    const SlabOffset offset = allocate_leaf();
    CHECK(offset != 0);
    Leaf& copy = leaf_at(offset);
    copy = from.leaf(i);
    for (std::uint32_t e = 0; e < copy.count; ++e) {
      if (copy.sizes[e] <= kInlineBytes) continue;
      const ValueBlock& old = from.block(copy.words[e]);
      const SlabOffset moved = heap.allocate(base(), block_size(copy.sizes[e]));
      CHECK(moved != 0);
      std::memcpy(static_cast<void*>(&block(moved)), &old, sizeof(ValueBlock) + copy.sizes[e]);
      copy.words[e] = moved;
    }
    entry_count += copy.count;
    separators[leaf_count] = leaf_count == 0 ? first_key : from.separators[i];
    children[leaf_count++] = offset;
  }
  common.used_bytes = heap.top * kGranuleBytes;
  refresh_sample();
}

void BtreeSegment::drop(std::uint32_t first) {
  for (std::uint32_t i = first; i < leaf_count; ++i) {
    const Leaf& gone = leaf(i);
    entry_count -= gone.count;
    for (std::uint32_t e = 0; e < gone.count; ++e) release_value(gone.words[e], gone.sizes[e]);
    release_leaf(children[i]);
    separators[i] = kLastKey;
  }
  leaf_count = first;
  refresh_sample();
}

std::uint32_t BtreeSegment::leaf_weight(std::uint32_t index) const {
  const Leaf& leaf = this->leaf(index);
  std::uint32_t granules = kLeafGranules;
  for (std::uint32_t i = 0; i < leaf.count; ++i) {
    if (leaf.sizes[i] > kInlineBytes) granules += block_size(leaf.sizes[i]).granules;
  }
  return granules;
}

bool BtreeSegment::sound() const {
  SlabCheck check;
  if (common.used_bytes < sizeof(BtreeSegment) || first_key > last_key ||
      class_of(first_key) != common.key_class || class_of(last_key) != common.key_class ||
      leaf_count == 0 || leaf_count > kLeavesMax || separators[0] != first_key ||
      heap.begin != kHeaderGranules ||
      common.used_bytes != std::uint64_t{heap.top} * kGranuleBytes ||
      !check.start(heap, kSegmentGranules)) {
    return false;
  }
  std::uint32_t entries = 0;
  for (std::uint32_t i = 0; i < kLeavesMax; ++i) {
    if (i % 8 == 0 && sample[i / 8] != separators[i]) return false;
    if (i >= leaf_count) {
      if (separators[i] != kLastKey) return false;
      continue;
    }
    if (i > 0 && separators[i] <= separators[i - 1]) return false;
    if (children[i] % kLeafAlignment != 0 || !check.block(children[i], kLeafGranules)) return false;
    const std::uint64_t last = i + 1 < leaf_count ? separators[i + 1] - 1 : last_key;
    if (separators[i] > last || !leaf_sound(leaf(i), separators[i], last, check)) return false;
    entries += leaf(i).count;
  }
  for (SlabOffset offset = free_leaf; offset != 0;) {
    if (offset % kLeafAlignment != 0 || !check.free_block(offset, kLeafGranules)) return false;
    std::memcpy(&offset, &leaf_at(offset), sizeof(offset));
  }
  return entries == entry_count && check.finish(heap, base());
}

bool BtreeSegment::leaf_sound(const Leaf& leaf, std::uint64_t first, std::uint64_t last,
                              SlabCheck& check) const {
  if (leaf.count > kLeafEntries) return false;
  for (std::uint32_t i = 0; i < kLeafEntries; ++i) {
    if (i >= leaf.count) {
      if (leaf.keys[i] != kLastKey) return false;
      continue;
    }
    if (leaf.keys[i] < first || leaf.keys[i] > last) return false;
    if (i > 0 && leaf.keys[i] <= leaf.keys[i - 1]) return false;
    const std::uint32_t size = leaf.sizes[i];
    if (size > kValueBytesMax) return false;
    if (size <= kInlineBytes) {
      if (size < 8 && leaf.words[i] >> (8 * size) != 0) return false;
      continue;
    }
    if (leaf.words[i] >= kSegmentGranules ||
        !check.block(static_cast<std::uint32_t>(leaf.words[i]), block_size(size).granules)) {
      return false;
    }
    const ValueBlock& block = this->block(leaf.words[i]);
    if (block.key != leaf.keys[i] || block.hash != block.computed_hash(size)) return false;
  }
  return true;
}

}  // namespace annulus::statemachine::btree
