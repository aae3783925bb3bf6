#include "statemachine/btree/btree_tree.h"

#include <algorithm>
#include <bit>
#include <string>

namespace annulus::statemachine::btree {

namespace {
/// Above this load a full segment splits, below it compacting finds room enough.
constexpr std::uint32_t kSplitGranules = kSegmentGranules / 10 * 6;
constexpr std::uint32_t kSplitLeaves = kLeavesMax / 10 * 8;
constexpr std::uint32_t kMergeGranules = kSegmentGranules / 2;

/// Most segments that entries of weight `limit` can come to. Two neighbours in a class fill more
/// than half a segment; leaves are a third full on average at least, so an entry takes at most
/// 52 bytes of leaf where its weight counts 32.
std::uint32_t segments_max(std::uint64_t limit) {
  return static_cast<std::uint32_t>(8 * limit / kSegmentBytes + 2 * kKeyClasses);
}

void prefetch_lines(const void* from, std::size_t bytes) {
  const auto* const at = static_cast<const std::byte*>(from);
  for (std::size_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + line, 1);
}
}  // namespace

BtreeTree::BtreeTree(std::uint8_t service, std::uint64_t limit_bytes)
    : limit_(limit_bytes),
      segments_(service, kSegmentBytes, segments_max(limit_bytes)),
      hashes_(kKeyClasses),
      first_keys_(std::bit_ceil(segments_max(limit_bytes) + 1), kNoKey),
      ids_(segments_max(limit_bytes)) {}

void BtreeTree::seek_segment(Cursor& cursor) const {
  // The last segment that starts at or below the key. A fixed number of steps: no branch.
  std::uint32_t index = 0;
  const std::uint64_t* const keys = first_keys_.data();
  for (std::uint32_t step = 1u << search_steps_ >> 1; step != 0; step >>= 1) {
    index += keys[index + step] <= cursor.key ? step : 0;
  }
  cursor.version = version_;
  if (index >= size_) index = size_ == 0 ? 0 : size_ - 1;  // kLastKey finds kNoKey
  cursor.index = index;
  cursor.segment = size_ == 0 ? nullptr : &segment(index);
}

void BtreeTree::prefetch_root(const Cursor& cursor) const {
  if (cursor.segment != nullptr) prefetch_lines(&cursor.segment->first_key, 3 * 64);
}

void BtreeTree::seek_group(Cursor& cursor) const {
  BtreeSegment* const segment = cursor.segment;
  if (segment == nullptr) return;
  if (cursor.key < segment->first_key || cursor.key > segment->last_key) {
    cursor.segment = nullptr;
    return;
  }
  cursor.group = segment->group_of(cursor.key);
  __builtin_prefetch(&segment->separators[cursor.group * 8]);
  __builtin_prefetch(&segment->children[cursor.group * 8]);
}

void BtreeTree::seek_leaf(Cursor& cursor) const {
  BtreeSegment* const segment = cursor.segment;
  if (segment == nullptr) return;
  cursor.leaf_index = segment->leaf_of(cursor.key, cursor.group);
  cursor.leaf = &segment->leaf(cursor.leaf_index);
  cursor.structure = segment->structure;
}

void BtreeTree::prefetch_leaf(const Cursor& cursor) const {
  if (cursor.segment != nullptr) prefetch_lines(cursor.leaf, sizeof(Leaf));
}

bool BtreeTree::find(const Cursor& cursor, Bytes& value) const {
  if (cursor.segment == nullptr) return false;
  const std::uint32_t position = cursor.leaf->lower_bound(cursor.key);
  if (!cursor.leaf->holds(position, cursor.key)) return false;
  value = cursor.segment->value(*cursor.leaf, position);
  return true;
}

BtreeTree::Stored BtreeTree::store(Cursor cursor, Bytes value) {
  const auto value_bytes = static_cast<std::uint32_t>(value.size());
  for (;;) {
    std::uint32_t position = 0;
    bool replaces = false;
    if (cursor.segment != nullptr) {
      position = cursor.leaf->lower_bound(cursor.key);
      replaces = cursor.leaf->holds(position, cursor.key);
    }
    const std::uint64_t old_weight = replaces ? weight_of(cursor.leaf->sizes[position]) : 0;
    if (weight_ - old_weight + weight_of(value_bytes) > limit_) return Stored::kNoSpace;
    if (cursor.segment == nullptr) {
      const std::uint32_t key_class = class_of(cursor.key);
      const SegmentId id = create(class_first(key_class), class_last(key_class));
      at(id).insert_child(0, class_first(key_class), at(id).allocate_leaf());
      const bool before = size_ == 0 || first_keys_[cursor.index] > cursor.key;
      insert_place(before ? cursor.index : cursor.index + 1, id);
      cursor = locate(cursor.key);
      continue;
    }
    BtreeSegment& segment = *cursor.segment;
    Leaf& leaf = *cursor.leaf;
    if (!replaces && leaf.count == kLeafEntries) {
      const bool append = position == leaf.count && cursor.leaf_index + 1 == segment.leaf_count;
      if (!segment.split_leaf(cursor.leaf_index, cursor.key, append)) {
        make_room(cursor, kLeafGranules);
      }
      cursor = locate(cursor.key);
      continue;
    }
    std::uint64_t word = 0;
    if (!segment.place_value(cursor.key, value, word)) {
      make_room(cursor, block_size(value_bytes).granules);
      cursor = locate(cursor.key);
      continue;
    }
    weight_ += weight_of(value_bytes) - old_weight;
    if (replaces) {
      replace(cursor, position, word, value);
      return Stored::kReplaced;
    }
    leaf.open(position);
    leaf.keys[position] = cursor.key;
    leaf.words[position] = word;
    leaf.sizes[position] = static_cast<std::uint16_t>(value_bytes);
    ++segment.entry_count;
    hashes_[class_of(cursor.key)].add(segment.entry_hash(leaf, position));
    return Stored::kNew;
  }
}

void BtreeTree::replace(const Cursor& cursor, std::uint32_t position, std::uint64_t word,
                        Bytes value) {
  BtreeSegment& segment = *cursor.segment;
  Leaf& leaf = *cursor.leaf;
  ContentHash& hash = hashes_[class_of(cursor.key)];
  hash.remove(segment.entry_hash(leaf, position));
  const std::uint32_t old_live = segment.heap.live;
  segment.release_value(leaf.words[position], leaf.sizes[position]);
  leaf.words[position] = word;
  leaf.sizes[position] = static_cast<std::uint16_t>(value.size());
  hash.add(segment.entry_hash(leaf, position));
  if (segment.heap.live < old_live) merge_around(cursor.index);
}

bool BtreeTree::remove(const Cursor& cursor) {
  if (cursor.segment == nullptr) return false;
  BtreeSegment& segment = *cursor.segment;
  Leaf& leaf = *cursor.leaf;
  const std::uint32_t position = leaf.lower_bound(cursor.key);
  if (!leaf.holds(position, cursor.key)) return false;
  hashes_[class_of(cursor.key)].remove(segment.entry_hash(leaf, position));
  weight_ -= weight_of(leaf.sizes[position]);
  segment.release_value(leaf.words[position], leaf.sizes[position]);
  leaf.close(position);
  --segment.entry_count;
  segment.tidy_leaf(cursor.leaf_index);
  merge_around(cursor.index);
  return true;
}

void BtreeTree::clear() {
  segments_.clear();
  forget();
}

std::uint64_t BtreeTree::count(const Cursor& from, std::uint64_t last_key) const {
  std::uint64_t sum = 0;
  std::uint32_t index = from.index;
  if (from.segment == nullptr && index < size_ && first_keys_[index] < from.key) ++index;
  for (; index < size_ && first_keys_[index] <= last_key; ++index) {
    const BtreeSegment& segment = this->segment(index);
    if (index + 4 < size_) __builtin_prefetch(&this->segment(index + 4).first_key);
    if (from.key <= segment.first_key && segment.last_key <= last_key) {
      sum += segment.entry_count;
      continue;
    }
    const std::uint64_t first = std::max(from.key, segment.first_key);
    const std::uint64_t last = std::min(last_key, segment.last_key);
    std::uint32_t i = segment.leaf_of(first, segment.group_of(first));
    for (; i < segment.leaf_count && segment.separators[i] <= last; ++i) {
      const Leaf& leaf = segment.leaf(i);
      std::uint32_t end = leaf.lower_bound(last);
      end += leaf.holds(end, last) ? 1 : 0;
      sum += end - std::min(end, leaf.lower_bound(first));
    }
  }
  return sum;
}

SegmentId BtreeTree::create(std::uint64_t first, std::uint64_t last) {
  const std::optional<SegmentId> id = segments_.create(class_of(first));
  CHECK(id && "the limit bounds the segments: see segments_max()");
  at(*id).init(first, last);
  return *id;
}

void BtreeTree::insert_place(std::uint32_t index, SegmentId id) {
  CHECK(size_ < ids_.size());
  std::copy_backward(first_keys_.begin() + index, first_keys_.begin() + size_,
                     first_keys_.begin() + size_ + 1);
  std::copy_backward(ids_.begin() + index, ids_.begin() + size_, ids_.begin() + size_ + 1);
  first_keys_[index] = at(id).first_key;
  ids_[index] = id;
  search_steps_ = std::max(search_steps_, static_cast<std::uint32_t>(std::bit_width(++size_)));
  ++version_;
}

void BtreeTree::erase_place(std::uint32_t index) {
  std::copy(first_keys_.begin() + index + 1, first_keys_.begin() + size_,
            first_keys_.begin() + index);
  std::copy(ids_.begin() + index + 1, ids_.begin() + size_, ids_.begin() + index);
  first_keys_[--size_] = kNoKey;
  ++version_;
}

void BtreeTree::forget() {
  std::fill(first_keys_.begin(), first_keys_.begin() + size_, kNoKey);
  std::fill(hashes_.begin(), hashes_.end(), ContentHash{});
  size_ = 0;
  search_steps_ = 0;
  weight_ = 0;
  ++version_;
}

void BtreeTree::make_room(const Cursor& cursor, std::uint32_t granules) {
  BtreeSegment& full = *cursor.segment;
  if (full.heap.live + granules <= kSplitGranules && full.leaf_count <= kSplitLeaves) {
    compact(cursor.index);
    return;
  }
  const Leaf& last = full.leaf(full.leaf_count - 1);
  if (last.count > 0 && last.keys[last.count - 1] < cursor.key) {
    // Ascending: leave this one full, and go on in a new one.
    const SegmentId fresh = create(cursor.key, full.last_key);
    at(fresh).insert_child(0, cursor.key, at(fresh).allocate_leaf());
    full.last_key = cursor.key - 1;
    insert_place(cursor.index + 1, fresh);
    return;
  }
  split(cursor.index);
}

void BtreeTree::compact(std::uint32_t index) {
  const SegmentId old = ids_[index];
  const SegmentId fresh = create(at(old).first_key, at(old).last_key);
  at(fresh).adopt(at(old), 0, at(old).leaf_count);
  ids_[index] = fresh;
  segments_.destroy(old);
  ++version_;
}

void BtreeTree::split(std::uint32_t index) {
  BtreeSegment& left = segment(index);
  CHECK(left.leaf_count >= 2);
  std::uint32_t cut = 0;
  for (std::uint32_t weight = 0; weight < left.heap.live / 2; ++cut) {
    weight += left.leaf_weight(cut);
  }
  cut = std::clamp(cut, 1u, left.leaf_count - 1);
  const SegmentId right = create(left.separators[cut], left.last_key);
  at(right).adopt(left, cut, left.leaf_count);
  left.last_key = at(right).first_key - 1;
  left.drop(cut);
  insert_place(index + 1, right);
  merge(index + 1);
  if (index > 0) merge(index - 1);
}

void BtreeTree::merge_around(std::uint32_t index) {
  if (segment(index).heap.live > kMergeGranules) return;
  if (merge(index)) return;
  if (index > 0) merge(index - 1);
}

/// Merges segment `index` with the one after it, if that is of the same class and both fill half a
/// segment at most.
bool BtreeTree::merge(std::uint32_t index) {
  if (index + 1 >= size_) return false;
  const SegmentId left = ids_[index];
  const SegmentId right = ids_[index + 1];
  if (at(left).common.key_class != at(right).common.key_class ||
      at(left).heap.live + at(right).heap.live > kMergeGranules) {
    return false;
  }
  const SegmentId merged = create(at(left).first_key, at(right).last_key);
  at(merged).adopt(at(left), 0, at(left).leaf_count);
  at(merged).adopt(at(right), 0, at(right).leaf_count);
  erase_place(index + 1);
  ids_[index] = merged;
  segments_.destroy(left);
  segments_.destroy(right);
  return true;
}

Status BtreeTree::rebuild() {
  const Error missing_last{"the last B-tree segment of a key class is missing"};
  const auto ends_class = [](const BtreeSegment& segment) {
    return segment.last_key == class_last(segment.common.key_class);
  };
  forget();
  std::vector<SegmentId> found;
  for (std::uint32_t i = 0; i < segments_.id_end(); ++i) {
    const SegmentId id{i};
    if (!segments_.live(id)) continue;
    if (!at(id).sound()) return Error{"B-tree segment " + std::to_string(i) + " is damaged"};
    found.push_back(id);
  }
  std::sort(found.begin(), found.end(),
            [this](SegmentId a, SegmentId b) { return at(a).first_key < at(b).first_key; });
  for (const SegmentId id : found) {
    const BtreeSegment& next = at(id);
    const bool first = size_ == 0 || segment(size_ - 1).common.key_class != next.common.key_class;
    if (size_ > 0 && first && !ends_class(segment(size_ - 1))) return missing_last;
    if (next.first_key !=
        (first ? class_first(next.common.key_class) : segment(size_ - 1).last_key + 1)) {
      return Error{"B-tree segments of key class " + std::to_string(next.common.key_class) +
                   " overlap or leave a gap: some are missing or of another replica"};
    }
    insert_place(size_, id);
    for (std::uint32_t i = 0; i < next.leaf_count; ++i) {
      const Leaf& leaf = next.leaf(i);
      for (std::uint32_t e = 0; e < leaf.count; ++e) {
        hashes_[next.common.key_class].add(next.entry_hash(leaf, e));
        weight_ += weight_of(leaf.sizes[e]);
      }
    }
  }
  if (size_ > 0 && !ends_class(segment(size_ - 1))) return missing_last;
  if (weight_ > limit_) return Error{"the B-tree holds more than the configured limit"};
  return {};
}

void BtreeTree::hashes(std::span<ContentHash> per_class) const {
  std::copy(hashes_.begin(), hashes_.end(), per_class.begin());
}

void BtreeTree::recompute_hashes(std::span<ContentHash> per_class) const {
  std::fill(per_class.begin(), per_class.end(), ContentHash{});
  for (std::uint32_t i = 0; i < segments_.id_end(); ++i) {
    if (!segments_.live(SegmentId{i})) continue;
    const BtreeSegment& next = at(SegmentId{i});
    for (std::uint32_t l = 0; l < next.leaf_count; ++l) {
      const Leaf& leaf = next.leaf(l);
      for (std::uint32_t e = 0; e < leaf.count; ++e) {
        per_class[next.common.key_class].add(next.computed_hash(leaf, e));
      }
    }
  }
}

}  // namespace annulus::statemachine::btree
