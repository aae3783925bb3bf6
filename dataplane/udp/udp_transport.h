// Frames over kernel UDP sockets, unprivileged: laptops, clouds without a NIC to give away, and
// clients. Works on 127.0.0.1 with many processes as on a network; bursts cross by recvmmsg and
// sendmmsg, straight into and out of the buffers that the rest of the node uses.
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
  /// its port works on, one that waits for the kernel to fill it.
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
  struct Batch;  // the arrays that recvmmsg and sendmmsg want

  UdpTransport(const UdpOptions& options, Descriptor epoll);
  Status add(Descriptor descriptor, const Endpoint& group);
  std::uint32_t receive_from(int socket, std::span<RxFrame> frames);
  std::uint32_t fill_ready(std::uint32_t wanted);
  bool sendable(const TxFrame& frame);
  void send(std::span<TxFrame> frames);
  void count_sent(const TxFrame& frame);
  void count_refused(int error);
  void count_kernel_drops(Nanos now);

  const Endpoint local_;
  const std::uint32_t frame_bytes_max_;
  const std::uint32_t socket_buffer_bytes_;
  BufferPool pool_;
  Descriptor epoll_;
  std::vector<Socket> sockets_;  // the unicast one first
  std::uint32_t next_socket_ = 0;
  Nanos next_drop_count_ = 0;
  std::array<Slice, kBurst> ready_;  // empty buffers for the next datagrams; the first ready_count_
  std::uint32_t ready_count_ = 0;
  std::unique_ptr<Batch> batch_;
  std::vector<std::string> warnings_;
};

}  // namespace annulus::dataplane
