// The worker's rules: order, exactly-once, who replies, queries, atomic groups, hostile values.
#include "statemachine/worker.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "dataplane/hash.h"
#include "statemachine/kv/kv.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::statemachine {
namespace {

using consensus::Delivery;
using consensus::DeliveryKind;
using consensus::Instance;
using consensus::NodeId;
using Bytes = std::vector<std::byte>;

constexpr std::uint8_t kKv = 1;
constexpr std::uint64_t kEpoch = 77;

Bytes kv_body(kv::KvOp op, const std::string& key, const std::string& value = "",
              std::int64_t first = 0) {
  kv::KvRequest request;
  request.op = op;
  request.key = std::as_bytes(std::span{key});
  request.value = std::as_bytes(std::span{value});
  request.first = first;
  Bytes body(kv::body_bytes(request));
  kv::encode(request, body);
  return body;
}
template <typename T>
Bytes system_body(const T& body) {
  const auto bytes = std::as_bytes(std::span{&body, 1});
  return {bytes.begin(), bytes.end()};
}

struct TestCommand {
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  Bytes body;
  std::uint8_t service = kKv;
  std::uint8_t flags = 0;
  std::uint64_t acked_below = 1;
};

struct Answer {
  CommandStatus status{};
  std::string bytes;
  bool repeated = false;  // not from its place in the order
  bool operator==(const Answer&) const = default;
};

/// A worker with its rings and services, and what its clients got.
class Replica {
 public:
  explicit Replica(std::uint16_t index, std::uint32_t reply_ring = 256)
      : kv_({.service = kKv, .limit_bytes = 64u << 20}),
        deliveries_(64),
        replies_(reply_ring),
        proposals_(8),
        pool_(256, 65'536) {
    WorkerOptions options;
    options.node = NodeId{20u + index};
    options.epoch = 1;
    options.sessions = {.sessions_max = 2'048, .segment_bytes = 1u << 18, .segments_max = 256};
    options.replies.replica = index;
    options.session_idle = kSecond;
    worker_ = std::make_unique<Worker>(options, std::vector<Service*>{nullptr, &kv_},
                                       Worker::Rings{deliveries_, replies_, proposals_});
  }

  void push(const Bytes& bytes, const consensus::ValueId& id, std::uint64_t instance,
            DeliveryKind kind = DeliveryKind::kDecided) {
    dataplane::Slice slice = pool_.allocate();
    std::copy(bytes.begin(), bytes.end(), slice.mutable_data());
    slice.truncate(static_cast<std::uint32_t>(bytes.size()));
    ASSERT_TRUE(deliveries_.push({kind,
                                  Instance{instance},
                                  {id, dataplane::hash_bytes(bytes), consensus::kAllPartitions,
                                   static_cast<std::uint32_t>(bytes.size())},
                                  std::move(slice),
                                  0}));
  }
  /// Polls until idle; answers by (value sequence, command).
  void poll(Nanos now = 0) {
    for (;;) {
      const auto result = worker_->poll(now, 8);
      const bool took = take_replies();
      if (result.work == 0 && !took) break;
    }
  }
  bool take_replies() {
    consensus::ReplyFrame frame;
    bool any = false;
    for (; replies_.pop(frame); any = true) {
      std::string& stream = partial_[{frame.message.value.sequence, frame.message.stream}];
      stream.append(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
      ++frames;
      if (stream.size() < frame.message.bytes) continue;
      std::size_t at = 0;
      while (at < stream.size()) {
        ReplyEntry entry;
        std::memcpy(&entry, stream.data() + at, sizeof entry);
        answers[{frame.message.value.sequence, entry.command}] = {
            static_cast<CommandStatus>(entry.status), stream.substr(at + sizeof entry, entry.bytes),
            frame.message.instance == 0};
        at += sizeof entry + padded(entry.bytes);
      }
      stream.clear();
    }
    return any;
  }
  StateHashes hashes() {
    const auto ticket = worker_->ask_state_hashes();
    StateHashes hashes;
    worker_->poll(0, 1);
    EXPECT_TRUE(worker_->state_hashes(ticket, hashes));
    return hashes;
  }
  std::uint64_t count(WorkerCounter which) const { return worker_->counters()[which].get(); }
  Worker& worker() { return *worker_; }

  std::map<std::pair<std::uint64_t, std::uint32_t>, Answer> answers;
  int frames = 0;
  kv::KvService kv_;
  dataplane::SpscRing<Delivery> deliveries_;
  dataplane::SpscRing<consensus::ReplyFrame> replies_;
  dataplane::SpscRing<consensus::Proposal> proposals_;

 private:
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::string> partial_;
  dataplane::BufferPool pool_;
  std::unique_ptr<Worker> worker_;
};

class WorkerTest : public ::testing::Test {
 protected:
  WorkerTest() : first_(0), second_(1) { session_ = open(); }

  Bytes batch(const std::vector<TestCommand>& commands, std::uint64_t sequence,
              std::uint16_t replier = 0) {
    Bytes bytes(sizeof(BatchHeader));
    *reinterpret_cast<BatchHeader*>(bytes.data()) = {
        .version = kBatchVersion,
        .count = static_cast<std::uint16_t>(commands.size()),
        .proposer = 5,
        .epoch = kEpoch,
        .sequence = sequence,
        .mask = raw(consensus::kAllPartitions),
        .reply_address = 1,
        .reply_port = 9,
        .replier = replier};
    for (const TestCommand& command : commands) {
      const std::size_t at = bytes.size();
      bytes.resize(at + command_bytes(static_cast<std::uint32_t>(command.body.size())));
      auto& header = *reinterpret_cast<CommandHeader*>(bytes.data() + at);
      header.session = command.session;
      header.sequence = command.sequence;
      header.bytes = static_cast<std::uint32_t>(command.body.size());
      header.acked_distance = static_cast<std::uint16_t>(command.sequence - command.acked_below);
      header.service = command.service;
      header.flags = command.flags;
      std::copy(command.body.begin(), command.body.end(),
                bytes.begin() + static_cast<std::ptrdiff_t>(at + sizeof(CommandHeader)));
    }
    return bytes;
  }
  static consensus::ValueId id(std::uint64_t sequence) { return {NodeId{5}, kEpoch, sequence}; }

  /// Both replicas execute the batch; returns its value sequence.
  std::uint64_t decide(const std::vector<TestCommand>& commands, std::uint16_t replier = 0) {
    const std::uint64_t sequence = ++sequence_;
    ++instance_;
    for (Replica* replica : {&first_, &second_}) {
      replica->push(batch(commands, sequence, replier), id(sequence), instance_);
      replica->poll();
    }
    return sequence;
  }
  std::uint64_t open(std::uint32_t window = 64, std::uint16_t reply_bytes = 64) {
    OpenSession body{};
    body.kind = static_cast<std::uint8_t>(SystemCommand::kOpenSession);
    body.reply_bytes = reply_bytes;
    body.window = window;
    const auto value = decide({{0, ++opened_, system_body(body), kSystemService}});
    const Answer answer = first_.answers[{value, 0}];
    EXPECT_EQ(answer.status, CommandStatus::kOk);
    std::uint64_t session = 0;
    std::memcpy(&session, answer.bytes.data(), 8);
    return session;
  }
  TestCommand put(std::uint64_t sequence, const std::string& key, const std::string& value) {
    return {session_, sequence, kv_body(kv::KvOp::kPut, key, value)};
  }
  TestCommand increment(std::uint64_t sequence, const std::string& key) {
    return {session_, sequence, kv_body(kv::KvOp::kIncrement, key, "", 1)};
  }
  TestCommand read(const std::string& key) {
    return {session_, 1, kv_body(kv::KvOp::kRead, key), kKv, kReadOnly};
  }
  std::string value_of(const std::string& key) {
    return first_.answers[{decide({read(key)}), 0}].bytes;
  }
  void expect_same_state() {
    const StateHashes a = first_.hashes();
    const StateHashes b = second_.hashes();
    EXPECT_EQ(a.recomputed, b.recomputed);
    EXPECT_EQ(a.kept, a.recomputed);
    EXPECT_EQ(b.kept, b.recomputed);
  }

  Replica first_;
  Replica second_;
  std::uint64_t sequence_ = 0;
  std::uint64_t instance_ = 0;
  std::uint64_t opened_ = 0;
  std::uint64_t session_ = 0;
};

TEST_F(WorkerTest, TheNamedReplicaRepliesAndEveryReplicaExecutes) {
  const auto value = decide({put(1, "k", "v")}, 1);
  EXPECT_EQ(first_.answers.count({value, 0}), 0u);
  EXPECT_EQ((second_.answers[{value, 0}].status), CommandStatus::kOk);
  EXPECT_EQ(value_of("k"), "v");
  decide({put(2, "k", "w")}, kAnyReplica);
  EXPECT_EQ(first_.answers.size() - second_.answers.size(), 1u) << "all but the open and the read";
  expect_same_state();
}

TEST_F(WorkerTest, RepeatedCommandIsExecutedOnceWhicheverValueBringsIt) {
  decide({increment(1, "n")});
  decide({increment(1, "n")});
  const auto value = decide({increment(1, "n"), increment(2, "n"), increment(2, "n")}, 1);
  EXPECT_EQ(value_of("n"), "2");
  EXPECT_EQ(second_.answers[std::make_pair(value, 1u)], second_.answers[std::make_pair(value, 2u)]);
  EXPECT_EQ(first_.count(WorkerCounter::kRepeated), 3u);
  expect_same_state();
}

TEST_F(WorkerTest, T9OlderCommandAfterNewerIsStillExecuted) {
  decide({increment(3, "n")});
  decide({increment(1, "n")});
  EXPECT_EQ(value_of("n"), "2");
}

TEST_F(WorkerTest, CommandBelowTheFloorIsRefusedAndNotExecuted) {
  TestCommand later = increment(5, "n");
  later.acked_below = 5;
  decide({later});
  const auto value = decide({increment(4, "n")});
  EXPECT_EQ((first_.answers[{value, 0}].status), CommandStatus::kStaleSequence);
  EXPECT_EQ(value_of("n"), "1");
}

TEST_F(WorkerTest, WriteWithoutSessionIsRefused) {
  const auto value = decide({{0, 1, kv_body(kv::KvOp::kPut, "k", "v")}});
  EXPECT_EQ((first_.answers[{value, 0}].status), CommandStatus::kNoSuchSession);
  EXPECT_EQ((first_.answers[{decide({read("k")}), 0}].status), CommandStatus::kNotFound);
}

TEST_F(WorkerTest, T10ReadLeavesNoTraceOnTheReplicaThatExecutesIt) {
  decide({put(1, "k", "v")});
  const auto before = first_.hashes();
  decide({read("k")});
  EXPECT_EQ(first_.hashes().recomputed, before.recomputed);
  EXPECT_EQ(second_.count(WorkerCounter::kReadsSkipped), 1u);
  expect_same_state();
}

TEST_F(WorkerTest, WriteThatClaimsToBeAReadIsMalformed) {
  TestCommand lie = put(1, "k", "v");
  lie.flags = kReadOnly;
  const auto value = decide({lie});
  EXPECT_EQ((first_.answers[{value, 0}].status), CommandStatus::kMalformed);
  expect_same_state();
}

TEST_F(WorkerTest, MalformedValueIsANoOpEverywhere) {
  const auto before = first_.hashes();
  Bytes bytes = batch({put(1, "k", "v")}, ++sequence_);
  bytes.pop_back();
  for (Replica* replica : {&first_, &second_}) {
    replica->push(bytes, id(sequence_), ++instance_);
    replica->poll();
    EXPECT_EQ(replica->count(WorkerCounter::kDropMalformedValue), 1u);
  }
  EXPECT_EQ(first_.hashes().recomputed, before.recomputed);
  EXPECT_GT(first_.hashes().executed, before.executed);
}

TEST_F(WorkerTest, ValueThatNamesAnotherIdIsANoOp) {
  ++sequence_;
  first_.push(batch({put(1, "k", "v")}, 500), id(sequence_), ++instance_);
  first_.poll();
  EXPECT_EQ(first_.count(WorkerCounter::kDropMalformedValue), 1u);
}

TEST_F(WorkerTest, UnknownServiceAndSystemCommandAreMalformed) {
  const auto value = decide({{session_, 1, kv_body(kv::KvOp::kPut, "k", "v"), 9},
                             {session_, 2, Bytes(8, std::byte{99}), kSystemService}});
  EXPECT_EQ((first_.answers[{value, 0}].status), CommandStatus::kMalformed);
  EXPECT_EQ((first_.answers[{value, 1}].status), CommandStatus::kMalformed);
}

TEST_F(WorkerTest, OpenedSessionServesTheRestOfItsBatch) {
  OpenSession body{};
  body.kind = static_cast<std::uint8_t>(SystemCommand::kOpenSession);
  body.window = 8;
  const auto value =
      decide({put(1, "a", "1"), {0, 99, system_body(body), kSystemService}, put(2, "b", "2")});
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ((first_.answers[{value, i}].status), CommandStatus::kOk);
  }
  const auto again = decide({{0, 99, system_body(body), kSystemService}});
  EXPECT_EQ((first_.answers[{again, 0}].bytes), (first_.answers[{value, 1}].bytes));
}

TEST_F(WorkerTest, ClosedSessionRefusesCommands) {
  CloseSession body{};
  body.head.kind = static_cast<std::uint8_t>(SystemCommand::kCloseSession);
  body.session = session_;
  const auto value = decide({{0, 0, system_body(body), kSystemService}, put(1, "k", "v")});
  EXPECT_EQ((first_.answers[{value, 0}].status), CommandStatus::kOk);
  EXPECT_EQ((first_.answers[{value, 1}].status), CommandStatus::kNoSuchSession);
  expect_same_state();
}

TEST_F(WorkerTest, IdleSessionIsExpiredByAnOrderedProposal) {
  const auto expire = [&](Nanos now) {
    first_.poll(now);
    consensus::Proposal proposal;
    if (!first_.proposals_.pop(proposal)) return false;
    const Bytes bytes(proposal.payload.data(), proposal.payload.data() + proposal.payload.size());
    const auto value = consensus::from_wire(proposal.message.value);
    EXPECT_EQ(value.content_hash, dataplane::hash_bytes(bytes));
    ++instance_;
    for (Replica* replica : {&first_, &second_}) {
      replica->push(bytes, value.id, instance_);
      replica->poll(now);
    }
    return true;
  };
  Nanos now = 0;
  for (; now < 900 * kMillisecond; now += 10 * kMillisecond) EXPECT_FALSE(expire(now));
  decide({put(1, "k", "v")});  // activity
  for (; now < 1'400 * kMillisecond; now += 10 * kMillisecond) EXPECT_FALSE(expire(now));
  bool expired = false;
  for (; now < 3 * kSecond; now += 10 * kMillisecond) expired |= expire(now);
  EXPECT_TRUE(expired);
  EXPECT_EQ(first_.count(WorkerCounter::kSessionsExpired), 1u);
  EXPECT_EQ(first_.count(WorkerCounter::kExpiryProposals), 1u);
  EXPECT_EQ((first_.answers[{decide({put(2, "k", "w")}), 0}].status),
            CommandStatus::kNoSuchSession);
  expect_same_state();
}

Bytes atomic_body(const std::vector<std::pair<std::uint8_t, Bytes>>& parts) {
  Bytes bytes(sizeof(AtomicHead));
  auto* head = reinterpret_cast<AtomicHead*>(bytes.data());
  head->kind = static_cast<std::uint8_t>(SystemCommand::kAtomic);
  head->count = static_cast<std::uint32_t>(parts.size());
  for (const auto& [service, body] : parts) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof(AtomicPart) + padded(static_cast<std::uint32_t>(body.size())));
    auto* part = reinterpret_cast<AtomicPart*>(bytes.data() + at);
    part->service = service;
    part->bytes = static_cast<std::uint32_t>(body.size());
    std::copy(body.begin(), body.end(),
              bytes.begin() + static_cast<std::ptrdiff_t>(at + sizeof(AtomicPart)));
  }
  return bytes;
}

TEST_F(WorkerTest, AtomicGroupIsOneCommandExecutedOnce) {
  const Bytes body = atomic_body({{kKv, kv_body(kv::KvOp::kIncrement, "n", "", 1)},
                                  {kKv, kv_body(kv::KvOp::kIncrement, "n", "", 1)},
                                  {kKv, kv_body(kv::KvOp::kRead, "n")}});
  const auto value = decide({{session_, 1, body, kSystemService}});
  const auto again = decide({{session_, 1, body, kSystemService}});
  EXPECT_EQ(value_of("n"), "2");
  const Answer answer = first_.answers[{value, 0}];
  EXPECT_EQ(answer.status, CommandStatus::kOk);
  EXPECT_EQ(answer.bytes, (first_.answers[{again, 0}].bytes));
  ASSERT_EQ(answer.bytes.size(), 3 * 16u);
  EXPECT_EQ(answer.bytes[40], '2');
  expect_same_state();
}

TEST_F(WorkerTest, MalformedAtomicGroupExecutesNothing) {
  const Bytes body = atomic_body({{kKv, kv_body(kv::KvOp::kIncrement, "n", "", 1)}, {9, {}}});
  const auto value = decide({{session_, 1, body, kSystemService}});
  EXPECT_EQ((first_.answers[{value, 0}].status), CommandStatus::kMalformed);
  EXPECT_EQ((first_.answers[{decide({read("n")}), 0}].status), CommandStatus::kNotFound);
}

TEST_F(WorkerTest, LostFramesAreSentAgainAsTheyWere) {
  const auto value = decide({increment(1, "n"), read("n")});
  decide({increment(2, "n")});
  const auto before = first_.answers[{value, 1}];
  first_.answers.clear();
  first_.push(batch({increment(1, "n"), read("n")}, value), id(value), 0, DeliveryKind::kQuery);
  first_.poll();
  EXPECT_EQ((first_.answers[{value, 1}].bytes), before.bytes) << "not the later state";
  EXPECT_TRUE((first_.answers[{value, 1}].repeated));
  EXPECT_EQ(first_.count(WorkerCounter::kQueriesResent), 1u);
}

TEST_F(WorkerTest, AnotherReplicaAnswersAQueryFromTheSessionTable) {
  const auto value = decide({increment(1, "n"), read("n")});
  second_.push(batch({increment(1, "n"), read("n")}, value), id(value), 0, DeliveryKind::kQuery);
  second_.poll();
  EXPECT_EQ((second_.answers[{value, 0}].bytes), (first_.answers[{value, 0}].bytes));
  EXPECT_EQ((second_.answers[{value, 1}].bytes), "1");
  expect_same_state();
}

TEST_F(WorkerTest, QueryForWhatWasNotExecutedIsMetWithSilence) {
  const auto before = second_.hashes();
  second_.push(batch({increment(1, "n"), read("n")}, 900), id(900), 0, DeliveryKind::kQuery);
  second_.poll();
  EXPECT_TRUE(second_.answers.empty());
  EXPECT_EQ(second_.count(WorkerCounter::kQueriesUnanswered), 1u);
  EXPECT_EQ(second_.hashes().recomputed, before.recomputed);
}

TEST_F(WorkerTest, DirectDeliveryAlwaysReplies) {
  ++sequence_;
  first_.push(batch({put(1, "k", "v")}, sequence_, 1), id(sequence_), ++instance_,
              DeliveryKind::kDirect);
  first_.poll();
  EXPECT_EQ((first_.answers[{sequence_, 0}].status), CommandStatus::kOk);
}

TEST_F(WorkerTest, LongRepliesTravelInSeveralFramesAndStreams) {
  const std::string big(40'000, 'x');
  decide({put(1, "big", big)});
  std::vector<TestCommand> reads(60, read("big"));
  const auto value = decide(reads);
  for (std::uint32_t i = 0; i < 60; ++i) EXPECT_EQ((first_.answers[{value, i}].bytes), big);
  EXPECT_GT(first_.count(WorkerCounter::kReplyStreams), 3u);
  EXPECT_EQ(first_.count(WorkerCounter::kReplyDropNoBuffer), 0u);
}

TEST(Worker, FullReplyRingStopsExecutionUntilThereIsRoom) {
  Replica replica(0, 2);
  OpenSession body{};
  body.kind = static_cast<std::uint8_t>(SystemCommand::kOpenSession);
  body.window = 8;
  Bytes command = system_body(body);
  for (std::uint64_t i = 1; i <= 5; ++i) {
    Bytes bytes(sizeof(BatchHeader) + command_bytes(sizeof body));
    *reinterpret_cast<BatchHeader*>(bytes.data()) = {.version = kBatchVersion,
                                                     .count = 1,
                                                     .proposer = 5,
                                                     .epoch = kEpoch,
                                                     .sequence = i,
                                                     .mask = raw(consensus::kAllPartitions),
                                                     .reply_address = 1,
                                                     .reply_port = 1,
                                                     .replier = 0};
    auto& header = *reinterpret_cast<CommandHeader*>(bytes.data() + sizeof(BatchHeader));
    header.sequence = i;
    header.bytes = sizeof body;
    std::copy(command.begin(), command.end(),
              bytes.begin() + sizeof(BatchHeader) + sizeof(CommandHeader));
    replica.push(bytes, {NodeId{5}, kEpoch, i}, i);
  }
  EXPECT_EQ(replica.worker().poll(0, 100).work, 3u) << "two in the ring, one waiting";
  EXPECT_EQ(replica.worker().poll(0, 100).work, 0u);
  EXPECT_GT(replica.count(WorkerCounter::kReplyRingFull), 0u);
  replica.take_replies();
  replica.poll();
  EXPECT_EQ(replica.answers.size(), 5u);
}

TEST_F(WorkerTest, HashesAreTakenAtTheInstanceAskedFor) {
  const auto target = Instance{instance_ + 2};
  const auto ticket = first_.worker().ask_state_hashes(target);
  StateHashes hashes;
  decide({increment(1, "n")});
  EXPECT_FALSE(first_.worker().state_hashes(ticket, hashes));
  for (int i = 2; i < 5; ++i) {
    ++sequence_;
    first_.push(batch({increment(static_cast<std::uint64_t>(i), "n")}, sequence_), id(sequence_),
                ++instance_);
  }
  first_.poll();
  ASSERT_TRUE(first_.worker().state_hashes(ticket, hashes));
  EXPECT_EQ(hashes.executed, target);
  EXPECT_EQ(hashes.kept, hashes.recomputed);
}

}  // namespace
}  // namespace annulus::statemachine
