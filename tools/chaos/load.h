// Open-loop load through the proxy and by the native client at once, on the same objects; at the
// end, a read of every object. A stage; its history is read once nobody polls it any more.
#pragma once

#include <atomic>
#include <deque>
#include <set>
#include <vector>

#include "dataplane/stage.h"
#include "statemachine/client.h"
#include "tools/chaos/mix.h"
#include "tools/chaos/redis_load.h"

namespace annulus::chaos {

struct LoadOptions {
  double rate = 400;  // commands a second, half of them through the proxy
  std::uint64_t seed = 1;
  dataplane::Endpoint proxy;
};

class Load final : public dataplane::Stage, private statemachine::CompletionSink {
 public:
  Load(const LoadOptions& options, const statemachine::ClientOptions& client,
       const consensus::Configuration& ring, dataplane::Transport& transport);
  ~Load() override;

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "client"; }
  int wait_descriptor() const override { return waits_ ? epoll_ : -1; }

  enum class Phase : std::uint8_t {
    kIdle,     // only completes what is outstanding
    kRunning,  // the mix
    kReading,  // reads every object through both clients, until each read is answered
    kNone,
  };
  /// Any thread.
  void set_phase(Phase phase) { phase_.store(phase, std::memory_order_release); }
  /// Any thread. Nothing is outstanding, and while reading, all is read.
  bool settled() const {
    return settled_.load(std::memory_order_acquire) == phase_.load(std::memory_order_relaxed);
  }
  /// Any thread: commands answered through either client.
  std::uint64_t native_answered() const { return native_answered_.get(); }
  std::uint64_t proxy_answered() const { return proxy_answered_.get(); }

  // Once nobody polls it:
  /// When it was polled later than it had asked for, and by how much: the machine's doing.
  const std::vector<std::pair<Nanos, Nanos>>& stalls() const { return stalls_; }
  History& history() { return history_; }
  std::uint64_t connections_lost() const { return redis_.connections_lost(); }

 private:
  static constexpr std::uint32_t kSessions = 4;
  static constexpr std::uint32_t kWindow = 256;
  static constexpr std::uint32_t kReadsAtOnce = 32;
  static constexpr Nanos kStallLeast = 2 * kMillisecond;

  struct Waiting {
    Command command;
    Nanos intended;
  };

  void arrive(Nanos now);
  void send_waiting(Nanos now);
  bool submit_native(const Waiting& waiting, Nanos now);
  void read_all(Nanos now);
  void on_completions(std::span<const statemachine::Completion> completions, Nanos now) override;

  const LoadOptions options_;
  const int epoll_;
  bool waits_ = false;  // what comes for the native client makes its descriptor readable
  History history_;
  Mix mix_;
  statemachine::Client client_;
  RedisLoad redis_;
  std::vector<statemachine::SessionHandle> sessions_;
  std::uint32_t session_ = 0;
  Nanos schedule_ = 0;
  Nanos wanted_ = kNever;  // when the next poll was asked for
  std::vector<std::pair<Nanos, Nanos>> stalls_;
  bool through_proxy_ = false;          // who gets the next arrival
  std::deque<Waiting> waiting_native_;  // no room, or no session yet
  std::deque<Waiting> waiting_proxy_;   // no connection
  bool reading_ = false;
  std::set<Object> unread_[2];                // by the proxy, by the native client
  std::vector<std::uint64_t> reads_[2];       // ids under way
  std::atomic<Phase> phase_{Phase::kIdle};    // written by the controlling thread
  std::atomic<Phase> settled_{Phase::kNone};  // written by poll(): the phase that is done
  dataplane::Counter native_answered_;
  dataplane::Counter proxy_answered_;
};

}  // namespace annulus::chaos
