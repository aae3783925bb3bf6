// Bounded queue from one core to one other. Full is back-pressure: push refuses, the caller counts.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "dataplane/result.h"

namespace annulus::dataplane {

/// Single producer, single consumer. Each side caches the other's index, so that an uncontended
/// push or pop touches no line of the other core.
template <typename T>
class SpscRing {
 public:
  /// `capacity` is rounded up to a power of two.
  explicit SpscRing(std::uint32_t capacity)
      : capacity_(std::bit_ceil(capacity)), items_(new T[capacity_]) {}
  SpscRing(const SpscRing&) = delete;
  SpscRing& operator=(const SpscRing&) = delete;

  /// Producer only. False, with `item` untouched, when full.
  bool push(T&& item) {
    if (full()) return false;
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    items_[tail & (capacity_ - 1)] = std::move(item);
    tail_.store(tail + 1, std::memory_order_release);  // pairs with front's and readable's acquire
    return true;
  }

  /// Producer only: whether a push would be refused now. Looks at the consumer's line only when
  /// all the room seen so far is used up.
  bool full() {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_seen_ < capacity_) return false;
    head_seen_ = head_.load(std::memory_order_acquire);  // pairs with pop's and drop's release
    return tail - head_seen_ == capacity_;
  }

  /// Producer only: how many pushes would succeed now.
  std::uint32_t room() {
    head_seen_ = head_.load(std::memory_order_acquire);  // pairs with pop's release
    return capacity_ -
           static_cast<std::uint32_t>(tail_.load(std::memory_order_relaxed) - head_seen_);
  }

  /// Consumer only: the oldest item, or null when empty. Stays valid until pop().
  T* front() {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_seen_) {
      tail_seen_ = tail_.load(std::memory_order_acquire);  // pairs with push's release
      if (head == tail_seen_) return nullptr;
    }
    return &items_[head & (capacity_ - 1)];
  }

  /// Consumer only, after front() returned an item. The slot is reset, so it holds no reference.
  void pop() {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if constexpr (!std::is_trivially_destructible_v<T>) items_[head & (capacity_ - 1)] = T{};
    head_.store(head + 1, std::memory_order_release);  // pairs with push's and room's acquire
  }

  bool pop(T& out) {
    T* item = front();
    if (item == nullptr) return false;
    out = std::move(*item);
    head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    return true;
  }

  /// Consumer only: how many items may be read with peek() now.
  std::uint32_t readable() {
    tail_seen_ = tail_.load(std::memory_order_acquire);  // pairs with push's release
    return static_cast<std::uint32_t>(tail_seen_ - head_.load(std::memory_order_relaxed));
  }
  /// Consumer only: the i-th oldest item, i < readable().
  const T& peek(std::uint32_t i) const {
    return items_[(head_.load(std::memory_order_relaxed) + i) & (capacity_ - 1)];
  }
  /// Consumer only: gives back the `count` oldest slots at once, which are not reset.
  void drop(std::uint32_t count) requires std::is_trivially_destructible_v<T> {
    // Pairs with push's and room's acquire.
    head_.store(head_.load(std::memory_order_relaxed) + count, std::memory_order_release);
  }

  /// Any thread; a moment's figure for counters.
  std::uint32_t size() const {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    return tail < head ? 0 : static_cast<std::uint32_t>(tail - head);
  }
  std::uint32_t capacity() const { return capacity_; }

 private:
  const std::uint32_t capacity_;
  const std::unique_ptr<T[]> items_;
  alignas(64) std::atomic<std::uint64_t> tail_{0};  // written by the producer
  std::uint64_t head_seen_ = 0;                     // producer's copy of head_
  alignas(64) std::atomic<std::uint64_t> head_{0};  // written by the consumer
  std::uint64_t tail_seen_ = 0;                     // consumer's copy of tail_
};

}  // namespace annulus::dataplane
