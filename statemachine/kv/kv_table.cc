#include "statemachine/kv/kv_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <tuple>
#include <utility>

namespace annulus::statemachine::kv {

namespace {
/// Most segments of a class whose entries weigh at most `limit`: a quarter full on average, and
/// some more for ranges that cannot merge (siblings, see split()) and for what a rebuild needs.
std::uint32_t segments_max(std::uint64_t limit) {
  return static_cast<std::uint32_t>(6 * limit / kSegmentBytes + 3);
}

/// Average of the entries, or of what is about to come into an empty segment.
std::uint32_t average_bytes(std::uint32_t granules, std::uint32_t entries) {
  return std::max(granules * kGranuleBytes / std::max(entries, 1u), kEntryBytesMin);
}

/// The position that divides the entries' bytes best: those below go left. Where they crowd into
/// one 256th of the range, looks closer at that one, down to a single position.
std::uint32_t median_cut(const KvSegment& segment) {
  std::uint64_t first = segment.first_position;
  std::uint64_t last = segment.last_position;
  std::uint64_t before = 0;  // granules below `first`
  const std::uint64_t half = segment.heap.live / 2;
  for (;;) {
    const std::uint64_t width = (last - first) / 256 + 1;
    std::array<std::uint32_t, 256> weight{};
    segment.for_each([&](const KvEntry& entry, std::uint16_t) {
      if (entry.position < first || entry.position > last) return;
      weight[(entry.position - first) / width] +=
          entry_size(entry.key_bytes, entry.value_bytes).granules;
    });
    std::uint32_t bin = 0;
    while (bin < 255 && before + weight[bin] < half) before += weight[bin++];
    const std::uint64_t bin_first = first + bin * width;
    if (width == 1 || weight[bin] < segment.heap.live / 4) {
      // Before or after the bin, whichever is nearer to the half.
      const bool after = before + weight[bin] - half < half - std::min(before, half);
      const std::uint64_t cut = after ? bin_first + width : bin_first;
      const std::uint64_t low = std::uint64_t{segment.first_position} + 1;
      return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(cut, low, segment.last_position));
    }
    first = bin_first;
    last = std::min(last, bin_first + width - 1);
  }
}
}  // namespace

KvTable::KvTable(std::uint8_t service, std::uint64_t limit_bytes)
    : class_limit_(limit_bytes / kKeyClasses),
      places_max_(segments_max(class_limit_)),
      // Room for a whole search; an odd number of cache lines, or classes would share cache sets.
      stride_(std::bit_ceil(places_max_ + 1) + 8),
      segments_(service, kSegmentBytes, places_max_ * kKeyClasses),
      classes_(kKeyClasses),
      directory_(std::size_t{stride_} * kKeyClasses, kNoPlace) {
  CHECK(std::uint64_t{places_max_} * kKeyClasses < (1u << (32 - kBucketBits)));
}

KvSegment::Slot KvTable::find_slot(Probe& probe, Bytes key) const {
  if (probe.segment == nullptr) return {};
  const std::span<const Place> place = places(class_of(probe.hash));
  for (;;) {
    const KvSegment::Slot slot = probe.segment->find(probe.home, tag_of(probe.hash), key);
    // Segments with the same start share the keys of that one position.
    if (slot || probe.index == 0 ||
        start_of(place[probe.index - 1]) != start_of(place[probe.index])) {
      return slot;
    }
    probe = probe_of(probe.hash, place[probe.index - 1], probe.index - 1);
  }
}

void KvTable::prefetch_entry(const Probe& probe, std::uint32_t entry_bytes) const {
  if (probe.segment == nullptr) return;
  const KvBucket& bucket = probe.segment->buckets()[probe.home];
  const std::uint32_t mask = bucket.match(tag_of(probe.hash));
  if (mask == 0) return;
  const auto* entry = reinterpret_cast<const std::byte*>(
      probe.segment->entry(bucket.offset[std::countr_zero(mask)]));
  const auto* const end = entry + entry_bytes;
  __builtin_prefetch(entry, 1);
  entry -= reinterpret_cast<std::uintptr_t>(entry) % 64;
  while ((entry += 64) < end) __builtin_prefetch(entry, 1);
}

void KvTable::overwrite(Class& key_class, KvEntry& entry, Bytes value) {
  key_class.hash.remove(entry.hash);
  entry.value_bytes = static_cast<std::uint16_t>(value.size());
  if (value.size() == 8) {
    std::memcpy(entry.value(), value.data(), 8);
  } else if (!value.empty()) {
    std::memcpy(entry.value(), value.data(), value.size());
  }
  entry.hash = entry.computed_hash();
  key_class.hash.add(entry.hash);
}

void KvTable::write_new(Class& key_class, const Probe& probe, KvEntry& entry, Bytes key,
                        Bytes value) {
  entry.position = position_of(probe.hash);
  entry.value_bytes = static_cast<std::uint16_t>(value.size());
  entry.key_bytes = static_cast<std::uint8_t>(key.size());
  entry.reserved = 0;
  std::memcpy(entry.key(), key.data(), key.size());
  if (!value.empty()) std::memcpy(entry.value(), value.data(), value.size());
  entry.hash = entry.computed_hash();
  key_class.hash.add(entry.hash);
  key_class.weight += weight_of(key.size(), value.size());
}

bool KvTable::store(Probe probe, Bytes key, Bytes value) {
  const std::uint32_t class_index = class_of(probe.hash);
  Class& key_class = classes_[class_index];
  const SlabSize size = entry_size(key.size(), value.size());
  KvSegment::Slot slot = find_slot(probe, key);
  std::uint64_t old_weight = 0;
  if (slot) {
    KvEntry& entry = *probe.segment->entry(slot);
    if (entry.value_bytes == value.size() ||
        entry_size(key.size(), entry.value_bytes).index == size.index) {
      overwrite(key_class, entry, value);
      return true;
    }
    old_weight = weight_of(key.size(), entry.value_bytes);
  }
  if (key_class.weight - old_weight + weight_of(key.size(), value.size()) > class_limit_) {
    return false;
  }
  if (probe.segment == nullptr) {
    const SegmentId id = create(class_index, 0, ~0u, size.granules * kGranuleBytes, kBucketsMax);
    insert_place(class_index, 0, id);
    probe = locate(probe.hash);
  }
  for (;;) {
    if (!slot) probe = locate(probe.hash);
    KvSegment& segment = *probe.segment;
    SlabOffset offset = 0;
    if (slot || !segment.index_full()) offset = segment.heap.allocate(segment.base(), size);
    if (offset != 0) {
      segment.common.used_bytes = segment.heap.top * kGranuleBytes;
      write_new(key_class, probe, *segment.entry(offset), key, value);
      if (!slot) {
        segment.insert(offset, position_of(probe.hash), tag_of(probe.hash));
        ++key_class.entries;
        return true;
      }
      KvEntry& old = *segment.entry(slot);
      const SlabSize old_size = entry_size(key.size(), old.value_bytes);
      key_class.hash.remove(old.hash);
      key_class.weight -= old_weight;
      segment.heap.release(segment.base(), slot.bucket->offset[slot.index], old_size);
      slot.bucket->offset[slot.index] = offset;
      if (size.granules < old_size.granules) merge_around(class_index, probe.index);
      return true;
    }
    make_room(class_index, probe.index, size);
    probe = locate(probe.hash);
    slot = find_slot(probe, key);
  }
}

bool KvTable::remove(Probe probe, Bytes key) {
  const KvSegment::Slot slot = find_slot(probe, key);
  if (!slot) return false;
  Class& key_class = classes_[class_of(probe.hash)];
  const KvEntry& entry = *probe.segment->entry(slot);
  key_class.hash.remove(entry.hash);
  key_class.weight -= weight_of(key.size(), entry.value_bytes);
  --key_class.entries;
  probe.segment->remove(slot, tag_of(probe.hash), entry_size(key.size(), entry.value_bytes));
  merge_around(class_of(probe.hash), probe.index);
  return true;
}

void KvTable::clear() {
  segments_.clear();
  forget();
}

/// Empties what is kept beside the segments.
void KvTable::forget() {
  std::fill(classes_.begin(), classes_.end(), Class{});
  std::fill(directory_.begin(), directory_.end(), kNoPlace);
  search_steps_ = 0;
  ++version_;
}

SegmentId KvTable::create(std::uint32_t key_class, std::uint32_t first, std::uint32_t last,
                          std::uint32_t average_entry_bytes, std::uint32_t bucket_count_max) {
  const std::optional<SegmentId> id = segments_.create(key_class);
  CHECK(id && "the class limits bound the segments: see segments_max()");
  at(*id).init(first, last, average_entry_bytes, bucket_count_max);
  return *id;
}

void KvTable::set_place(std::uint32_t key_class, std::uint32_t index, SegmentId id) {
  places(key_class)[index] =
      Place{std::uint64_t{at(id).first_position} << 32 |
            static_cast<std::uint64_t>(id) << kBucketBits | at(id).bucket_count};
  ++version_;
}

void KvTable::insert_place(std::uint32_t key_class, std::uint32_t index, SegmentId id) {
  const std::uint32_t size = ++classes_[key_class].segments;
  CHECK(size <= places_max_);
  const std::span<Place> all = places(key_class);
  std::copy_backward(all.begin() + index, all.end() - 1, all.end());
  search_steps_ = std::max(search_steps_, static_cast<std::uint32_t>(std::bit_width(size)));
  set_place(key_class, index, id);
}

void KvTable::erase_place(std::uint32_t key_class, std::uint32_t index) {
  const std::span<Place> all = places(key_class);
  std::copy(all.begin() + index + 1, all.end(), all.begin() + index);
  all.back() = kNoPlace;
  --classes_[key_class].segments;
  ++version_;
}

void KvTable::make_room(std::uint32_t key_class, std::uint32_t index, SlabSize wanted) {
  const SegmentId id = id_of(places(key_class)[index]);
  const KvSegment& segment = at(id);
  if (segment.load() + wanted.granules > kSegmentGranules / 4 * 3) {
    split(key_class, index);
    return;
  }
  const std::uint32_t average =
      average_bytes(segment.heap.live + wanted.granules, segment.entry_count + 1);
  const SegmentId fresh =
      create(key_class, segment.first_position, segment.last_position, average, kBucketsMax);
  segment.for_each([&](const KvEntry& entry, std::uint16_t tag) { at(fresh).adopt(entry, tag); });
  set_place(key_class, index, fresh);
  segments_.destroy(id);
}

void KvTable::split(std::uint32_t key_class, std::uint32_t index) {
  const SegmentId id = id_of(places(key_class)[index]);
  const KvSegment& segment = at(id);
  const std::uint32_t average = average_bytes(segment.heap.live, segment.entry_count);
  // Not more buckets than now: all entries may go to one side, and must fit.
  const std::uint32_t buckets = segment.bucket_count;
  SegmentId left{};
  SegmentId right{};
  if (segment.first_position < segment.last_position) {
    const std::uint32_t cut = median_cut(segment);
    left = create(key_class, segment.first_position, cut - 1, average, buckets);
    right = create(key_class, cut, segment.last_position, average, buckets);
    segment.for_each([&](const KvEntry& entry, std::uint16_t tag) {
      at(entry.position < cut ? left : right).adopt(entry, tag);
    });
  } else {
    // Keys that collide in class and position fill a whole segment (someone chose them so): two
    // segments for the same position, siblings; find_slot() looks into all of them.
    left = create(key_class, segment.first_position, segment.last_position, average, buckets);
    right = create(key_class, segment.first_position, segment.last_position, average, buckets);
    segment.for_each([&](const KvEntry& entry, std::uint16_t tag) {
      at(at(left).heap.live < segment.heap.live / 2 ? left : right).adopt(entry, tag);
    });
  }
  set_place(key_class, index, left);
  insert_place(key_class, index + 1, right);
  segments_.destroy(id);
  merge(key_class, index + 1);
  if (index > 0) merge(key_class, index - 1);
}

void KvTable::merge_around(std::uint32_t key_class, std::uint32_t index) {
  if (classes_[key_class].segments == 1) return;
  if (at(id_of(places(key_class)[index])).load() > kSegmentGranules / 2) return;
  if (merge(key_class, index)) return;
  if (index > 0) merge(key_class, index - 1);
}

/// Merges segment `index` with the one after it if they fill half a segment at most.
bool KvTable::merge(std::uint32_t key_class, std::uint32_t index) {
  const std::uint32_t size = classes_[key_class].segments;
  if (index + 1 >= size) return false;
  const auto start = [&](std::uint32_t i) { return start_of(places(key_class)[i]); };
  // The first of several siblings stays with them, or find_slot() would not come to it.
  if (index + 2 < size && start(index + 1) == start(index + 2) &&
      start(index) != start(index + 1)) {
    return false;
  }
  const SegmentId left = id_of(places(key_class)[index]);
  const SegmentId right = id_of(places(key_class)[index + 1]);
  if (at(left).load() + at(right).load() > kSegmentGranules / 2) return false;
  const std::uint32_t average = average_bytes(at(left).heap.live + at(right).heap.live,
                                              at(left).entry_count + at(right).entry_count);
  const SegmentId merged =
      create(key_class, at(left).first_position, at(right).last_position, average, kBucketsMax);
  const auto adopt = [&](const KvEntry& entry, std::uint16_t tag) { at(merged).adopt(entry, tag); };
  at(left).for_each(adopt);
  at(right).for_each(adopt);
  erase_place(key_class, index + 1);
  set_place(key_class, index, merged);
  segments_.destroy(left);
  segments_.destroy(right);
  return true;
}

std::uint64_t KvTable::count() const {
  std::uint64_t sum = 0;
  for (const Class& key_class : classes_) sum += key_class.entries;
  return sum;
}

Error KvTable::damaged(SegmentId id) const {
  return Error{"key-value segment " + std::to_string(static_cast<std::uint32_t>(id)) +
               " of class " + std::to_string(at(id).common.key_class) + " is damaged"};
}

KvTable::Sum KvTable::sum_of(SegmentId id) const {
  Sum sum;
  at(id).for_each([&sum](const KvEntry& entry, std::uint16_t) {
    sum.hash.add(entry.hash);
    sum.weight += weight_of(entry.key_bytes, entry.value_bytes);
  });
  return sum;
}

Status KvTable::check(SegmentId id) {
  if (at(id).common.key_class >= kKeyClasses || !at(id).sound()) return damaged(id);
  checked_.resize(segments_.count_max());
  checked_[static_cast<std::uint32_t>(id)] = sum_of(id);
  return {};
}

Status KvTable::rebuild() {
  const auto checked = std::exchange(checked_, {});
  const auto known = [&](SegmentId id) {
    const auto index = static_cast<std::uint32_t>(id);
    return index < checked.size() && checked[index];
  };
  forget();
  std::vector<SegmentId> ids;
  for (std::uint32_t i = 0; i < segments_.id_end(); ++i) {
    const SegmentId id{i};
    if (!segments_.live(id)) continue;
    if (!known(id) && (at(id).common.key_class >= kKeyClasses || !at(id).sound())) {
      return damaged(id);
    }
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(), [this](SegmentId a, SegmentId b) {
    const KvSegment& x = at(a);
    const KvSegment& y = at(b);
    return std::tuple(x.common.key_class.get(), x.first_position, x.last_position) <
           std::tuple(y.common.key_class.get(), y.first_position, y.last_position);
  });
  for (const SegmentId id : ids) {
    const KvSegment& segment = at(id);
    Class& key_class = classes_[segment.common.key_class];
    if (key_class.segments == places_max_) return Error{"too many segments in one key class"};
    if (key_class.segments == 0 ? segment.first_position != 0 : !follows(segment)) {
      return Error{"segments of key class " + std::to_string(segment.common.key_class) +
                   " overlap or leave a gap: some are missing or of another replica"};
    }
    insert_place(segment.common.key_class, key_class.segments, id);
    const Sum sum = known(id) ? *checked[static_cast<std::uint32_t>(id)] : sum_of(id);
    key_class.hash += sum.hash;
    key_class.weight += sum.weight;
    key_class.entries += segment.entry_count;
  }
  for (std::uint32_t c = 0; c < kKeyClasses; ++c) {
    const Class& key_class = classes_[c];
    if (key_class.weight > class_limit_) {
      return Error{"key class " + std::to_string(c) + " holds more than the configured limit"};
    }
    if (key_class.segments > 0 && at(id_of(places(c).back())).last_position != ~0u) {
      return Error{"the last segment of key class " + std::to_string(c) + " is missing"};
    }
  }
  return {};
}

/// Whether `segment` may come after the last one of its class in the directory.
bool KvTable::follows(const KvSegment& segment) const {
  const std::uint32_t key_class = segment.common.key_class;
  const KvSegment& before = at(id_of(places(key_class).back()));
  if (segment.first_position == before.first_position) {
    return before.last_position == before.first_position;  // siblings
  }
  return segment.first_position == std::uint64_t{before.last_position} + 1;
}

void KvTable::hashes(std::span<ContentHash> per_class) const {
  for (std::uint32_t c = 0; c < kKeyClasses; ++c) per_class[c] = classes_[c].hash;
}

void KvTable::recompute_hashes(std::span<ContentHash> per_class) const {
  std::fill(per_class.begin(), per_class.end(), ContentHash{});
  for (std::uint32_t i = 0; i < segments_.id_end(); ++i) {
    if (!segments_.live(SegmentId{i})) continue;
    const KvSegment& segment = at(SegmentId{i});
    segment.for_each([&](const KvEntry& entry, std::uint16_t) {
      per_class[segment.common.key_class].add(entry.computed_hash());
    });
  }
}

}  // namespace annulus::statemachine::kv
