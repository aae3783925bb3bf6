// A node's frames in and out: opens what a transport received, seals what a role wants sent, and
// carries out dissemination. One core owns it; every node and client has one.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "consensus/effects.h"
#include "consensus/ring.h"
#include "dataplane/counters.h"
#include "dataplane/frame.h"
#include "dataplane/transport.h"

namespace annulus::consensus {

struct PortIdentity {
  std::uint64_t cluster = 0;
  std::uint16_t ring = 0;
  NodeId node = kNoNode;
  std::uint64_t epoch = 0;  // of this sender: its sequence starts at 1 under it
};

/// A validated frame; `head` keeps header and message alive.
struct Received {
  Endpoint from;
  Slice head;
  dataplane::Frame frame;
  MessageType type{};
};

enum class PortCounter : std::uint8_t {
  kDropTruncated,
  kDropBadMagic,
  kDropBadVersion,
  kDropBadFlags,
  kDropForeignCluster,
  kDropForeignRing,
  kDropTrailingBytes,
  kDropBadChecksum,
  kDropBadPayloadHash,
  kDropBadMessage,  // the type's own validation failed
  kDropOwnFrame,    // came back to its sender
  kRelayed,
  kCount,
};

/// Tells when a node may conclude from what it has not heard: once it has read all that arrived,
/// for what waits to be read is not lost. One that does not catch up for long mends what it lacks
/// anyway.
class Backlog {
 public:
  static constexpr std::uint32_t kTurnsMax = 64;

  /// Once a turn; `drained`: this turn read all there was.
  bool heard(bool drained) {
    turns_ = drained || turns_ == kTurnsMax ? 0 : turns_ + 1;
    return turns_ == 0;
  }

 private:
  std::uint32_t turns_ = 0;  // that left something unread, in a row
};

class Port {
 public:
  static constexpr std::uint32_t kBurst = 32;

  Port(dataplane::Transport& transport, const PortIdentity& identity,
       const Configuration& configuration, std::uint32_t value_bytes_max);

  /// Receives and validates one burst; what is not valid is dropped and counted. The result is
  /// valid until the next call; hand it to release() once handled, so that buffers go back.
  std::span<Received> receive(Nanos now);
  static void release(std::span<Received> burst);

  /// Seals and transmits every frame in `effects`, then clears them.
  void send(Nanos now, Effects& effects);

  dataplane::Transport& transport() { return transport_; }
  const dataplane::Transport& transport() const { return transport_; }
  const Configuration& configuration() const { return configuration_; }
  const PortIdentity& identity() const { return identity_; }
  /// The id under which it sends from here on.
  void set_node(NodeId node) { identity_.node = node; }
  dataplane::Counters<PortCounter>& counters() { return counters_; }

 private:
  void relay(Nanos now, const Received& received);
  std::optional<Endpoint> next_in_dissemination_ring(NodeId origin) const;
  void seal(Outgoing& out, std::uint16_t flags);
  void queue(Nanos now, const Endpoint& to, Outgoing& out);
  void flush(Nanos now);
  void fan_out(Nanos now, Outgoing& out);

  dataplane::Transport& transport_;
  PortIdentity identity_;
  const Configuration& configuration_;
  std::uint32_t value_bytes_max_;
  std::uint64_t sequence_ = 0;
  std::array<dataplane::RxFrame, kBurst> rx_;
  std::array<Received, kBurst> received_;
  std::array<dataplane::TxFrame, Effects::kCapacity> tx_;
  std::uint32_t tx_count_ = 0;
  dataplane::Counters<PortCounter> counters_;
};

}  // namespace annulus::consensus
