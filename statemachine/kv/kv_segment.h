// Inside one segment of the key-value service: a table of cache-line buckets and a heap of entries.
// Offsets only. Which keys belong to a segment is kv_table.h's business.
//
//   | KvSegment header | buckets, one cache line each | heap of entries, 16-byte granules |
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "dataplane/hash.h"
#include "statemachine/kv/kv_codec.h"
#include "statemachine/segment.h"
#include "statemachine/slab.h"

namespace annulus::statemachine::kv {

constexpr std::uint32_t kSegmentBytes = 256 * 1024;
constexpr std::uint32_t kSegmentGranules = kSegmentBytes / kGranuleBytes;

/// A key's 64-bit hash, split: 8 bits of key class, 32 of position (a segment holds a range of
/// positions), and at the low end 15 of tag, which with the position give the bucket.
constexpr std::uint32_t kKeyClasses = 256;
constexpr std::uint32_t class_of(std::uint64_t hash) {
  return static_cast<std::uint32_t>(hash >> 56);
}
constexpr std::uint32_t position_of(std::uint64_t hash) {
  return static_cast<std::uint32_t>(hash >> 24);
}
/// Never 0, which marks an empty slot.
constexpr std::uint16_t tag_of(std::uint64_t hash) {
  return static_cast<std::uint16_t>(hash | 0x8000);
}

/// One key and its value. The value follows the key without a gap.
struct KvEntry {
  std::uint64_t hash;  // of key and value: this entry's part of the state hash
  std::uint32_t position;
  std::uint16_t value_bytes;
  std::uint8_t key_bytes;
  std::uint8_t reserved;

  std::byte* key() { return reinterpret_cast<std::byte*>(this + 1); }
  const std::byte* key() const { return reinterpret_cast<const std::byte*>(this + 1); }
  std::byte* value() { return key() + key_bytes; }
  const std::byte* value() const { return key() + key_bytes; }
  Bytes value_span() const { return {value(), value_bytes}; }
  Bytes key_span() const { return {key(), key_bytes}; }
  /// What `hash` must be. The seed keeps ("a", "bc") apart from ("ab", "c").
  std::uint64_t computed_hash() const {
    return dataplane::hash_bytes({key(), std::size_t{key_bytes} + value_bytes}, key_bytes);
  }
  bool has_key(Bytes wanted) const {
    if (key_bytes != wanted.size()) return false;
    if (key_bytes == 8) return std::memcmp(key(), wanted.data(), 8) == 0;
    return std::memcmp(key(), wanted.data(), key_bytes) == 0;
  }
};
static_assert(sizeof(KvEntry) == 16);

constexpr std::uint32_t entry_bytes(std::size_t key_bytes, std::size_t value_bytes) {
  return static_cast<std::uint32_t>(sizeof(KvEntry) + key_bytes + value_bytes);
}
constexpr std::uint32_t kEntryBytesMin = 32;  // a key has a byte, a block whole granules
constexpr SlabSize entry_size(std::size_t key_bytes, std::size_t value_bytes) {
  return slab_size(granules_of(entry_bytes(key_bytes, value_bytes)));
}

/// Fifteen slots in a cache line. Entries whose home is full go to a later bucket; the home counts
/// them, and keeps how far the farthest has gone.
struct alignas(64) KvBucket {
  static constexpr std::uint32_t kSlots = 15;
  std::uint16_t tag[kSlots];
  std::uint16_t displaced;
  SlabOffset offset[kSlots];
  std::uint16_t reach;

  /// A bit for each slot that has `wanted`.
  std::uint32_t match(std::uint16_t wanted) const {
#if defined(__SSE2__)
    const auto* lines = reinterpret_cast<const __m128i*>(tag);
    const __m128i all = _mm_set1_epi16(static_cast<short>(wanted));
    const __m128i low = _mm_cmpeq_epi16(_mm_load_si128(lines), all);
    const __m128i high = _mm_cmpeq_epi16(_mm_load_si128(lines + 1), all);
    return static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high))) & 0x7fff;
#else
    std::uint32_t mask = 0;
    for (std::uint32_t i = 0; i < kSlots; ++i) mask |= std::uint32_t{tag[i] == wanted} << i;
    return mask;
#endif
  }
};
static_assert(sizeof(KvBucket) == 64);

/// First bytes of a segment, and what can be done with it.
struct alignas(64) KvSegment {
  SegmentHeader common;
  std::uint32_t first_position;  // the closed range of positions it holds
  std::uint32_t last_position;
  std::uint32_t bucket_count;
  std::uint32_t entry_count;
  SlabHeap heap;

  /// Where an entry hangs. No entry: `bucket` is null.
  struct Slot {
    KvBucket* bucket = nullptr;
    std::uint32_t index = 0;
    explicit operator bool() const { return bucket != nullptr; }
  };

  /// Lays out a fresh segment for entries of that size on average (kEntryBytesMin at least).
  void init(std::uint32_t first, std::uint32_t last, std::uint32_t average_entry_bytes,
            std::uint32_t bucket_count_max);

  std::byte* base() { return reinterpret_cast<std::byte*>(this); }
  const std::byte* base() const { return reinterpret_cast<const std::byte*>(this); }
  KvBucket* buckets() { return reinterpret_cast<KvBucket*>(this + 1); }
  const KvBucket* buckets() const { return reinterpret_cast<const KvBucket*>(this + 1); }
  KvEntry* entry(SlabOffset offset) {
    return reinterpret_cast<KvEntry*>(base() + std::size_t{offset} * kGranuleBytes);
  }
  const KvEntry* entry(SlabOffset offset) const {
    return reinterpret_cast<const KvEntry*>(base() + std::size_t{offset} * kGranuleBytes);
  }
  KvEntry* entry(const Slot& slot) { return entry(slot.bucket->offset[slot.index]); }

  /// The home bucket of a key in a segment of `bucket_count` buckets. Position and tag alone give
  /// it, so that entries move to other segments without hashing their keys again.
  static std::uint32_t home_of(std::uint32_t position, std::uint16_t tag,
                               std::uint32_t bucket_count) {
    const std::uint64_t bits = (std::uint64_t{position} << 16 | tag) * 0x9e3779b97f4a7c15ull;
    return static_cast<std::uint32_t>((bits >> 32) * bucket_count >> 32);
  }

  Slot find(std::uint32_t home, std::uint16_t tag, Bytes key);

  /// Whether one more entry, or one of another size, finds room as things are.
  bool index_full() const { return entry_count >= bucket_count * 12; }

  /// Hangs a block into the index. index_full() is false.
  void insert(SlabOffset offset, std::uint32_t position, std::uint16_t tag);
  void remove(const Slot& slot, std::uint16_t tag, SlabSize size);

  /// Granules that the entries would take in a freshly laid out segment, index included.
  std::uint32_t load() const { return heap.live + (entry_count * 64 + 175) / 176; }

  /// Takes over a copy of an entry of another segment. There is room.
  void adopt(const KvEntry& from, std::uint16_t tag);

  /// Calls `visit(entry, tag)` for every entry.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (std::uint32_t b = 0; b < bucket_count; ++b) {
      const KvBucket& bucket = buckets()[b];
      for (std::uint32_t i = 0; i < KvBucket::kSlots; ++i) {
        if (bucket.tag[i] != 0) visit(*entry(bucket.offset[i]), bucket.tag[i]);
      }
    }
  }

  /// Whether foreign bytes are a sound segment: every offset inside, every entry findable, no block
  /// twice, every hash right.
  bool sound() const;
};
static_assert(sizeof(KvSegment) % 64 == 0);
constexpr std::uint32_t kBucketsMax =
    (kSegmentBytes - sizeof(KvSegment)) / (11 * kEntryBytesMin + sizeof(KvBucket));
/// A segment that is three quarters full fits a fresh layout, whatever its bucket count.
static_assert(sizeof(KvSegment) + kBucketsMax * sizeof(KvBucket) < kSegmentBytes / 4);
/// The greatest entry fits an empty segment twice over, whatever its bucket count.
static_assert(entry_size(kKeyBytesMax, kValueBytesMax).granules * 3 < kSegmentGranules);

}  // namespace annulus::statemachine::kv
