// Allocator inside a segment: blocks of 16-byte granules, a free list for each size, all by offset.
// Part of a service's segment header; the KV and B-tree services use it.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dataplane/result.h"

namespace annulus::statemachine {

/// Names a block by its first granule, counted from the segment's start. 0 is none: a header is
/// there.
using SlabOffset = std::uint16_t;

constexpr std::uint32_t kGranuleBytes = 16;
constexpr std::uint32_t kGranulesMax = 4096;  // of one block
constexpr std::uint32_t kSlabExact = 128;     // up to here each number of granules is a size
constexpr std::uint32_t kSlabSizes = kSlabExact + 1 + 5 * 8;  // then eight sizes an octave

constexpr std::uint32_t granules_of(std::uint32_t bytes) {
  return (bytes + kGranuleBytes - 1) / kGranuleBytes;
}

/// The size class of a block of `granules` (1 .. kGranulesMax), and its true granules.
struct SlabSize {
  std::uint32_t index;
  std::uint32_t granules;
};
constexpr SlabSize slab_size(std::uint32_t granules) {
  if (granules <= kSlabExact) return {granules, granules};
  const auto octave = static_cast<std::uint32_t>(std::bit_width(granules - 1)) - 1;  // 7 .. 11
  const std::uint32_t step = 1u << (octave - 3);
  const std::uint32_t steps = (granules - (1u << octave) + step - 1) / step;  // 1 .. 8
  return {kSlabExact + (octave - 7) * 8 + steps, (1u << octave) + steps * step};
}
static_assert(slab_size(129).granules == 144 && slab_size(129).index == 129);
static_assert(slab_size(4096).granules == 4096 && slab_size(4096).index == kSlabSizes - 1);

/// Lies in the segment; every member function takes the segment's start. Freed blocks are reused
/// for their own size only: the service rebuilds the segment when `live` leaves room but allocate()
/// finds none.
struct SlabHeap {
  std::uint32_t top;    // granules from here on were never allocated
  std::uint32_t end;    // granules of the segment
  std::uint32_t live;   // granules in blocks that are allocated
  std::uint32_t begin;  // first granule of the heap
  std::array<SlabOffset, kSlabSizes> free;
  std::uint16_t pad;

  void init(std::uint32_t begin_granule, std::uint32_t end_granule) {
    begin = top = begin_granule;
    end = end_granule;
    live = 0;
  }

  /// A block, or 0 when there is no room for one of this size.
  SlabOffset allocate(std::byte* segment, SlabSize size) {
    SlabOffset offset = free[size.index];
    if (offset != 0) {
      std::memcpy(&free[size.index], segment + std::size_t{offset} * kGranuleBytes,
                  sizeof(SlabOffset));
    } else {
      if (end - top < size.granules) return 0;
      offset = static_cast<SlabOffset>(top);
      top += size.granules;
    }
    live += size.granules;
    return offset;
  }

  void release(std::byte* segment, SlabOffset offset, SlabSize size) {
    std::memcpy(segment + std::size_t{offset} * kGranuleBytes, &free[size.index],
                sizeof(SlabOffset));
    free[size.index] = offset;
    live -= size.granules;
  }
};
static_assert(sizeof(SlabHeap) % 4 == 0);

/// Checks a foreign segment's heap: that blocks, allocated and free, lie inside and apart.
class SlabCheck {
 public:
  /// Bounds themselves; `granules_max` is what the segment holds.
  bool start(const SlabHeap& heap, std::uint32_t granules_max) {
    used_.assign(granules_max, false);
    begin_ = heap.begin;
    top_ = heap.top;
    live_ = 0;
    return heap.end == granules_max && heap.begin <= heap.top && heap.top <= heap.end;
  }
  /// Takes an allocated block.
  bool block(std::uint32_t offset, std::uint32_t granules) {
    live_ += granules;
    return mark(offset, granules);
  }
  /// Takes a free block of a list that the service keeps by itself.
  bool free_block(std::uint32_t offset, std::uint32_t granules) { return mark(offset, granules); }
  /// After all allocated blocks: the free lists and the sum.
  bool finish(const SlabHeap& heap, const std::byte* segment) {
    for (std::uint32_t granules = 1, index = 1; index < kSlabSizes; ++index) {
      const SlabSize size = slab_size(granules);
      SlabOffset offset = heap.free[index];
      while (offset != 0) {
        if (!mark(offset, size.granules)) return false;  // also ends a cycle
        std::memcpy(&offset, segment + std::size_t{offset} * kGranuleBytes, sizeof(offset));
      }
      granules = size.granules + 1;
    }
    return live_ == heap.live;
  }

 private:
  bool mark(std::uint32_t offset, std::uint32_t granules) {
    if (offset < begin_ || offset >= top_ || granules > top_ - offset) return false;
    for (std::uint32_t i = offset; i < offset + granules; ++i) {
      if (used_[i]) return false;
      used_[i] = true;
    }
    return true;
  }

  std::vector<bool> used_;
  std::uint32_t begin_ = 0;
  std::uint32_t top_ = 0;
  std::uint32_t live_ = 0;
};

}  // namespace annulus::statemachine
