// The simulated network: a dataplane::Transport for each node and client, and between each two a
// link that loses, doubles, delays, reorders and damages frames as the seed says.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <queue>
#include <span>
#include <string>
#include <vector>

#include "dataplane/transport.h"
#include "tests/sim/rng.h"
#include "tests/sim/trace.h"

namespace annulus::sim {

using dataplane::Endpoint;

/// How one directed link behaves now. The world sets it from the base quality and active faults.
struct LinkQuality {
  Nanos latency_min = 2 * kMicrosecond;
  Nanos latency_max = 10 * kMicrosecond;
  std::uint32_t slow = 1;  // multiplies the latency
  std::uint32_t loss_ppm = 0;
  std::uint32_t multicast_loss_ppm = 0;  // on top, for frames sent to a group
  std::uint32_t duplicate_ppm = 0;
  std::uint32_t reorder_ppm = 0;     // overtaken by what is sent after it, by up to 20 latencies
  std::uint32_t flip_ppm = 0;        // one bit of the datagram inverted
  std::uint32_t frames_max = 4'096;  // in flight; more are dropped as a full link does
  bool cut = false;
};

/// What happened to frames, over all links.
enum class NetworkEvent : std::uint8_t {
  kDelivered,
  kLost,
  kLostInMulticast,
  kDuplicated,
  kReordered,
  kFlipped,
  kDroppedFull,
  kDroppedCut,
  kCount,
};

/// Sees every frame as it is sent, before the network touches it, and as it arrives; for checkers.
class NetworkObserver {
 public:
  virtual ~NetworkObserver() = default;
  virtual void on_transmit(Nanos now, std::uint32_t sender, const Endpoint& to,
                           std::span<const std::byte> head, std::span<const std::byte> payload) = 0;
  /// A frame reaches its receiver undamaged; `head` begins with the frame's header and message.
  virtual void on_deliver(Nanos now, std::uint32_t receiver, std::span<const std::byte> head) = 0;
};

/// Received frames of one end, each in memory of its own and of its own size: what reads past one,
/// or after it was given back, is seen by the sanitizers. All must be back before the pool goes.
class FramePool {
 public:
  explicit FramePool(std::uint32_t count) : count_(count) {}
  FramePool(const FramePool&) = delete;
  FramePool& operator=(const FramePool&) = delete;
  ~FramePool() { CHECK(held_ == 0); }

  /// Empty when `count` are out.
  dataplane::Slice allocate(std::size_t bytes);
  std::uint32_t held() const { return held_; }
  std::uint32_t count() const { return count_; }

 private:
  static void release(dataplane::Buffer* buffer);

  std::uint32_t count_;
  std::uint32_t held_ = 0;
};

class SimNetwork;

/// One node's end. Received frames lie in a pool of its own, so a leaked slice is seen there.
class SimTransport final : public dataplane::Transport {
 public:
  /// `split`: hand over head and payload apart, as transports without a copy do.
  SimTransport(SimNetwork& network, std::uint32_t index, const Endpoint& endpoint, bool split,
               std::uint32_t frame_bytes_max, std::uint32_t buffers);

  std::uint32_t receive(Nanos now, std::span<dataplane::RxFrame> frames) override;
  void transmit(Nanos now, std::span<dataplane::TxFrame> frames) override;
  Status join(const Endpoint& group) override;
  Endpoint endpoint() const override { return endpoint_; }
  std::uint32_t frame_bytes_max() const override { return frame_bytes_max_; }

  std::uint32_t index() const { return index_; }
  /// Buffers that are not free.
  std::uint32_t buffers_held() const { return heads_.held() + payloads_.held(); }

 private:
  bool hand_over(const std::vector<std::byte>& head, const std::vector<std::byte>& payload,
                 dataplane::RxFrame& frame);

  SimNetwork& network_;
  std::uint32_t index_;
  Endpoint endpoint_;
  bool split_;
  std::uint32_t frame_bytes_max_;
  FramePool heads_;
  FramePool payloads_;
};

class SimNetwork {
 public:
  SimNetwork(Rng rng, std::uint32_t frame_bytes_max, Trace& trace)
      : rng_(rng), frame_bytes_max_(frame_bytes_max), trace_(trace) {}

  /// A new end with an address of its own; all are attached before the first frame is sent.
  std::unique_ptr<SimTransport> attach(const Endpoint& endpoint, bool split, std::uint32_t buffers);

  LinkQuality& link(std::uint32_t from, std::uint32_t to) {
    return links_[from * ends_.size() + to].quality;
  }
  std::uint32_t ends() const { return static_cast<std::uint32_t>(ends_.size()); }

  /// When the next frame reaches `end`, or kNever.
  Nanos next_arrival(std::uint32_t end) const {
    return ends_[end].queue.empty() ? kNever : ends_[end].queue.top().arrival;
  }
  /// The machine of `end` is gone: it sends `frames_left` more frames of the turn that it is in,
  /// and what is on its way to it reaches nobody, until revive().
  void kill(std::uint32_t end, std::uint32_t frames_left);
  void revive(std::uint32_t end);
  bool dead(std::uint32_t end) const { return ends_[end].dead; }
  std::unique_ptr<SimTransport> transport_of(std::uint32_t end, bool split, std::uint32_t buffers);

  /// The world's time. Nodes tell the transport theirs, which may be wrong.
  void set_now(Nanos now) { now_ = now; }
  Nanos now() const { return now_; }
  std::uint64_t in_flight() const { return in_flight_; }

  void observe(NetworkObserver* observer) { observers_.push_back(observer); }
  void forget_observers() { observers_.clear(); }
  std::uint64_t count(NetworkEvent event) const { return events_[static_cast<std::size_t>(event)]; }

 private:
  friend class SimTransport;
  void drop_queued(std::uint32_t end);

  /// The bytes of one datagram, shared by all receivers that it is on its way to.
  struct Packet {
    std::vector<std::byte> head;
    std::vector<std::byte> payload;
    std::uint32_t references = 0;
  };
  struct Arrival {
    Nanos arrival;
    std::uint64_t order;
    std::uint32_t packet;
    std::uint32_t from;
    std::int64_t flipped_bit;  // -1: none
    bool operator>(const Arrival& other) const {
      return arrival != other.arrival ? arrival > other.arrival : order > other.order;
    }
  };
  struct End {
    Endpoint endpoint;
    std::priority_queue<Arrival, std::vector<Arrival>, std::greater<>> queue;
    bool dead = false;
    std::uint32_t frames_left = 0;  // that a dead one still gets out
  };
  struct Link {
    LinkQuality quality;
    Nanos last_arrival = 0;
    std::uint32_t in_flight = 0;
  };

  bool send(Nanos now, std::uint32_t from, std::uint32_t to, bool multicast, std::uint32_t packet);
  void enqueue(Nanos arrival, std::uint32_t from, std::uint32_t to, std::uint32_t packet);
  std::uint32_t new_packet(std::span<const std::byte> head, std::span<const std::byte> payload);
  void release(std::uint32_t packet);
  void add(NetworkEvent event) { ++events_[static_cast<std::size_t>(event)]; }

  Rng rng_;
  std::uint32_t frame_bytes_max_;
  Trace& trace_;
  std::vector<NetworkObserver*> observers_;
  std::vector<End> ends_;
  std::vector<Link> links_;
  std::map<Endpoint, std::uint32_t> by_endpoint_;
  std::map<Endpoint, std::vector<std::uint32_t>> groups_;
  std::vector<Packet> packets_;
  std::vector<std::uint32_t> free_packets_;
  Nanos now_ = 0;
  std::uint64_t order_ = 0;
  std::uint64_t in_flight_ = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(NetworkEvent::kCount)> events_{};
};

const char* to_string(NetworkEvent event);

}  // namespace annulus::sim
