#include "tests/sim/foreigner.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "dataplane/frame.h"
#include "dataplane/hash.h"

namespace annulus::sim {

using dataplane::FrameHeader;

namespace {

constexpr std::uint32_t kOverheardPpm = 30'000;
constexpr std::size_t kOverheardMax = 8;

}  // namespace

void Foreigner::on_transmit(Nanos, std::uint32_t sender, const Endpoint& to,
                            std::span<const std::byte> head, std::span<const std::byte> payload) {
  if (sender == transport_.index() || overheard_.size() == kOverheardMax) return;
  if (!rng_.chance(kOverheardPpm)) return;
  overheard_.push_back({to, {head.begin(), head.end()}, {payload.begin(), payload.end()}});
}

/// The version, and every other time a number of the message; then the checksum of that.
void Foreigner::translate(std::vector<std::byte>& head) {
  auto& header = *reinterpret_cast<FrameHeader*>(head.data());
  header.version = static_cast<std::uint8_t>(header.version + (rng_.coin() ? 1 : -1));
  const std::size_t words = (head.size() - sizeof header) / sizeof(std::uint64_t);
  if (words != 0 && rng_.coin()) {
    auto& byte = head[sizeof header + rng_.below(words) * sizeof(std::uint64_t)];
    byte = static_cast<std::byte>(static_cast<int>(byte) + rng_.between(1, 3));
  }
  std::uint64_t seed;
  std::memcpy(&seed, head.data(), sizeof seed);
  header.checksum =
      dataplane::hash_bytes(std::span(head).subspan(offsetof(FrameHeader, cluster)), seed);
}

dataplane::PollResult Foreigner::poll(Nanos now, std::uint32_t budget) {
  std::array<dataplane::RxFrame, 8> ignored;
  transport_.receive(now, ignored);
  std::uint32_t work = 0;
  while (work < budget && !overheard_.empty() && speak_at_ <= now) {
    Overheard& frame = overheard_.front();
    translate(frame.head);
    dataplane::TxFrame tx{frame.to, frame.head, {}};
    if (!frame.payload.empty()) {
      tx.payload = payloads_.allocate(frame.payload.size());
      std::memcpy(tx.payload.mutable_data(), frame.payload.data(), frame.payload.size());
    }
    transport_.transmit(now, {&tx, 1});
    overheard_.pop_front();
    speak_at_ = now + rng_.between(100, 2'000) * kMicrosecond;
    ++spoken_;
    ++work;
  }
  return {work, std::max(speak_at_, now + 100 * kMicrosecond)};
}

}  // namespace annulus::sim
