// A client that knows nothing of commands: it submits opaque values, which concern one partition or
// two, in sequence, and repeats them without much thought. Replicas execute them as no-ops; what it
// exercises is the order: masks, fragments, duplicates, gaps, redirects.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "consensus/effects.h"
#include "consensus/membership.h"
#include "consensus/port.h"
#include "dataplane/stage.h"
#include "tests/sim/rng.h"

namespace annulus::sim {

struct RawClientOptions {
  consensus::PortIdentity identity;
  std::vector<consensus::PartitionMask> masks;  // one is drawn for each value
  std::uint32_t values = 0;                     // to submit before it rests
  std::uint32_t window = 16;
  std::uint32_t value_bytes_max = 65'536;
  std::uint32_t large_ppm = 60'000;  // values of many fragments
  Nanos think_max = kMillisecond;
};

class RawClient final : public dataplane::Stage {
 public:
  RawClient(const RawClientOptions& options, const consensus::Configuration& configuration,
            dataplane::Transport& transport, Rng rng);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "raw_client"; }

  /// Somebody delivered its value: what a reply would tell.
  void on_delivered(std::uint64_t sequence);

  bool done() const { return next_ > options_.values && outstanding_.empty(); }
  std::uint64_t submitted() const { return next_ - 1; }
  std::uint64_t retransmitted() const { return retransmitted_; }
  const RawClientOptions& options() const { return options_; }
  std::string describe() const;

 private:
  struct Outstanding {
    consensus::Value value;
    dataplane::Slice bytes;
    Nanos resend_at = 0;
    bool delivered = false;
  };

  void on_ack(const consensus::SubmitAck& ack, Nanos now);
  bool submit_next(Nanos now);
  void send(Outstanding& value, Nanos now);
  void switch_target(std::uint32_t acceptor, Nanos now);

  RawClientOptions options_;
  consensus::Configuration configuration_;
  consensus::ConfigurationNews news_;
  Rng rng_;
  dataplane::BufferPool pool_;
  consensus::Port port_;
  consensus::Effects effects_;
  std::uint32_t fragment_bytes_;
  std::deque<Outstanding> outstanding_;  // in sequence
  std::uint64_t next_ = 1;
  std::uint64_t limit_ = 4;
  std::uint32_t target_ = 0;
  Nanos heard_ = 0;
  Nanos submit_at_ = 0;
  std::uint64_t retransmitted_ = 0;
};

}  // namespace annulus::sim
