// The side of state transfer that takes: a replica that fell behind the acceptors' log, or was
// started again without its memory, fetches a copy of a peer's state and goes on from there. Pure
// but for the copy it writes; on the core of the network stage, beside the learner.
//
// Rules:
// - First it learns, then it asks. The learner goes on from the newest decided instance, and its
//   values are kept in a log of this replica's own; then a peer is asked for a state as of the
//   instance before that log's first, or later. So the copy and the log meet however long the copy
//   takes and however soon the acceptors forget: nothing is needed twice, and no race is run.
// - The credit that the learner reports is room in that log, and the log is bounded. So that it
//   never fills before the copy is in, half of it is handed out at once and the rest in proportion
//   to what has come of the copy: under a load that would outrun the copy, ordering slows down to
//   the pace at which both end together. While no peer gives anything nobody is made to wait: a log
//   that is half full begins anew; but for half a second it waits for a peer that is copying.
// - While the log is executed it takes in nine values for every ten, at most: so it ends, however
//   much comes meanwhile, and a load that this replica could just follow loses a tenth.
// - Nothing is executed, and no query answered, before a whole copy was verified and installed; one
//   that is refused leaves the replica asking. Then the log is executed, and replaced by deliveries
//   as ever once it is empty.
// - At most kAskedMax pieces, and half a megabyte, are on their way; what does not come is asked
//   for again, and of another peer once one is silent.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "consensus/effects.h"
#include "consensus/latency.h"
#include "consensus/learner.h"
#include "consensus/state_exchange.h"
#include "consensus/value_log.h"

namespace annulus::consensus {

struct StateReceiverOptions {
  std::uint64_t log_bytes = 64u << 20;  // of values that wait for the state; see ValueLog
  std::uint32_t value_bytes_max = 65'536;
};

enum class StateReceiverCounter : std::uint8_t {
  kBegun,  // could not go on by itself
  kAsked,
  kPeersChanged,   // the one asked had nothing, or fell silent
  kChangedMidway,  // and a part of its copy was here already
  kFetched,        // copies, whole
  kInstalled,
  kRefused,      // damaged, or more than fits
  kOutrun,       // the acceptors forgot what the log lacked
  kLogsDropped,  // nobody gave a copy for too long
  kChunks,
  kChunksPulledAgain,
  kDropUnknownImage,
  kDropUnaskedChunk,
  kDropBadChunk,
  kCount,
};

class StateReceiver {
 public:
  /// Peers are the learners of the same partitions as `self`, in whatever configuration is current.
  StateReceiver(const Configuration& configuration, std::uint32_t self,
                const StateReceiverOptions& options, Learner& learner, StateExchange& exchange);

  void on_manifest(const Received& in, Nanos now);
  void on_chunk(const Received& in, Nanos now);

  /// All that was learned is with the worker, or in its ring.
  bool current() const { return stage_ == Stage::kCurrent; }
  /// What the worker has is not the state to answer from.
  bool lacks_state() const { return stage_ != Stage::kCurrent && stage_ != Stage::kReplaying; }
  /// The copy in the exchange is used by this side.
  bool needs_memory() const { return lacks_state(); }

  /// What the learner has next is to be given to keep(), if there is room.
  bool room() const {
    const std::uint32_t most = options_.value_bytes_max;
    if (stage_ == Stage::kReplaying) return log_.takes(most) && log_.held() < allowed();
    return log_.used() + ValueLog::cost(most) <= allowed();
  }
  void keep(const Delivery& delivery) { log_.push(delivery); }
  /// The next value that has waited and may be executed now.
  bool next(Delivery& delivery, dataplane::BufferPool& pool);

  /// A whole copy is here, to be installed by the worker: in its place among the deliveries, once
  /// this was told by install_begun().
  bool wants_install() const { return stage_ == Stage::kFetched; }
  Instance image_instance() const { return manifest_.instance; }
  void install_begun();

  /// Once a turn. `heard`: all that has arrived was read.
  void tick(Nanos now, Effects& effects, bool heard);
  Nanos deadline() const { return deadline_; }

  dataplane::Counters<StateReceiverCounter>& counters() { return counters_; }
  /// From having to ask to executing again.
  const dataplane::Histogram& absent_ns() const { return absent_ns_; }

 private:
  enum class Stage : std::uint8_t {
    kCurrent,
    kAsking,
    kFetching,
    kFetched,
    kInstalling,
    kReplaying,
  };
  struct Piece {
    Nanos asked_at = 0;
    std::uint32_t pulls = 0;
    bool have = false;
  };

  void watch(Nanos now);
  void begin(Nanos now);
  void reposition(Instance next);
  bool blocks_in_vain(Nanos now);
  void ask(Nanos now, Effects& effects);
  void next_peer(Nanos now, Nanos pause);
  void take_offer(const StateManifest& offer, Nanos now);
  void fetch(Nanos now, Effects& effects, bool heard);
  void pull(std::span<const u32le> list, Effects& effects);
  void on_installed(Nanos now);
  std::uint64_t allowed() const;
  void find_peers();
  const Endpoint& peer() const { return configuration_.learners[peers_[peer_]].endpoint; }
  bool from_peer(const Received& in) const;
  Piece& piece(std::uint32_t index) { return pieces_[index % pieces_.size()]; }
  void schedule(Nanos at) { deadline_ = at < deadline_ ? at : deadline_; }

  const Configuration& configuration_;
  const StateReceiverOptions options_;
  Learner& learner_;
  StateExchange& exchange_;
  ValueLog log_;
  const NodeId self_;
  const PartitionMask partitions_;
  std::uint32_t peers_epoch_ = 0;     // of the configuration that peers_ are learners of
  std::vector<std::uint32_t> peers_;  // by index there
  std::size_t peer_ = 0;
  Stage stage_ = Stage::kCurrent;

  Instance stuck_at_{};  // behind the log, and not moving
  Nanos stuck_since_ = 0;
  Nanos begun_at_ = 0;
  Instance log_from_{};  // the log has, or will have, all from here on
  Nanos ask_at_ = 0;
  Nanos promised_at_ = 0;  // a peer said to wait
  Nanos full_since_ = kNever;
  // Bytes of the log: what it held when its execution began, and what was executed since.
  std::uint64_t replayed_from_ = 0;
  std::uint64_t replayed_ = 0;
  std::uint32_t asks_ = 0;  // in a row without an answer

  // The copy being fetched, and from whom.
  StateImage manifest_;
  std::uint64_t image_ = 0;  // 0: none
  std::size_t image_peer_ = 0;
  std::uint32_t chunk_bytes_ = 0;
  std::uint32_t count_ = 0;
  std::uint32_t base_ = 0;  // pieces below are here
  std::uint32_t end_ = 0;   // pieces below were asked for
  std::array<Piece, kAskedMax> pieces_;
  Nanos heard_at_ = 0;
  QuantileEstimate piece_delay_;

  Nanos deadline_ = kNever;
  dataplane::Counters<StateReceiverCounter> counters_;
  dataplane::Histogram absent_ns_;
};

}  // namespace annulus::consensus
