// The side of state transfer that gives: answers replicas that cannot go on by themselves with a
// copy of this replica's state. Pure but for the copy it reads; on the core of the network stage.
//
// Rules:
// - One copy at a time, shared by all who ask while it lives; it goes once nobody has asked for a
//   piece of it for a while. A copy that others are fetching is offered even to who asked for a
//   later one: perhaps the acceptors still reach back to it.
// - Execution stands still while the state is copied, so that takes at most a twentieth of a
//   replica's time, however many ask; and half of it at most passes while it makes copies at all.
//   A stall of the host in between is not counted: it would put the next copy off for long.
// - What is sent is bounded for each turn and each millisecond, over all who ask: the order comes
//   first. What is asked for beyond a bound is forgotten, and asked for again.
#pragma once

#include <array>
#include <cstdint>

#include "consensus/effects.h"
#include "consensus/port.h"
#include "consensus/state_exchange.h"

namespace annulus::consensus {

struct StateSourceOptions {
  std::uint32_t chunk_bytes = 1'200;     // of a piece: what fits a frame
  std::uint64_t bytes_per_ms = 100'000;  // sent at most
  std::uint64_t first_image = 1;         // names of copies start here; differs by incarnation
  Nanos keep_unused = kSecond;           // a copy that nobody fetches
};

enum class StateSourceCounter : std::uint8_t {
  kAsked,
  kOffered,
  kToldToWait,
  kHadNone,
  kCopies,
  kCopiesGivenUp,
  kChunksSent,
  kDropUnknownImage,  // asked for a piece of a copy that is gone
  kDropQueueFull,
  kCount,
};

class StateSource {
 public:
  StateSource(const StateSourceOptions& options, StateExchange& exchange);

  /// `current`: this replica executes what it learns. `position`: it has handed to its worker all
  /// up to there.
  void on_ask(const Received& in, bool current, Instance position, Nanos now, Effects& effects);
  void on_pull(const Received& in, Nanos now, Effects& effects);

  /// A copy is wanted: to be asked of the worker behind what was delivered so far, once this was
  /// told by copy_begun(). It will be that of this position or a later one.
  bool wants_copy() const { return stage_ == Stage::kWanted; }
  void copy_begun(Instance position, Nanos now);

  /// This replica needs the memory for itself. Not at once while the worker is copying.
  void give_up();

  /// Sends what may be sent, and looks after the copy. Once a turn.
  void tick(Nanos now, Effects& effects);
  Nanos deadline() const { return deadline_; }

  dataplane::Counters<StateSourceCounter>& counters() { return counters_; }
  /// How long execution stood still for each copy.
  const dataplane::Histogram& pause_ns() const { return pause_ns_; }
  static std::uint64_t memory_bytes(const StateSourceOptions& options) {
    return std::uint64_t{kChunkBuffers} * options.chunk_bytes;
  }

 private:
  enum class Stage : std::uint8_t { kNone, kWanted, kCopying, kServing, kGivingBack };
  struct Wanted {
    Endpoint to;
    std::uint32_t index = 0;
  };
  static constexpr std::uint32_t kQueueMax = 256;
  static constexpr std::uint32_t kChunkBuffers = 256;

  void answer(const Endpoint& to, StateOffer offer, Effects& effects);
  void offer(const Endpoint& to, Effects& effects);
  bool send_chunk(const Wanted& wanted, Effects& effects);
  std::uint32_t chunks() const;

  const StateSourceOptions options_;
  StateExchange& exchange_;
  dataplane::BufferPool pool_;  // pieces on their way
  Stage stage_ = Stage::kNone;
  std::uint64_t image_;  // the name of the copy
  Nanos begun_at_ = 0;
  Nanos used_at_ = 0;
  Nanos next_copy_at_ = 0;
  std::array<Wanted, kQueueMax> queue_;  // a ring by count
  std::uint64_t queue_head_ = 0;
  std::uint64_t queue_tail_ = 0;
  std::uint64_t allowance_ = 0;  // bytes that may be sent now
  Nanos allowed_at_ = 0;
  Nanos deadline_ = kNever;
  dataplane::Counters<StateSourceCounter> counters_;
  dataplane::Histogram pause_ns_;
};

}  // namespace annulus::consensus
