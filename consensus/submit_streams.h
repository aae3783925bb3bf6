// Values on their way from proposers to their place in the order: reassembles, and gives back the
// values of each proposer in its sequence. Used by the coordinator, and by a server without
// replication. Pure; one core owns it.
#pragma once

#include <cstdint>
#include <vector>

#include "consensus/assembly.h"
#include "consensus/effects.h"
#include "consensus/port.h"

namespace annulus::consensus {

struct SubmitOptions {
  std::uint32_t proposers_max = 256;  // a power of two
  std::uint32_t window = 64;          // values a proposer may have waiting; a power of two
};

enum class SubmitCounter : std::uint8_t {
  kValues,  // taken into the order
  kDuplicates,
  kFragmentsWaited,  // values that came in several frames
  kGapsWaited,       // values that came before an earlier one
  kAcks,
  kDropBeyondWindow,
  kGivenUp,  // fragments dropped again, so that a value that others wait for finds memory
  kDropNoMemory,
  kDropBadContent,
  kDropMismatch,
  kDropTooManyProposers,
  kProposersReclaimed,
  kCount,
};

class SubmitStreams {
 public:
  SubmitStreams(const SubmitOptions& options, dataplane::BufferPool& assembly_pool);

  void on_submit(const Received& in, Nanos now);

  /// The next value to order: proposers take turns. Null when none is complete. Valid until pop().
  struct Ready {
    Value value;
    Slice bytes;
    Nanos received = 0;  // when its first frame came
  };
  const Ready* front();
  void pop();

  /// Acknowledgements: what arrived, and credit. Once per burst.
  void flush(Ballot ballot, Nanos now, Effects& effects);

  /// Forgets every proposer: they will send again what they have not got replies for.
  void clear();

  dataplane::Counters<SubmitCounter>& counters() { return counters_; }

 private:
  struct Pending {
    Assembly assembly;
    Nanos received = 0;
  };
  struct Stream {
    bool used = false;
    bool queued = false;  // in ready_
    bool ack_due = false;
    ValueId key;  // proposer and epoch; sequence is `next`
    Endpoint endpoint;
    std::uint64_t next = 0;    // first sequence not ordered yet
    std::uint64_t oldest = 0;  // nothing below is sent again
    std::uint64_t acked = 0;   // `next` when last acknowledged
    Nanos active = 0;
    std::uint32_t pending_first = 0;  // its window in pending_
  };

  Pending& pending(const Stream& stream, std::uint64_t sequence) {
    return pending_[stream.pending_first + (sequence & (options_.window - 1))];
  }
  const Pending& pending(const Stream& stream, std::uint64_t sequence) const {
    return pending_[stream.pending_first + (sequence & (options_.window - 1))];
  }
  Stream* find(const ValueId& id);
  Stream* open(const ValueId& id, std::uint64_t oldest, const Endpoint& from, Nanos now);
  void skip_to_oldest(Stream& stream);
  void enqueue_if_ready(Stream& stream);
  std::uint64_t received_below(const Stream& stream) const;
  bool make_room(Stream& needy);
  bool give_up_one(Stream& stream);
  void want_ack(Stream& stream);

  const SubmitOptions options_;
  dataplane::BufferPool& pool_;
  std::vector<Stream> streams_;
  std::vector<std::uint16_t> index_;  // open addressing over (proposer, epoch): stream + 1
  std::vector<Pending> pending_;
  std::vector<std::uint16_t> ready_;  // circular queue of streams whose next value is complete
  std::uint32_t ready_head_ = 0;
  std::uint32_t ready_count_ = 0;
  std::vector<std::uint16_t> ack_due_;
  Ready front_;
  dataplane::Counters<SubmitCounter> counters_;
};

}  // namespace annulus::consensus
