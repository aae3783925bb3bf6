// A node of another wire version on the same segment, as during a careless upgrade: it overhears
// what members send, and says the same in its own version, or something else in their name. Its
// frames are whole and their checksums right, so that nothing but the version tells them from
// others.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "dataplane/stage.h"
#include "tests/sim/network.h"

namespace annulus::sim {

class Foreigner final : public dataplane::Stage, public NetworkObserver {
 public:
  Foreigner(SimTransport& transport, Rng rng) : transport_(transport), rng_(rng) {}

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "foreigner"; }
  void on_transmit(Nanos now, std::uint32_t sender, const Endpoint& to,
                   std::span<const std::byte> head, std::span<const std::byte> payload) override;
  void on_deliver(Nanos, std::uint32_t, std::span<const std::byte>) override {}
  std::uint64_t spoken() const { return spoken_; }

 private:
  struct Overheard {
    Endpoint to;
    std::vector<std::byte> head;
    std::vector<std::byte> payload;
  };
  void translate(std::vector<std::byte>& head);

  SimTransport& transport_;
  FramePool payloads_{1};
  Rng rng_;
  std::deque<Overheard> overheard_;
  Nanos speak_at_ = 0;
  std::uint64_t spoken_ = 0;
};

}  // namespace annulus::sim
