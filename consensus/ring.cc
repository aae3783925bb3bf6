#include "consensus/ring.h"

namespace annulus::consensus {
namespace {

template <typename Members>
std::optional<std::uint32_t> index_of(const Members& members, NodeId id) {
  if (id == kNoNode) return std::nullopt;
  for (std::uint32_t i = 0; i < members.size(); ++i) {
    if (members[i].id == id) return i;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::uint32_t> Configuration::acceptor_index(NodeId id) const {
  return index_of(acceptors, id);
}

std::optional<std::uint32_t> Configuration::learner_index(NodeId id) const {
  return index_of(learners, id);
}

Route::Route(const Configuration& configuration, std::uint32_t coordinator)
    : size_(static_cast<std::uint32_t>(configuration.majority())) {
  const auto count = static_cast<std::uint32_t>(configuration.acceptors.size());
  CHECK(coordinator < count && size_ <= kRingMax);
  for (std::uint32_t i = 0; i + 1 < size_; ++i) {
    acceptors_[i] = static_cast<std::uint8_t>((coordinator + 1 + i) % count);
  }
  acceptors_[size_ - 1] = static_cast<std::uint8_t>(coordinator);
}

Route::Route(const WireRoute& wire) {
  for (; size_ < kRingMax && wire.acceptor[size_] != kRouteEnd; ++size_) {
    acceptors_[size_] = wire.acceptor[size_];
  }
}

bool Route::fits(const Configuration& configuration) const {
  for (std::uint32_t i = 0; i < size_; ++i) {
    if (acceptors_[i] >= configuration.acceptors.size()) return false;
  }
  return size_ > 0;
}

std::optional<std::uint32_t> Route::position(std::uint32_t acceptor) const {
  for (std::uint32_t i = 0; i < size_; ++i) {
    if (acceptors_[i] == acceptor) return i;
  }
  return std::nullopt;
}

std::optional<std::uint32_t> Route::successor(std::uint32_t acceptor) const {
  const auto place = position(acceptor);
  if (!place || *place + 1 >= size_) return std::nullopt;
  return acceptors_[*place + 1];
}

std::optional<std::uint32_t> Route::predecessor(std::uint32_t acceptor) const {
  const auto place = position(acceptor);
  if (!place || *place == 0) return std::nullopt;
  return acceptors_[*place - 1];
}

WireRoute Route::wire() const {
  WireRoute wire;
  wire.acceptor.fill(kRouteEnd);
  for (std::uint32_t i = 0; i < size_; ++i) wire.acceptor[i] = acceptors_[i];
  return wire;
}

}  // namespace annulus::consensus
