// Decided values that wait for the state they follow. A replica that fetches a copy of another
// one's state learns meanwhile, and keeps here what it may not execute yet; once the copy is
// installed it executes from here, in order. Bounded; takes memory only while it holds something.
// Part of the state receiver.
#pragma once

#include <cstdint>

#include "consensus/delivery.h"
#include "dataplane/mapping.h"

namespace annulus::consensus {

class ValueLog {
 public:
  /// `bytes`: of values, and a record's head for each; a multiple of 64.
  explicit ValueLog(std::uint64_t bytes);

  /// What a value of so many bytes takes.
  static std::uint64_t cost(std::uint32_t value_bytes) {
    return sizeof(Record) + (value_bytes + 63) / 64 * 64;
  }
  std::uint64_t capacity() const { return memory_.size(); }
  std::uint64_t used() const { return tail_ - head_; }
  bool empty() const { return head_ == tail_; }

  /// Behind all others. It must fit: used() + cost() <= capacity().
  void push(const Delivery& delivery);
  /// The first; not empty.
  Instance front() const { return record(head_).instance; }
  /// Takes the first out. False, with nothing done, when `pool` has no buffer for its bytes.
  bool pop(Delivery& delivery, dataplane::BufferPool& pool);
  /// Drops what is not after `instance`.
  void drop_through(Instance instance);
  void clear();

 private:
  /// Before each value's bytes; never cut by the end of the memory, which the bytes may be.
  struct alignas(64) Record {
    Instance instance;
    Nanos received;
    Value value;
  };
  static_assert(sizeof(Record) % 64 == 0);
  const Record& record(std::uint64_t at) const {
    return *reinterpret_cast<const Record*>(memory_.data() + at % memory_.size());
  }
  void advance();
  void write(std::uint64_t at, std::span<const std::byte> bytes);
  void read(std::uint64_t at, std::span<std::byte> bytes) const;

  dataplane::Mapping memory_;
  std::uint64_t head_ = 0;  // bytes ever taken out
  std::uint64_t tail_ = 0;  // bytes ever put in
};

}  // namespace annulus::consensus
