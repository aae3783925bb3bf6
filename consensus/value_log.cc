#include "consensus/value_log.h"

#include <algorithm>
#include <cstring>

namespace annulus::consensus {
namespace {

/// Little memory goes round while little waits, and one long value at its end wastes little.
constexpr std::uint64_t kGrainBytes = dataplane::Mapping::kGrain;
constexpr std::uint64_t kGrainsMin = 16;

std::uint64_t grain_bytes(std::uint64_t bytes, std::uint64_t longest) {
  return std::max(std::min(kGrainBytes, bytes / kGrainsMin / 64 * 64), longest);
}

}  // namespace

ValueLog::ValueLog(std::uint64_t bytes, std::uint32_t value_bytes_max)
    : grain_(grain_bytes(bytes, cost(value_bytes_max))),
      memory_((bytes / grain_ + 1) * grain_),
      grains_(bytes / grain_ + 1) {
  CHECK(bytes >= 4 * cost(value_bytes_max));
  free_.reserve(grains_.size());
}

void ValueLog::begin_grain() {
  CHECK(count_ < grains_.size());
  if (count_ != 0) grain(count_ - 1).end = tail_;
  std::uint32_t index = touched_;
  if (free_.empty()) {
    ++touched_;
  } else {
    index = free_.back();
    free_.pop_back();
  }
  grain(count_) = {index, 0};
  ++count_;
  tail_ = 0;
}

void ValueLog::push(const Delivery& delivery) {
  const std::uint64_t bytes = cost(delivery.bytes.size());
  if (count_ == 0 || tail_ + bytes > grain_) begin_grain();
  std::byte* place = at(grain(count_ - 1).index, tail_);
  const Record head{delivery.instance, delivery.received, delivery.value};
  std::memcpy(place, &head, sizeof head);
  std::memcpy(place + sizeof head, delivery.bytes.data(), delivery.bytes.size());
  tail_ += bytes;
  held_ += bytes;
}

void ValueLog::advance() {
  const std::uint64_t bytes = cost(first().value.bytes);
  head_ += bytes;
  held_ -= bytes;
  if (count_ == 1) {
    if (head_ == tail_) clear();
  } else if (head_ == grain(0).end) {
    free_.push_back(grain(0).index);
    oldest_ = (oldest_ + 1) % grains_.size();
    --count_;
    head_ = 0;
  }
}

bool ValueLog::pop(Delivery& delivery, dataplane::BufferPool& pool) {
  const Record& head = first();
  dataplane::Slice bytes = pool.allocate();
  if (!bytes) return false;
  bytes.truncate(head.value.bytes);
  std::memcpy(bytes.mutable_data(), &head + 1, bytes.size());
  delivery = {DeliveryKind::kDecided, head.instance, head.value, std::move(bytes), head.received};
  advance();
  return true;
}

void ValueLog::drop_through(Instance instance) {
  while (!empty() && front() <= instance) advance();
}

/// What was touched is the host's again.
void ValueLog::clear() {
  constexpr std::uint64_t kWhole = dataplane::Mapping::kGrain;
  const std::uint64_t used = (touched_ * grain_ + kWhole - 1) / kWhole * kWhole;
  if (used != 0) memory_.give_back(0, std::min<std::uint64_t>(used, memory_.size()));
  free_.clear();
  held_ = 0;
  oldest_ = count_ = head_ = tail_ = touched_ = 0;
}

}  // namespace annulus::consensus
