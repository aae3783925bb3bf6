// The load generator: one native client with many sessions, driven closed-loop (each session keeps
// its window full) or open-loop (commands start on a schedule, and latency counts from the intended
// start, so a stall is not hidden). Every command goes through the public client API with its own
// session and sequence, and every reply is checked.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/stage.h"
#include "statemachine/client.h"
#include "tools/bench/key_chooser.h"

namespace annulus::bench {

enum class ServiceKind : std::uint8_t { kKv, kBtree };

/// Shares of a hundred.
struct Mix {
  std::uint32_t read = 0;
  std::uint32_t update = 100;
  std::uint32_t insert = 0;
  std::uint32_t scan = 0;
  std::uint32_t read_modify_write = 0;
  std::uint32_t remove = 0;
};

struct LoadOptions {
  ServiceKind service = ServiceKind::kKv;
  std::uint8_t service_id = 1;
  Mix mix;
  Distribution distribution = Distribution::kUniform;
  std::uint32_t key_bytes = 8;
  std::uint32_t value_bytes = 8;
  std::uint64_t keys = 1'000'000;
  std::uint32_t scan_entries_max = 1'000;
  bool scan_length_uniform = false;  // YCSB: 1..max; else always max
  std::uint32_t clients = 64;        // sessions
  std::uint32_t window = 64;         // commands outstanding in each
  double rate = 0;                   // commands a second, open loop; 0: closed loop
  std::uint64_t seed = 1;
};

enum class LoadCounter : std::uint8_t {
  kCommands,  // completed and right
  kWrong,     // a reply that is not what it must be: the run is void
  kFailed,    // ended without a reply: deadline, session lost
  kBytes,     // of keys and values moved
  kScannedEntries,
  kOverdue,  // open loop: commands that started late because the client was out of room
  kCount,
};

class Load final : public dataplane::Stage, private statemachine::CompletionSink {
 public:
  explicit Load(const LoadOptions& options);
  /// Where the load goes: a client whose completions come here, and which has no other sessions.
  void attach(statemachine::Client& client);
  CompletionSink& sink() { return *this; }

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "client"; }
  int wait_descriptor() const override { return client_->wait_descriptor(); }

  /// What the stage does; set by another thread, seen at the next poll.
  enum class Phase : std::uint8_t {
    kIdle,     // only completes what is outstanding
    kLoading,  // inserts every record once, then idles
    kRunning,  // the mix
  };
  void set_phase(Phase phase) { phase_.store(phase, std::memory_order_release); }
  /// All sessions open (and, while loading, all records inserted), nothing outstanding.
  bool settled() const { return settled_.load(std::memory_order_acquire); }

  const dataplane::Counters<LoadCounter>& counters() const { return counters_; }
  /// From submit, or from the intended start in open loop, to the checked reply.
  const dataplane::Histogram& latency() const { return latency_; }

 private:
  enum class Op : std::uint8_t { kRead, kUpdate, kInsert, kScan, kReadModifyWrite, kRemove };
  struct InFlight {
    Nanos intended = 0;
    std::uint64_t record = 0;
    std::uint32_t entries = 0;
    std::uint32_t session = 0;  // index into sessions_
    Op op{};
    bool second = false;  // the write of a read-modify-write
  };

  void on_completions(std::span<const statemachine::Completion> completions, Nanos now) override;
  bool right(const InFlight& command, const statemachine::Completion& completion);
  bool issue(Nanos now);
  void issue_due(Nanos now, std::uint32_t budget);
  bool submit(const InFlight& command, Nanos now);
  bool submit_kv(const InFlight& command, statemachine::SessionHandle session, std::uint64_t tag,
                 Nanos now);
  bool submit_btree(const InFlight& command, statemachine::SessionHandle session, std::uint64_t tag,
                    Nanos now);
  Op draw();
  void fill_key(std::uint64_t record, std::byte* key) const;
  void fill_value(std::uint64_t record, std::byte* value) const;
  std::uint64_t btree_key(std::uint64_t record) const;

  const LoadOptions options_;
  statemachine::Client* client_ = nullptr;
  KeyChooser chooser_;
  std::vector<statemachine::SessionHandle> sessions_;
  std::vector<std::uint32_t> tokens_;  // sessions with room, a ring: one entry a free place
  std::uint64_t token_head_ = 0;
  std::uint64_t token_tail_ = 0;
  std::vector<InFlight> in_flight_;
  std::vector<std::uint32_t> free_;  // of in_flight_
  std::vector<InFlight> deferred_;   // second halves that the client had no room for yet
  std::uint64_t load_next_ = 0;
  Nanos schedule_ = 0;  // open loop: when the next command is to start
  bool opened_ = false;
  std::vector<std::byte> key_;
  std::vector<std::byte> value_;
  std::atomic<Phase> phase_{Phase::kIdle};  // written by the controlling thread, read by poll()
  std::atomic<bool> settled_{false};        // written by poll(), read by the controlling thread
  dataplane::Counters<LoadCounter> counters_;
  dataplane::Histogram latency_;
};

}  // namespace annulus::bench
