// Burst receive and burst transmit of datagrams: the one interface of `local`, `udp`, `dpdk` and
// the simulated network. One core owns a transport; nothing here is thread-safe unless it says so.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <string>

#include "dataplane/buffer.h"
#include "dataplane/clock.h"
#include "dataplane/counters.h"
#include "dataplane/result.h"

namespace annulus::dataplane {

/// An IPv4 address and UDP port, host byte order. On `local` the address is only a name.
struct Endpoint {
  std::uint32_t address = 0;
  std::uint16_t port = 0;
  auto operator<=>(const Endpoint&) const = default;
  bool multicast() const { return (address >> 28) == 0xe; }
};
/// "10.0.0.1:4000"
std::string to_string(const Endpoint& endpoint);
/// Parses "10.0.0.1:4000"; the error quotes the text and shows the form wanted.
Result<Endpoint> parse_endpoint(const std::string& text);

/// One frame to send. `head` (frame header and message) must stay valid during transmit() only;
/// `payload` is referenced for as long as the transport needs it.
struct TxFrame {
  Endpoint to;
  std::span<const std::byte> head;
  Slice payload;
};

/// One received datagram. Transports that receive into one block leave `payload` empty and put all
/// of it into `head`; `local` hands over head and payload apart.
struct RxFrame {
  Endpoint from;
  Slice head;
  Slice payload;
};

/// What a transport counts. Drops are named by cause.
enum class TransportCounter : std::uint8_t {
  kRxFrames,
  kRxBytes,
  kTxFrames,
  kTxBytes,
  kRxDropNoBuffer,        // receive pool, or the kernel's or device's queue, exhausted
  kRxDropNotOurs,         // another protocol, port or address
  kRxDropBadHeader,       // Ethernet, IPv4 or UDP header malformed, or checksum wrong
  kRxDropTooLong,         // longer than the MTU here
  kTxDropFull,            // link or device queue full
  kTxDropNoRoute,         // no such endpoint, or its hardware address is not known yet
  kTxDropTooLong,         // longer than the MTU
  kTxDropNoBuffer,        // header pool exhausted
  kTxDropError,           // the kernel or device refused
  kSocketBuffersClamped,  // `udp`: sockets with a smaller kernel buffer than asked for
  kCount,
};

/// Everything is best effort: what cannot be sent at once is dropped and counted, as on a network.
class Transport {
 public:
  virtual ~Transport() = default;

  /// Fills at most `frames.size()` entries; returns how many. Never blocks. Also does the
  /// transport's own housekeeping (ARP, IGMP, ring refills), for which `now` is passed.
  virtual std::uint32_t receive(Nanos now, std::span<RxFrame> frames) = 0;

  /// Sends a burst, in order per destination. The frames' payload references are consumed
  /// (slices are left empty). A multicast endpoint reaches every member of the group but the
  /// sender itself.
  virtual void transmit(Nanos now, std::span<TxFrame> frames) = 0;

  /// Becomes a member of a multicast group. Start-up only.
  virtual Status join(const Endpoint& group) = 0;

  /// Where others reach this transport.
  virtual Endpoint endpoint() const = 0;

  /// Largest head + payload of a frame: MTU less IPv4 and UDP headers.
  virtual std::uint32_t frame_bytes_max() const = 0;

  /// A descriptor that polls readable when frames may wait, or -1 when there is none; lets a core
  /// with idle policy `sleep` rest in ppoll(). To be waited for only after a receive() that found
  /// nothing.
  virtual int wait_descriptor() const { return -1; }

  /// Touches the memory that `frames` received and kept take, which are `bytes` at most together,
  /// if it is the transport's own. Before the first receive().
  virtual void touch_memory(std::uint32_t /*frames*/, std::uint64_t /*bytes*/) {}

  /// Adds all that this transport counts to the registry, as stages of `node`.
  virtual void register_counters(Registry& registry, const std::string& node) const {
    registry.add(node, "transport", counters_);
  }

  const Counters<TransportCounter>& counters() const { return counters_; }
  Counters<TransportCounter>& counters() { return counters_; }

 protected:
  Counters<TransportCounter> counters_;
};

}  // namespace annulus::dataplane
