// CPU cost of a command where it is executed and where it comes from: the worker stage (parse,
// session, key-value write, reply), the session table alone, and the native client (submit and
// completion, against a transport that only answers). Batches of 50, 8-byte keys and values.
//
// Estimates: worker 100 ns a command warm, of which the session table 15; client 70.
#include <benchmark/benchmark.h>

#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "dataplane/hash.h"
#include "statemachine/client.h"
#include "statemachine/kv/kv.h"
#include "statemachine/kv/kv_codec.h"
#include "statemachine/worker.h"

namespace annulus::statemachine {
namespace {

using consensus::Instance;
using consensus::NodeId;

constexpr std::uint32_t kBatch = 50;
constexpr std::uint8_t kKv = 1;
constexpr std::uint64_t kCluster = 3;

kv::KvRequest put(const std::uint64_t& key, const std::uint64_t& value) {
  return {.op = kv::KvOp::kPut,
          .key = std::as_bytes(std::span{&key, 1}),
          .value = std::as_bytes(std::span{&value, 1})};
}

std::uint32_t put_bytes() { return kv::body_bytes(put(0, 0)); }

/// Opens `count` sessions of the given window and returns their ids.
std::vector<std::uint64_t> open_sessions(SessionTable& table, std::uint64_t count,
                                         std::uint32_t window) {
  std::vector<std::uint64_t> ids(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    table.open({NodeId{1}, 1, i + 1}, window, 8, Instance{1}, ids[i]);
  }
  table.end_batch();
  return ids;
}

void session_table(benchmark::State& state) {
  SessionTable table({});
  const auto ids = open_sessions(table, static_cast<std::uint64_t>(state.range(0)), 64);
  // A stride that visits every session before it comes back to the first.
  const std::size_t stride = 7'919 % ids.size();
  std::size_t at = 0;
  std::size_t visited = 0;
  std::uint64_t sequence = 1;
  std::uint64_t instance = 1;
  for (auto _ : state) {
    CommandHeader commands[kBatch];
    for (auto& command : commands) {
      command = CommandHeader{};
      command.session = ids[at];
      command.sequence = sequence;
      at += stride;
      if (at >= ids.size()) at -= ids.size();
      if (++visited == ids.size()) visited = 0, ++sequence;
    }
    for (const auto& c : commands) table.prefetch_place(c.session);
    for (const auto& c : commands) table.prefetch_session(c.session);
    for (const auto& c : commands) table.prefetch_entry(c.session, c.sequence);
    for (const auto& c : commands) {
      const auto admitted = table.admit(c);
      if (admitted.admission == SessionTable::Admission::kExecute) {
        table.record(admitted, CommandStatus::kOk, {}, Instance{instance});
      }
    }
    table.end_batch();
    ++instance;
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}
BENCHMARK(session_table)->ArgName("sessions")->Arg(64)->Arg(100'000);

/// A worker with its service and rings, and batches of random puts for it.
class WorkerLoad {
 public:
  static constexpr std::uint32_t kBatches = 32;  // of one round

  WorkerLoad(std::uint64_t keys, bool replying) : keys_(keys), replying_(replying) {
    // Memory is touched first here, not in what is measured.
    for (std::uint64_t done = 0; done < 3 * keys; done += kBatches * kBatch) {
      fill();
      run();
    }
  }

  void fill() {
    for (std::uint32_t i = 0; i < kBatches; ++i) {
      dataplane::Slice bytes = make_batch();
      const consensus::Value value{
          {NodeId{5}, 1, sequence_}, 0, consensus::kAllPartitions, bytes.size()};
      deliveries_.push(
          {consensus::DeliveryKind::kDecided, Instance{sequence_}, value, std::move(bytes), 0});
    }
  }
  void run() {
    for (std::uint32_t done = 0; done < kBatches;) {
      done += worker_.poll(0, kBatches).work;
      while (replies_.front() != nullptr) replies_.pop();
    }
  }
  bool all_executed() const {
    return worker_.counters()[WorkerCounter::kExecuted].get() == sequence_ * kBatch;
  }

 private:
  dataplane::Slice make_batch() {
    dataplane::Slice bytes = pool_.allocate();
    auto* at = bytes.mutable_data();
    *reinterpret_cast<BatchHeader*>(at) = {
        .version = kBatchVersion,
        .count = kBatch,
        .proposer = 5,
        .epoch = 1,
        .sequence = ++sequence_,
        .mask = raw(consensus::kAllPartitions),
        .reply_address = 1,
        .reply_port = 1,
        .replier = replying_ ? std::uint16_t{0} : std::uint16_t{1}};
    at += sizeof(BatchHeader);
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
      const std::size_t s = random_ % ids_.size();
      const std::uint64_t command = next_[s]++;
      *reinterpret_cast<CommandHeader*>(at) = {
          .session = ids_[s],
          .sequence = command,
          .bytes = put_bytes(),
          .acked_distance = static_cast<std::uint16_t>(std::min<std::uint64_t>(command - 1, 512)),
          .service = kKv,
          .flags = 0};
      const std::uint64_t key = (random_ >> 20) % keys_;
      kv::encode(put(key, command), {at + sizeof(CommandHeader), put_bytes()});
      at += command_bytes(put_bytes());
    }
    bytes.truncate(static_cast<std::uint32_t>(at - bytes.mutable_data()));
    return bytes;
  }
  static WorkerOptions options() {
    WorkerOptions options;
    options.node = NodeId{9};
    return options;
  }

  const std::uint64_t keys_;
  const bool replying_;
  dataplane::BufferPool pool_{128, 4'096};
  static_assert(sizeof(BatchHeader) + kBatch * command_bytes(32) <= 4'096);
  kv::KvService kv_{{.service = kKv, .limit_bytes = std::uint64_t{1} << 30}};
  dataplane::SpscRing<consensus::Delivery> deliveries_{64};
  dataplane::SpscRing<consensus::ReplyFrame> replies_{64};
  dataplane::SpscRing<consensus::Proposal> proposals_{2};
  Worker worker_{options(), {nullptr, &kv_}, Worker::Rings{deliveries_, replies_, proposals_}};
  std::vector<std::uint64_t> ids_ = open_sessions(worker_.sessions(), 64, 1'024);
  std::vector<std::uint64_t> next_ = std::vector<std::uint64_t>(ids_.size(), 1);
  std::uint64_t sequence_ = 0;
  std::uint64_t random_ = 88'172'645'463'325'252ull;
};

void worker(benchmark::State& state) {
  WorkerLoad load(static_cast<std::uint64_t>(state.range(0)), state.range(1) != 0);
  for (auto _ : state) {
    state.PauseTiming();
    load.fill();
    state.ResumeTiming();
    load.run();
  }
  if (!load.all_executed()) state.SkipWithError("not every command was executed");
  state.SetItemsProcessed(state.iterations() * WorkerLoad::kBatches * kBatch);
}
BENCHMARK(worker)->ArgNames({"keys", "replying"})->ArgsProduct({{10'000, 1'000'000}, {0, 1}});

/// Takes every Submit, and answers its commands with empty replies when told to.
class AnsweringTransport final : public dataplane::Transport {
 public:
  std::uint32_t receive(Nanos, std::span<dataplane::RxFrame> frames) override {
    std::uint32_t count = 0;
    for (; count < frames.size() && !answers_.empty(); ++count) {
      frames[count] = std::move(answers_.front());
      answers_.pop_front();
    }
    return count;
  }
  void transmit(Nanos, std::span<dataplane::TxFrame> frames) override {
    for (dataplane::TxFrame& frame : frames) asked_.push_back(std::move(frame.payload));
  }
  Status join(const dataplane::Endpoint&) override { return {}; }
  dataplane::Endpoint endpoint() const override { return {1, 1}; }
  std::uint32_t frame_bytes_max() const override { return 65'000; }

  void answer() {
    for (const dataplane::Slice& batch : asked_) answers_.push_back({{1, 2}, reply_to(batch), {}});
    asked_.clear();
  }

 private:
  dataplane::Slice reply_to(const dataplane::Slice& batch) {
    std::uint32_t count = 0;
    CHECK(parse_batch(batch.bytes(), commands_, count));
    const auto& header = *reinterpret_cast<const BatchHeader*>(batch.data());
    dataplane::Slice frame = pool_.allocate();
    auto* head = reinterpret_cast<dataplane::FrameHeader*>(frame.mutable_data());
    auto* reply = reinterpret_cast<consensus::Reply*>(head + 1);
    auto* at = reinterpret_cast<std::byte*>(reply + 1);
    std::byte* const stream = at;
    for (std::uint32_t i = 0; i < count; ++i) {
      const bool open = commands_[i].header->service == kSystemService;
      const ReplyEntry entry{static_cast<std::uint16_t>(i), 0, 0, open ? 8u : 0u};
      std::memcpy(at, &entry, sizeof entry);
      at += sizeof entry;
      if (open) {
        std::memcpy(at, &++opened_, 8);
        at += 8;
      }
    }
    const auto bytes = static_cast<std::uint32_t>(at - stream);
    *reply = {{header.proposer, header.epoch, header.sequence}, 0, 0, 0, bytes, {0, 1, bytes}};
    seal_frame(*head, static_cast<std::uint8_t>(consensus::MessageType::kReply), sizeof *reply,
               bytes, dataplane::hash_bytes({stream, bytes}),
               {kCluster, 8, 0, 1, 1, header.sequence.get()});
    frame.truncate(static_cast<std::uint32_t>(at - frame.data()));
    return frame;
  }

  dataplane::BufferPool pool_{256, 4'096};
  std::vector<Command> commands_{kCommandsPerBatchMax};
  std::deque<dataplane::Slice> asked_;
  std::deque<dataplane::RxFrame> answers_;
  std::uint64_t opened_ = 0;
};

struct CountingSink final : CompletionSink {
  void on_completions(std::span<const Completion> completions, Nanos) override {
    for (const Completion& c : completions) ok += c.status == CommandStatus::kOk;
  }
  std::uint64_t ok = 0;
};

void client(benchmark::State& state) {
  consensus::Configuration configuration;
  configuration.acceptors.push_back({NodeId{1}, {1, 2}});
  configuration.learners.push_back({NodeId{2}, {1, 3}, consensus::kAllPartitions});
  AnsweringTransport transport;
  CountingSink sink;
  Client client({.cluster = kCluster}, configuration, transport, sink);
  const SessionHandle session = *client.open_session(1'024);
  Nanos now = kSecond;
  const auto step = [&] {
    client.poll(now, 64);
    transport.answer();
    client.poll(now += kMicrosecond, 64);
  };
  while (!client.session_ready(session)) step();
  std::uint64_t tag = 0;
  for (auto _ : state) {
    const std::uint64_t began = dataplane::cycles_now();
    for (std::uint32_t i = 0; i < 8 * kBatch; ++i) {
      std::span<std::byte> body;
      if (client.submit(session, kKv, 0, put_bytes(), ++tag, now, body) !=
          SubmitOutcome::kAccepted) {
        state.SkipWithError("submit refused");
        return;
      }
      kv::encode(put(tag, tag), body);
    }
    now += kMillisecond;
    client.poll(now, 64);
    std::uint64_t cycles = dataplane::cycles_now() - began;
    transport.answer();
    const std::uint64_t again = dataplane::cycles_now();
    client.poll(now += kMicrosecond, 64);
    cycles += dataplane::cycles_now() - again;
    state.SetIterationTime(static_cast<double>(cycles) / dataplane::TscClock::cycles_per_nano() /
                           1e9);
  }
  if (sink.ok != tag) state.SkipWithError("not every command was answered");
  state.SetItemsProcessed(state.iterations() * 8 * kBatch);
}
BENCHMARK(client)->UseManualTime();

}  // namespace
}  // namespace annulus::statemachine

BENCHMARK_MAIN();
