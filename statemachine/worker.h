// Executes delivered values in order: parses them, asks the session table, lets the services run
// the commands, keeps and sends the replies. A stage; one core owns it and everything it reaches.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "consensus/delivery.h"
#include "consensus/state_exchange.h"
#include "dataplane/counters.h"
#include "dataplane/spsc_ring.h"
#include "dataplane/stage.h"
#include "statemachine/idle_sessions.h"
#include "statemachine/recent_values.h"
#include "statemachine/reply_writer.h"
#include "statemachine/service.h"
#include "statemachine/session_table.h"
#include "statemachine/state_hash.h"
#include "statemachine/state_image.h"

namespace annulus::statemachine {

struct WorkerOptions {
  consensus::NodeId node{};
  std::uint64_t epoch = 0;  // of the node's frames: names the values it proposes itself
  SessionTableOptions sessions;
  /// The same on all replicas: the longest reply of a command.
  std::uint32_t reply_bytes_max = kReplyBytesMax;
  ReplyWriterOptions replies;
  /// A session without activity for so long is proposed to be expired. Differ between replicas, so
  /// that one comes first.
  Nanos session_idle = 60 * kSecond;
  std::uint32_t recent_values = 4'096;  // whose ids are remembered; a power of two
  /// Of its state, copied or hashed in one turn: less than half a millisecond's worth. Execution
  /// stands still until all is copied.
  std::uint64_t state_bytes_per_turn = 2u << 20;
  /// Of the memory for a copy, touched in one turn, while execution goes on.
  std::uint64_t touch_bytes_per_turn = 64u << 10;
  /// Of a peer's state, verified or installed in one turn: what shares the core is to go on as if
  /// nothing were, for the cluster is served by others.
  std::uint64_t install_bytes_per_turn = 256u << 10;
};

enum class WorkerCounter : std::uint8_t {
  kValues,        // executed
  kCommands,      // in them
  kExecuted,      // commands that services executed
  kRuns,          // calls of Service::execute
  kReadsSkipped,  // another replica answers them
  kAtomicGroups,
  kRepeated,      // commands that were executed before: answered from the session table
  kRefusedStale,  // below their session's floor
  kRefusedBeyondWindow,
  kRefusedNoSession,
  kMalformedCommands,   // unknown service or system command, or a read that would write
  kDropMalformedValue,  // executed as a no-op
  kSessionsOpened,
  kSessionsRefused,
  kSessionsClosed,
  kSessionsExpired,
  kExpiryProposals,
  kReplyStreams,
  kReplyFrames,
  kReplyRingFull,      // turns ended by a full ring
  kReplyDropNoBuffer,  // replies left to be asked for
  kQueries,
  kQueriesResent,      // answered with the frames sent before
  kQueriesAnswered,    // answered from the session table
  kQueriesUnanswered,  // nothing known
  kStateHashes,
  kStatesCopied,
  kStatesInstalled,
  kStatesRefused,
  kCount,
};

class Worker final : public dataplane::Stage {
 public:
  struct Rings {
    dataplane::SpscRing<consensus::Delivery>& deliveries;
    dataplane::SpscRing<consensus::ReplyFrame>& replies;
    dataplane::SpscRing<consensus::Proposal>& proposals;
    consensus::StateExchange* state = nullptr;  // null: no state is copied or installed
  };

  /// `services` by their id in the cluster's config; ids not in use are null. Index 0 is the
  /// engine's own and must be null. The services outlive the worker.
  Worker(const WorkerOptions& options, std::vector<Service*> services, const Rings& rings);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "worker"; }

  /// Any one thread at a time: asks for hashes, and fetches the answer. See StateHashExchange.
  std::uint64_t ask_state_hashes(consensus::Instance at = consensus::Instance{0}) {
    return hash_exchange_.ask(at);
  }
  bool state_hashes(std::uint64_t ticket, StateHashes& out) const {
    return hash_exchange_.answered(ticket, out);
  }
  /// Any thread: the last instance executed.
  consensus::Instance executed() const {
    return consensus::Instance{executed_.load(std::memory_order_acquire)};
  }

  /// Any thread: as of which instance a peer's state was installed last; 0: never.
  consensus::Instance installed() const {
    return consensus::Instance{installed_.load(std::memory_order_acquire)};
  }

  SessionTable& sessions() { return sessions_; }
  const dataplane::Counters<WorkerCounter>& counters() const { return counters_; }
  void add_counters(dataplane::Registry& registry, const std::string& node);
  /// Bytes of all pools and tables, as a sum with its terms.
  static std::string memory_plan(const WorkerOptions& options);

 private:
  /// Commands admitted together: their cache misses overlap, and services get runs of them.
  static constexpr std::uint32_t kGroupMax = 64;

  struct Plan {
    std::uint16_t command;
    bool recorded;  // else a read
    SessionTable::Admitted admitted;
  };
  /// The value being executed.
  struct Current {
    const BatchHeader* header = nullptr;
    consensus::Instance instance{};
    bool replying = false;
  };

  bool stands_still() const {
    const bool copies = copier_ != nullptr && copier_->pass() == StateCopier::Pass::kCopy;
    return (copies && !DEFECT(kImageTorn)) || installer_ != nullptr;
  }
  void begin_state(const consensus::Delivery& delivery);
  void work_on_state(Nanos now);
  void work_on_copy(Nanos now);
  void end_install(StateInstaller::Outcome outcome);
  bool take(consensus::Delivery& delivery, Nanos now);
  bool open_value(const consensus::Delivery& delivery, std::uint32_t& count);
  void execute_value(const consensus::Delivery& delivery, std::uint32_t count, Nanos now);
  std::uint32_t run_group(std::uint32_t first, std::uint32_t count);
  void prefetch(std::uint32_t first, std::uint32_t last) const;
  bool plan(std::uint32_t index, std::uint32_t& planned);
  void plan_read(std::uint32_t index, std::uint32_t& planned);
  void run_plans(std::uint32_t planned);
  void run_service(std::uint8_t service, std::uint32_t first_plan, std::uint32_t count);
  bool reads_only(const Command& command);
  bool reads_only(std::uint8_t service, std::span<const std::byte> body);

  void run_system(std::uint32_t index);
  CommandStatus open_session(const Command& command, std::span<const std::byte>& reply);
  CommandStatus end_session(const Command& command, bool expire);
  void run_atomic(std::uint32_t index);
  CommandStatus execute_atomic(std::span<const std::byte> body, bool read_only,
                               std::span<const std::byte>& reply);
  void execute_parts(std::uint8_t service, std::span<const AtomicCommand> parts,
                     std::uint32_t parts_left, std::uint32_t& used);
  void refuse(std::uint32_t index, SessionTable::Admission admission);

  void answer_query(const consensus::Delivery& delivery, std::uint32_t count);
  bool answer_again(std::uint32_t index, bool executed);
  void answer_read(std::uint32_t index);

  void reply(std::uint32_t command, CommandStatus status, std::span<const std::byte> bytes);
  Service* service(std::uint8_t id) const {
    return id < services_.size() ? services_[id] : nullptr;
  }
  void answer_state_hashes();
  StateHashes compute_hashes();
  void publish_counters();

  const WorkerOptions options_;
  const std::vector<Service*> services_;
  const Rings rings_;
  SessionTable sessions_;
  ReplyWriter writer_;
  RecentValues recent_;
  IdleSessions idle_;
  StateHashExchange hash_exchange_;
  // What is being done with the state, if anything.
  std::unique_ptr<StateCopier> copier_;
  Nanos still_since_ = 0;  // as long as it copies
  std::unique_ptr<StateInstaller> installer_;
  std::vector<ContentHash> class_hashes_;  // of one service at a time

  Current current_;
  std::vector<Command> commands_;       // of the current value
  std::array<Plan, kGroupMax> plans_;   // of the current group
  std::array<Command, kGroupMax> run_;  // what one call of a service gets
  std::vector<AtomicCommand> parts_;    // of the current atomic group
  dataplane::BufferPool scratch_pool_;
  dataplane::Slice scratch_;         // replies of one call of a service
  dataplane::Slice atomic_scratch_;  // reply of an atomic group
  std::array<Replies::Entry, kGroupMax> reply_entries_;
  Replies replies_;
  Footprint footprint_;
  u64le opened_id_{};

  std::atomic<std::uint64_t> executed_{0};   // release after each value; pairs with executed()
  std::atomic<std::uint64_t> installed_{0};  // release, before the executed_ that it sets
  dataplane::Counters<WorkerCounter> counters_;
  dataplane::Histogram executed_ns_;  // first frame received to executed
};

}  // namespace annulus::statemachine
