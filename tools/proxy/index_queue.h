// A bounded queue of connection indices. Each index is in it at most once, which its user's flag
// guarantees, so that it never fills.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "dataplane/result.h"

namespace annulus::proxy {

class IndexQueue {
 public:
  explicit IndexQueue(std::uint32_t capacity) : items_(std::bit_ceil(capacity)) {}
  bool empty() const { return head_ == tail_; }
  std::uint32_t size() const { return tail_ - head_; }
  void push(std::uint32_t index) {
    DCHECK(size() < items_.size());
    items_[tail_++ & (items_.size() - 1)] = index;
  }
  std::uint32_t front() const { return items_[head_ & (items_.size() - 1)]; }
  void pop() { ++head_; }

 private:
  std::vector<std::uint32_t> items_;
  std::uint32_t head_ = 0;  // both wrap freely
  std::uint32_t tail_ = 0;
};

}  // namespace annulus::proxy
