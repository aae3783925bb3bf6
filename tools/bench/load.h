// The load generator: one native client with many sessions, driven closed-loop (each session keeps
// its window full) or open-loop (commands start on a schedule, and latency counts from the intended
// start, so a stall is not hidden). Every command goes through the public client API with its own
// session and sequence, and every reply is checked.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/stage.h"
#include "statemachine/client.h"
#include "tools/bench/key_chooser.h"

namespace annulus::bench {

/// By their id in the cluster.
enum class ServiceKind : std::uint8_t { kKv = 1, kBtree = 2 };

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
  Mix mix;
  Distribution distribution = Distribution::kUniform;
  std::uint32_t key_bytes = 8;
  std::uint32_t value_bytes = 8;
  std::uint64_t keys = 1'000'000;  // at least 2
  std::uint32_t field_bytes = 0;   // updates write one such part of the value (kv); 0: all of it
  std::uint32_t scan_entries_max = 1'000;
  bool scan_length_uniform = false;  // YCSB: 1..max; else always max
  std::uint32_t scans_max = 64;      // outstanding in all: their replies are long
  std::uint32_t clients = 64;        // sessions
  std::uint32_t window = 64;         // commands outstanding in each
  double rate = 0;                   // commands a second, open loop; 0: closed loop
  std::uint64_t seed = 1;
};

/// The B-tree's key of a record, a bijection of the low 32 bits: distinct, and spread over the key
/// space in random insert order; and the record of a key.
std::uint64_t btree_key(std::uint64_t record);
std::uint64_t btree_record(std::uint64_t key);

enum class LoadCounter : std::uint8_t {
  kCommands,  // completed and right
  kWrong,     // a reply that is not what it must be: the run is void
  kFailed,    // ended without a reply: deadline, session lost
  kBytes,     // of keys and values moved
  kScannedEntries,
  kOverdue,  // open loop: commands that started late because the client was out of room
  kCount,
};

/// When commands completed and how long they took: the last of them. One thread records; another
/// may copy what was recorded less than a lap ago.
class Timeline {
 public:
  struct Sample {
    Nanos completed = 0;
    Nanos took = 0;
  };
  explicit Timeline(std::uint32_t samples) : samples_(std::bit_ceil(samples)) {}

  void record(Nanos completed, Nanos took) {
    const std::uint64_t at = count_.load(std::memory_order_relaxed);
    samples_[at & (samples_.size() - 1)] = {completed, took};
    count_.store(at + 1, std::memory_order_release);
  }
  std::uint64_t count() const { return count_.load(std::memory_order_acquire); }
  const Sample& at(std::uint64_t index) const { return samples_[index & (samples_.size() - 1)]; }

 private:
  std::vector<Sample> samples_;
  std::atomic<std::uint64_t> count_{0};  // published by record()
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
    kNone,     // never set
    kIdle,     // only completes what is outstanding
    kLoading,  // inserts every record once, then idles
    kRunning,  // the mix
  };
  void set_phase(Phase phase) { phase_.store(phase, std::memory_order_release); }
  /// The phase that was set has begun, all sessions are open (and, while loading, all records
  /// inserted), nothing is outstanding.
  bool settled() const {
    return settled_.load(std::memory_order_acquire) == phase_.load(std::memory_order_relaxed);
  }
  /// Other shares from the next kRunning on. Only while settled in kIdle.
  void set_mix(const Mix& mix) {
    options_.mix = mix;
    drawn_.reset();
  }
  /// Another rate from the next kRunning on. Only while settled in kIdle.
  void set_rate(double rate) {
    options_.rate = rate;
    schedule_ = 0;
  }
  /// Only while settled in kIdle; it outlives the load.
  void set_timeline(Timeline* timeline) { timeline_ = timeline; }
  /// Stalls counted by the cores that serve the commands: those that completed while one was
  /// counted are also recorded apart. Only while settled in kIdle; the counters outlive the load.
  void watch_stalls(std::vector<const dataplane::Counter*> counters) {
    stall_counters_ = std::move(counters);
  }

  const dataplane::Counters<LoadCounter>& counters() const { return counters_; }
  /// From submit, or from the intended start in open loop, to the checked reply.
  const dataplane::Histogram& latency() const { return latency_; }
  /// Of those, the ones during which a watched core stood still.
  const dataplane::Histogram& stalled_latency() const { return stalled_latency_; }

 private:
  enum class Op : std::uint8_t { kRead, kUpdate, kInsert, kScan, kReadModifyWrite, kRemove };
  struct InFlight {
    Nanos intended = 0;
    std::uint64_t record = 0;
    std::uint64_t from = 0;     // scans: the first key that is still to come
    std::uint32_t entries = 0;  // scans: how many are still to come
    std::uint32_t session = 0;  // index into sessions_
    Op op{};
    // The write of a read-modify-write, or the rest of a scan longer than a reply.
    bool second = false;
  };

  void on_completions(std::span<const statemachine::Completion> completions, Nanos now) override;
  enum class Verdict : std::uint8_t { kRight, kWrong, kGoesOn };
  Verdict judge(InFlight& command, const statemachine::Completion& completion);
  Verdict judge_scan(InFlight& command, const statemachine::Completion& completion);
  bool right_value(std::uint64_t record, std::span<const std::byte> value) const;
  void finish(const InFlight& command, Nanos now);
  bool issue(Nanos intended, Nanos now);
  void issue_due(Nanos now, std::uint32_t budget);
  bool submit(const InFlight& command, Nanos now);
  template <typename Request>
  bool submit_request(const Request& request, const InFlight& command, Nanos now);
  Op draw();
  InFlight draw_command();
  void fill_key(std::uint64_t record, std::byte* key) const;
  void fill_value(std::uint64_t record, std::byte* value) const;
  bool reads(const InFlight& command) const {
    return command.op == Op::kRead || (command.op == Op::kReadModifyWrite && !command.second);
  }
  bool writes_field(const InFlight& command) const {
    return options_.field_bytes != 0 && command.op != Op::kInsert;
  }

  LoadOptions options_;
  statemachine::Client* client_ = nullptr;
  KeyChooser chooser_;
  std::vector<statemachine::SessionHandle> sessions_;
  std::vector<std::uint32_t> tokens_;  // sessions with room, a ring: one entry a free place
  std::uint64_t token_head_ = 0;
  std::uint64_t token_tail_ = 0;
  std::vector<InFlight> in_flight_;
  std::vector<std::uint32_t> free_;  // of in_flight_
  std::vector<InFlight> deferred_;   // second halves that the client had no room for yet
  std::optional<InFlight> drawn_;    // the next of the mix
  std::uint64_t load_next_ = 0;
  std::uint32_t scans_ = 0;  // outstanding
  Nanos schedule_ = 0;       // open loop: when the next command is to start
  bool opened_ = false;
  std::vector<std::byte> key_;
  std::vector<std::byte> value_;
  std::atomic<Phase> phase_{Phase::kIdle};    // written by the controlling thread, read by poll()
  std::atomic<Phase> settled_{Phase::kNone};  // written by poll(): the phase that is done
  dataplane::Counters<LoadCounter> counters_;
  dataplane::Histogram latency_;
  dataplane::Histogram stalled_latency_;
  std::vector<const dataplane::Counter*> stall_counters_;
  std::uint64_t stalls_seen_ = 0;
  Timeline* timeline_ = nullptr;
};

}  // namespace annulus::bench
