#include "statemachine/kv/kv_segment.h"

#include <algorithm>
#include <bit>

namespace annulus::statemachine::kv {

namespace {
constexpr std::uint32_t kHeaderGranules = sizeof(KvSegment) / kGranuleBytes;
constexpr std::uint32_t kBucketGranules = sizeof(KvBucket) / kGranuleBytes;
}  // namespace

void KvSegment::init(std::uint32_t first, std::uint32_t last, std::uint32_t average_entry_bytes,
                     std::uint32_t bucket_count_max) {
  first_position = first;
  last_position = last;
  // A full heap then fills about eleven slots of fifteen.
  const auto per_bucket = static_cast<std::uint32_t>(11 * average_entry_bytes + sizeof(KvBucket));
  const std::uint32_t wanted = (kSegmentBytes - sizeof(KvSegment)) / per_bucket;
  bucket_count = std::clamp(wanted, 4u, bucket_count_max);
  entry_count = 0;
  heap.init(kHeaderGranules + bucket_count * kBucketGranules, kSegmentGranules);
  common.used_bytes = heap.top * kGranuleBytes;
}

KvSegment::Slot KvSegment::find(std::uint32_t home, std::uint16_t tag, Bytes key) {
  KvBucket* bucket = &buckets()[home];
  const std::uint32_t reach = bucket->reach;
  for (std::uint32_t distance = 0;; ++distance) {
    for (std::uint32_t mask = bucket->match(tag); mask != 0; mask &= mask - 1) {
      const auto index = static_cast<std::uint32_t>(std::countr_zero(mask));
      if (entry(bucket->offset[index])->has_key(key)) return {bucket, index};
    }
    if (distance == reach) return {};
    bucket = &buckets()[home + distance + 1 < bucket_count ? home + distance + 1
                                                           : home + distance + 1 - bucket_count];
  }
}

void KvSegment::insert(SlabOffset offset, std::uint32_t position, std::uint16_t tag) {
  const std::uint32_t home = home_of(position, tag, bucket_count);
  for (std::uint32_t distance = 0; distance < bucket_count; ++distance) {
    const std::uint32_t at = home + distance;
    KvBucket& bucket = buckets()[at < bucket_count ? at : at - bucket_count];
    const std::uint32_t mask = bucket.match(0);
    if (mask == 0) continue;
    const auto index = static_cast<std::uint32_t>(std::countr_zero(mask));
    bucket.tag[index] = tag;
    bucket.offset[index] = offset;
    if (distance > 0) {
      KvBucket& origin = buckets()[home];
      ++origin.displaced;
      origin.reach = static_cast<std::uint16_t>(std::max<std::uint32_t>(origin.reach, distance));
    }
    ++entry_count;
    return;
  }
  CHECK(false && "insert into a segment whose index is full");
}

void KvSegment::remove(const Slot& slot, std::uint16_t tag, SlabSize size) {
  const SlabOffset offset = slot.bucket->offset[slot.index];
  KvBucket& home = buckets()[home_of(entry(offset)->position, tag, bucket_count)];
  if (&home != slot.bucket && --home.displaced == 0) home.reach = 0;
  slot.bucket->tag[slot.index] = 0;
  slot.bucket->offset[slot.index] = 0;
  heap.release(base(), offset, size);
  --entry_count;
}

void KvSegment::adopt(const KvEntry& from, std::uint16_t tag) {
  const SlabOffset offset = heap.allocate(base(), entry_size(from.key_bytes, from.value_bytes));
  CHECK(offset != 0);
  std::memcpy(static_cast<void*>(entry(offset)), &from,
              entry_bytes(from.key_bytes, from.value_bytes));
  insert(offset, from.position, tag);
  common.used_bytes = heap.top * kGranuleBytes;
}

bool KvSegment::sound() const {
  SlabCheck check;
  if (common.used_bytes < sizeof(KvSegment) || first_position > last_position ||
      bucket_count == 0 || bucket_count > (common.used_bytes - sizeof(KvSegment)) / 64 ||
      heap.begin != kHeaderGranules + bucket_count * kBucketGranules ||
      common.used_bytes != std::uint64_t{heap.top} * kGranuleBytes ||
      !check.start(heap, kSegmentGranules)) {
    return false;
  }
  std::vector<std::uint32_t> displaced(bucket_count, 0);
  std::uint32_t entries = 0;
  for (std::uint32_t b = 0; b < bucket_count; ++b) {
    const KvBucket& bucket = buckets()[b];
    for (std::uint32_t i = 0; i < KvBucket::kSlots; ++i) {
      if (bucket.tag[i] == 0) continue;
      const std::uint32_t at = bucket.offset[i];
      if (at < heap.begin || at >= heap.top) return false;
      const KvEntry& entry = *this->entry(bucket.offset[i]);
      const SlabSize size = entry_size(entry.key_bytes, entry.value_bytes);
      if (entry.key_bytes == 0 || entry.key_bytes > kKeyBytesMax || entry.reserved != 0 ||
          entry.value_bytes > kValueBytesMax || !check.block(at, size.granules)) {
        return false;
      }
      const std::uint64_t key_hash = dataplane::hash_bytes(entry.key_span());
      if (class_of(key_hash) != common.key_class || position_of(key_hash) != entry.position ||
          tag_of(key_hash) != bucket.tag[i] || entry.position < first_position ||
          entry.position > last_position || entry.hash != entry.computed_hash()) {
        return false;
      }
      const std::uint32_t home = home_of(entry.position, bucket.tag[i], bucket_count);
      const std::uint32_t distance = b >= home ? b - home : b + bucket_count - home;
      if (distance > buckets()[home].reach) return false;
      displaced[home] += distance > 0 ? 1 : 0;
      ++entries;
    }
  }
  for (std::uint32_t b = 0; b < bucket_count; ++b) {
    const KvBucket& bucket = buckets()[b];
    if (bucket.displaced != displaced[b] || bucket.reach >= bucket_count) return false;
  }
  return entries == entry_count && check.finish(heap, base());
}

}  // namespace annulus::statemachine::kv
