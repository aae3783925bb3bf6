// Writes reply streams into pooled blocks, cuts them into Reply frames, and keeps the latest
// blocks, so that a reply whose frame was lost can be sent again as it was. Part of the worker.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "consensus/delivery.h"
#include "dataplane/spsc_ring.h"
#include "statemachine/batch.h"
#include "statemachine/block_arena.h"

namespace annulus::statemachine {

struct ReplyWriterOptions {
  std::uint16_t replica = 0;              // index among the learners
  std::uint32_t frame_bytes_max = 1'252;  // of the transport
  std::uint32_t block_bytes = 2u << 20;   // at least one stream
  std::uint32_t blocks = 32;              // kept, in flight, and one being written
  std::uint32_t blocks_kept = 8;
};

class ReplyWriter {
 public:
  /// Where a finished stream lies, for resend(); bytes 0 when nothing is kept.
  struct Kept {
    std::uint32_t generation = 0;
    std::uint32_t offset = 0;
    std::uint32_t bytes = 0;
  };

  ReplyWriter(const ReplyWriterOptions& options, dataplane::SpscRing<consensus::ReplyFrame>& out);

  /// Starts answering a value.
  void begin(const consensus::ValueId& value, const consensus::Endpoint& to);
  /// Adds one command's reply. False when memory is exhausted: the reply is dropped, and its client
  /// will ask for it.
  bool add(std::uint32_t command, CommandStatus status, std::span<const std::byte> reply);
  /// Ends the answer and queues it. What is kept of it is one whole stream or nothing.
  Kept end();

  /// Queues a kept stream again. False when it is gone.
  bool resend(const Kept& kept, const consensus::ValueId& value, const consensus::Endpoint& to);

  /// Hands queued frames to the network stage; false when the ring is full and some wait.
  bool flush();
  /// Whether another answer may begin: nothing waits.
  bool idle() const { return pending_count_ == 0; }
  /// Frames handed over, ever.
  std::uint64_t frames() const { return frames_; }
  std::uint64_t streams() const { return streams_; }

 private:
  struct Pending {
    consensus::ReplyFrame frame;  // payload: the whole stream
    std::uint32_t next = 0;       // fragment
  };

  void close_stream();
  void queue(dataplane::Slice stream, const consensus::ValueId& value,
             const consensus::Endpoint& to, std::uint16_t number);
  bool push_fragments(Pending& pending);

  const ReplyWriterOptions options_;
  const std::uint32_t fragment_bytes_;
  dataplane::SpscRing<consensus::ReplyFrame>& out_;
  BlockArena arena_;
  std::vector<dataplane::Slice> kept_;  // by generation modulo size
  std::vector<Pending> pending_;        // circular
  std::uint32_t pending_first_ = 0;
  std::uint32_t pending_count_ = 0;
  std::uint64_t frames_ = 0;
  std::uint64_t streams_ = 0;
  // The answer being written.
  consensus::ValueId value_;
  consensus::Endpoint to_;
  std::uint32_t written_ = 0;  // bytes of the open stream
  std::uint16_t number_ = 0;   // of the open stream
  Kept last_;
};

}  // namespace annulus::statemachine
