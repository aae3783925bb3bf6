// Frames over kernel UDP sockets, unprivileged: laptops, clouds without a NIC to give away, and
// clients. Works on 127.0.0.1 with many processes as on a network; bursts cross by recvmmsg and
// sendmmsg, straight into and out of the buffers that the rest of the node uses. Equal frames in a
// row, such as the fragments of a value, cross the kernel as one (UDP GSO and GRO).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/buffer.h"
#include "dataplane/frame.h"
#include "dataplane/transport.h"
#include "dataplane/udp/udp_socket.h"

namespace annulus::dataplane {

struct UdpOptions {
  /// The node's one address, also the one of the interface for multicast.
  Endpoint local;
  /// Largest IPv4 datagram, at most what the interface carries.
  std::uint32_t mtu = 1500;
  /// Datagrams received and not dropped yet: those whose payloads the node keeps, two bursts that
  /// its port works on, one that waits for the kernel to fill it. Each takes 64 KiB of address
  /// space, and as much memory as was ever used at once.
  std::uint32_t receive_buffers = 4096;
  /// Of the kernel, each socket and direction.
  std::uint32_t socket_buffer_bytes = 4 << 20;
};

class UdpTransport final : public Transport {
 public:
  static Result<std::unique_ptr<UdpTransport>> open(const UdpOptions& options);
  ~UdpTransport() override;

  std::uint32_t receive(Nanos now, std::span<RxFrame> frames) override;
  void transmit(Nanos now, std::span<TxFrame> frames) override;
  Status join(const Endpoint& group) override;
  Endpoint endpoint() const override { return local_; }
  std::uint32_t frame_bytes_max() const override { return frame_bytes_max_; }
  int wait_descriptor() const override { return epoll_.get(); }
  void touch_memory(std::uint32_t frames, std::uint64_t bytes) override;

  /// What an operator should hear after start-up, a sentence each; see kSocketBuffersClamped.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  static constexpr std::uint32_t kBurst = 64;
  struct Socket {
    Descriptor descriptor;
    Endpoint group;                  // none: the unicast socket
    std::uint32_t kernel_drops = 0;  // as last read; wraps
    std::int64_t lost = 0;  // kernel drops less own multicasts, since last counted; may be negative
  };
  /// What one message of recvmmsg brought: a datagram, or several of `segment` bytes each.
  struct Arrival {
    Slice block;
    Endpoint from;
    std::uint32_t segment = 0;
    std::uint32_t taken = 0;  // bytes handed on already
  };
  struct RxBatch;
  struct TxBatch;

  UdpTransport(const UdpOptions& options, Descriptor epoll);
  Status add(Descriptor descriptor, const Endpoint& group);
  void fetch(int socket, std::size_t wanted);
  std::uint32_t hand_on(std::span<RxFrame> frames);
  bool sendable(const TxFrame& frame);
  void enqueue(const TxFrame& frame);
  void send_queued();
  void send_apart(std::uint32_t message);
  void note_sent(const Endpoint& to, std::uint32_t frames, std::uint64_t bytes);
  void count_refused(int error, std::uint32_t frames);
  void count_kernel_drops(Nanos now);

  const Endpoint local_;
  const std::uint32_t frame_bytes_max_;
  const std::uint32_t socket_buffer_bytes_;
  bool segments_;  // whether frames in a row may cross the kernel as one
  BufferPool pool_;
  Descriptor epoll_;
  std::vector<Socket> sockets_;  // the unicast one first
  std::uint32_t next_socket_ = 0;
  Nanos next_drop_count_ = 0;
  std::array<Slice, kBurst> ready_;  // empty blocks for the next datagrams; the first ready_count_
  std::uint32_t ready_count_ = 0;
  std::array<Arrival, kBurst> arrivals_;  // [arrivals_next_, arrivals_count_) to be handed on
  std::uint32_t arrivals_next_ = 0;
  std::uint32_t arrivals_count_ = 0;
  std::unique_ptr<RxBatch> rx_;
  std::unique_ptr<TxBatch> tx_;
  std::vector<std::string> warnings_;
};

}  // namespace annulus::dataplane
