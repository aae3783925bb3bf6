// A transport that loses, repeats and reorders frames of another one, the same way for the same
// seed. Wrapped around a client's or node's own transport in tests.
#pragma once

#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "dataplane/transport.h"

namespace annulus::tests {

struct Faults {
  double loss = 0;       // of frames in each direction
  double duplicate = 0;  // frames that come twice
  double reorder = 0;    // frames received that are held back until a later burst
};

class LossyTransport final : public dataplane::Transport {
 public:
  LossyTransport(dataplane::Transport& inner, std::uint64_t seed) : inner_(inner), random_(seed) {}

  void set(const Faults& faults) { faults_ = faults; }
  /// Drops what is held back.
  void clear() {
    ready_.clear();
    held_.clear();
  }

  std::uint32_t receive(Nanos now, std::span<dataplane::RxFrame> frames) override {
    std::vector<dataplane::RxFrame> fresh(frames.size());
    const std::uint32_t count = inner_.receive(now, fresh);
    for (std::size_t i = held_.size(); i > 0; --i) {
      ready_.push_back(std::move(held_.front()));
      held_.pop_front();
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      if (chance(faults_.loss)) continue;
      if (chance(faults_.duplicate)) ready_.push_back(fresh[i]);
      (chance(faults_.reorder) ? held_ : ready_).push_back(std::move(fresh[i]));
    }
    std::uint32_t given = 0;
    for (; given < frames.size() && !ready_.empty(); ++given) {
      frames[given] = std::move(ready_.front());
      ready_.pop_front();
    }
    return given;
  }

  void transmit(Nanos now, std::span<dataplane::TxFrame> frames) override {
    for (dataplane::TxFrame& frame : frames) {
      if (chance(faults_.loss)) {
        frame.payload.reset();
        continue;
      }
      if (chance(faults_.duplicate)) {
        dataplane::TxFrame again{frame.to, frame.head, frame.payload};
        inner_.transmit(now, {&again, 1});
      }
      inner_.transmit(now, {&frame, 1});
    }
  }

  Status join(const dataplane::Endpoint& group) override { return inner_.join(group); }
  dataplane::Endpoint endpoint() const override { return inner_.endpoint(); }
  std::uint32_t frame_bytes_max() const override { return inner_.frame_bytes_max(); }

 private:
  bool chance(double probability) {
    return std::uniform_real_distribution<double>(0, 1)(random_) < probability;
  }

  dataplane::Transport& inner_;
  std::mt19937_64 random_;
  Faults faults_;
  std::deque<dataplane::RxFrame> ready_;
  std::deque<dataplane::RxFrame> held_;
};

}  // namespace annulus::tests
