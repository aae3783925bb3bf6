// The in-process network: one switch, a LocalTransport for each endpoint, a bounded link for each
// ordered pair of them. Default of embedded clusters; frames cross it as bytes that the receiver
// validates, as on any network, only without copies: a multicast is a reference count.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/buffer.h"
#include "dataplane/frame.h"
#include "dataplane/spsc_ring.h"
#include "dataplane/transport.h"

namespace annulus::dataplane {

class LocalTransport;

struct LocalOptions {
  /// Largest IPv4 datagram carried, as on the other transports; frames are 28 bytes shorter.
  std::uint32_t mtu = kMtuMax;
  /// Frames that may wait on one link (rounded up to a power of two); more are dropped.
  std::uint32_t link_depth = 1024;
};

/// Owns the transports and everything in flight. Made, joined to groups and destroyed by one thread
/// while no other uses it. Pools whose payloads are sent through it outlive it, or clear() is
/// called before they go.
class LocalSwitch {
 public:
  /// One transport for each of `endpoints`, which are distinct.
  LocalSwitch(std::span<const Endpoint> endpoints, const LocalOptions& options);
  LocalSwitch(const LocalSwitch&) = delete;
  LocalSwitch& operator=(const LocalSwitch&) = delete;
  ~LocalSwitch();

  std::uint32_t size() const { return static_cast<std::uint32_t>(transports_.size()); }
  /// In the order of the constructor's endpoints.
  LocalTransport& transport(std::uint32_t index) { return *transports_[index]; }

  /// Drops every frame in flight, and with it the payload references. No other thread may use the
  /// switch meanwhile.
  void clear();

  /// What links and head pools may grow to; their memory is touched on first use only.
  std::uint64_t bytes() const;

 private:
  friend class LocalTransport;

  /// Half a cache line; who sent it follows from the link. Holds one reference to each buffer.
  struct Descriptor {
    Buffer* head;
    Buffer* payload;  // may be null
    std::uint32_t head_bytes;
    std::uint32_t payload_offset;
    std::uint32_t payload_bytes;
  };
  using Link = SpscRing<Descriptor>;
  struct Entry {
    std::uint64_t key = 0;  // of the endpoint; 0 is a free place
    std::uint32_t index = 0;
    bool group = false;
  };

  static std::uint64_t key(const Endpoint& endpoint) {
    return std::uint64_t{endpoint.address} << 16 | endpoint.port;
  }
  std::size_t place(std::uint64_t key) const {
    return (key * 0x9e3779b97f4a7c15u) >> directory_shift_;
  }
  const Entry* find(const Endpoint& endpoint) const {
    const std::uint64_t wanted = key(endpoint);
    for (std::size_t i = place(wanted);; i = (i + 1) & (directory_.size() - 1)) {
      if (directory_[i].key == wanted) return &directory_[i];
      if (directory_[i].key == 0) return nullptr;
    }
  }
  void enter(const Endpoint& endpoint, std::uint32_t index, bool group);
  void join(std::uint32_t member, const Endpoint& group);

  std::vector<Endpoint> endpoints_;
  std::vector<std::vector<std::uint32_t>> groups_;  // members, ascending
  std::vector<Entry> directory_;  // open addressing, at most a quarter full; read-only once running
  std::uint32_t directory_shift_;
  std::vector<std::unique_ptr<LocalTransport>> transports_;
};

class alignas(64) LocalTransport final : public Transport {
 public:
  std::uint32_t receive(Nanos now, std::span<RxFrame> frames) override;
  void transmit(Nanos now, std::span<TxFrame> frames) override;
  Status join(const Endpoint& group) override;
  Endpoint endpoint() const override { return endpoint_; }
  std::uint32_t frame_bytes_max() const override { return frame_bytes_max_; }

 private:
  friend class LocalSwitch;
  using Descriptor = LocalSwitch::Descriptor;
  using Link = LocalSwitch::Link;

  using Bell = std::atomic<std::uint8_t>;
  struct alignas(64) Bells {
    std::array<Bell, 64> bells{};
  };
  struct Outlet {
    Link* link;
    Bell* bell;
    bool push(Descriptor&& descriptor) {
      if (!link->push(std::move(descriptor))) return false;
      bell->store(1, std::memory_order_release);
      return true;
    }
  };

  LocalTransport(LocalSwitch& fabric, std::uint32_t index, const LocalOptions& options);
  Bell& bell(std::size_t source) { return bells_[source / 64].bells[source % 64]; }
  bool silent();
  static Descriptor describe(const TxFrame& frame, const Slice& head);
  void send_to_one(Outlet& outlet, TxFrame& frame, Slice head);
  void send_to_group(std::span<const std::uint32_t> members, TxFrame& frame, Slice head);

  LocalSwitch& switch_;
  const std::uint32_t index_;
  const Endpoint endpoint_;
  const std::uint32_t frame_bytes_max_;
  std::uint32_t next_source_ = 0;  // where the next receive() starts
  BufferPool heads_;
  std::vector<std::unique_ptr<Link>> in_;  // by source, the transport itself included
  // By source, set after a push into its link: a turn without input looks at these few bytes, not
  // at every link. The sender stores (release) after its push; the receiver takes with exchange,
  // and only then reads the link, so that a push it does not see has its bell still to ring.
  std::vector<Bells> bells_;
  std::vector<Outlet> out_;      // by destination
  std::vector<Outlet*> takers_;  // scratch of send_to_group
};

}  // namespace annulus::dataplane
