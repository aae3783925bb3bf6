#include "consensus/value_log.h"

#include <algorithm>
#include <cstring>

namespace annulus::consensus {

ValueLog::ValueLog(std::uint64_t bytes) : memory_(bytes) {
  CHECK(bytes % sizeof(Record) == 0 && bytes != 0);
}

void ValueLog::write(std::uint64_t at, std::span<const std::byte> bytes) {
  const std::uint64_t place = at % memory_.size();
  const std::uint64_t first = std::min<std::uint64_t>(bytes.size(), memory_.size() - place);
  std::memcpy(memory_.data() + place, bytes.data(), first);
  std::memcpy(memory_.data(), bytes.data() + first, bytes.size() - first);
}

void ValueLog::read(std::uint64_t at, std::span<std::byte> bytes) const {
  const std::uint64_t place = at % memory_.size();
  const std::uint64_t first = std::min<std::uint64_t>(bytes.size(), memory_.size() - place);
  std::memcpy(bytes.data(), memory_.data() + place, first);
  std::memcpy(bytes.data() + first, memory_.data(), bytes.size() - first);
}

void ValueLog::push(const Delivery& delivery) {
  CHECK(used() + cost(delivery.bytes.size()) <= capacity());
  const Record head{delivery.instance, delivery.received, delivery.value};
  write(tail_, std::as_bytes(std::span{&head, 1}));
  write(tail_ + sizeof head, delivery.bytes.bytes());
  tail_ += cost(delivery.bytes.size());
}

void ValueLog::advance() {
  head_ += cost(record(head_).value.bytes);
  if (head_ == tail_) clear();
}

bool ValueLog::pop(Delivery& delivery, dataplane::BufferPool& pool) {
  const Record& first = record(head_);
  dataplane::Slice bytes = pool.allocate();
  if (!bytes) return false;
  bytes.truncate(first.value.bytes);
  read(head_ + sizeof first, {bytes.mutable_data(), bytes.size()});
  delivery = {DeliveryKind::kDecided, first.instance, first.value, std::move(bytes),
              first.received};
  advance();
  return true;
}

void ValueLog::drop_through(Instance instance) {
  while (!empty() && front() <= instance) advance();
}

/// What was touched is the host's again.
void ValueLog::clear() {
  if (tail_ != 0) memory_.give_back(0, memory_.size());
  head_ = tail_ = 0;
}

}  // namespace annulus::consensus
