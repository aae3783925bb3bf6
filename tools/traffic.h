// Load for the demo: commands of the native client, as many in flight as its sessions allow, every
// reply checked. A stage; it polls the client itself, so both run on one core.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/stage.h"
#include "statemachine/client.h"

namespace annulus::tools {

/// What commands to send, and what their replies must be.
class Workload {
 public:
  virtual ~Workload() = default;
  struct Next {
    std::uint8_t service = 0;
    std::uint8_t flags = 0;
    std::uint32_t body_bytes = 0;
    std::uint64_t tag = 0;
  };
  /// The next command. The same again until encode() was called for it.
  virtual Next next() = 0;
  virtual void encode(std::span<std::byte> body) = 0;
  /// Whether the reply is right.
  virtual bool check(const statemachine::Completion& completion) = 0;
};

class Traffic final : public dataplane::Stage, public statemachine::CompletionSink {
 public:
  static constexpr std::uint32_t kSessions = 4;
  static constexpr std::uint32_t kSessionWindow = 512;

  explicit Traffic(Workload& workload) : workload_(workload) {}
  /// Before the first poll.
  void set_client(statemachine::Client& client) { client_ = &client; }

  // Any thread:
  void begin() { wanted_.store(true, std::memory_order_relaxed); }
  void end() { wanted_.store(false, std::memory_order_relaxed); }
  /// True when nothing is in flight after end().
  bool idle() const { return idle_.load(std::memory_order_acquire); }
  std::uint64_t answered() const { return answered_.get(); }
  std::uint64_t wrong() const { return wrong_.get(); }

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "client"; }
  void on_completions(std::span<const statemachine::Completion> completions, Nanos now) override;

 private:
  bool sessions_ready();
  std::uint32_t submit(Nanos now, std::uint32_t budget);

  Workload& workload_;
  statemachine::Client* client_ = nullptr;
  std::vector<statemachine::SessionHandle> sessions_;
  std::uint32_t session_ = 0;  // the one to try first
  std::atomic<bool> wanted_{false};
  std::atomic<bool> idle_{true};  // written by the stage (release), read by idle()
  dataplane::Counter answered_;
  dataplane::Counter wrong_;
};

/// Half writes, half reads of 8-byte keys and values. Every read must see what this client wrote
/// last.
class KvWorkload final : public Workload {
 public:
  KvWorkload(std::uint8_t service, std::uint32_t keys) : service_(service), versions_(keys) {}
  Next next() override;
  void encode(std::span<std::byte> body) override;
  bool check(const statemachine::Completion& completion) override;

 private:
  std::uint8_t service_;
  std::uint64_t turn_ = 0;
  std::vector<std::uint32_t> versions_;  // of each key, as submitted; 0: never written
};

/// Inserts ascending keys; every 64th command reads a range of 100 keys, which must be those that
/// were inserted.
class BtreeWorkload final : public Workload {
 public:
  static constexpr std::uint32_t kRange = 100;
  explicit BtreeWorkload(std::uint8_t service) : service_(service) {}
  Next next() override;
  void encode(std::span<std::byte> body) override;
  bool check(const statemachine::Completion& completion) override;

 private:
  bool range_turn() const { return turn_ % 64 == 63 && inserted_ >= kRange; }

  std::uint8_t service_;
  std::uint64_t turn_ = 0;
  std::uint64_t inserted_ = 0;
};

}  // namespace annulus::tools
