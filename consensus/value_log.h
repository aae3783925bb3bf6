// Decided values that wait for the state they follow. A replica that fetches a copy of another
// one's state learns meanwhile, and keeps here what it may not execute yet; once the copy is
// installed it executes from here, in order. Bounded; takes memory only while it holds something,
// and a grain more at most than has waited at one time: the memory consists of grains, and one
// that has been executed is the next to be filled. Part of the state receiver.
#pragma once

#include <cstdint>
#include <vector>

#include "consensus/delivery.h"
#include "dataplane/mapping.h"

namespace annulus::consensus {

class ValueLog {
 public:
  /// `bytes`: of values, and a record's head for each; at least four of the longest value's cost.
  ValueLog(std::uint64_t bytes, std::uint32_t value_bytes_max);

  /// What a value of so many bytes takes.
  static std::uint64_t cost(std::uint32_t value_bytes) {
    return sizeof(Record) + (value_bytes + 63) / 64 * 64;
  }
  /// To be used at most before values are taken out. There is one grain more, so that there is room
  /// for others while the first grain's are.
  std::uint64_t capacity() const { return memory_.size() - grain_; }
  bool takes(std::uint32_t value_bytes) const {
    return used() + cost(value_bytes) <= memory_.size();
  }
  /// The grains that hold something, up to the last value's end.
  std::uint64_t used() const { return count_ == 0 ? 0 : (count_ - 1) * grain_ + tail_; }
  /// What the values in it cost, without what lies idle in their grains.
  std::uint64_t held() const { return held_; }
  bool empty() const { return count_ == 0; }

  /// Behind all others. It must fit: takes().
  void push(const Delivery& delivery);
  /// The first; not empty.
  Instance front() const { return first().instance; }
  /// Takes the first out. False, with nothing done, when `pool` has no buffer for its bytes.
  bool pop(Delivery& delivery, dataplane::BufferPool& pool);
  /// Drops what is not after `instance`.
  void drop_through(Instance instance);
  void clear();

 private:
  /// Before each value's bytes; both lie in one grain.
  struct alignas(64) Record {
    Instance instance;
    Nanos received;
    Value value;
  };
  static_assert(sizeof(Record) % 64 == 0);
  struct Grain {
    std::uint32_t index = 0;  // in the memory
    std::uint64_t end = 0;    // of the last value in it, once another one is filled
  };
  Grain& grain(std::uint64_t place) { return grains_[(oldest_ + place) % grains_.size()]; }
  std::byte* at(std::uint32_t index, std::uint64_t offset) {
    return memory_.data() + index * grain_ + offset;
  }
  const Record& first() const {
    const std::uint64_t offset = grains_[oldest_].index * grain_ + head_;
    return *reinterpret_cast<const Record*>(memory_.data() + offset);
  }
  void begin_grain();
  void advance();

  const std::uint64_t grain_;  // bytes of each
  dataplane::Mapping memory_;
  std::vector<Grain> grains_;  // a ring: those that hold something, in order
  std::uint64_t held_ = 0;
  std::uint64_t oldest_ = 0;
  std::uint64_t count_ = 0;
  std::uint64_t head_ = 0;           // of the first value, within the oldest grain
  std::uint64_t tail_ = 0;           // behind the last, within the newest
  std::vector<std::uint32_t> free_;  // emptied, the last one on top
  std::uint32_t touched_ = 0;        // grains from here on were not used since clear()
};

}  // namespace annulus::consensus
