// The worker's rules: order, exactly-once, who replies, atomic groups, hostile values.
#include "statemachine/worker.h"

#include <gtest/gtest.h>

#include "tests/support/worker_fixture.h"

namespace annulus::statemachine {
namespace {

class WorkerTest : public WorkerFixture {};

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

TEST_F(WorkerTest, ExecutionStandsStillForCopyingOnlyNotForWhatPrecedesAndFollowsIt) {
  using Phase = consensus::StateExchange::Phase;
  std::uint64_t puts = 0;
  const auto more = [&] {
    std::vector<TestCommand> commands;
    for (int i = 0; i < 50; ++i) {
      ++puts;
      const std::string key = "key" + std::to_string(puts * 7 % 3'000);
      commands.push_back(put(puts, key, std::string(200, 'v')));
      commands.back().acked_below = puts;
    }
    return commands;
  };
  for (int i = 0; i < 60; ++i) decide(more());
  consensus::StateExchange& from = first_.exchange_;
  const Instance asked{instance_};
  from.image() = {.instance = asked};
  from.pass(Phase::kCopying);
  ASSERT_TRUE(first_.deliveries_.push({DeliveryKind::kCopyState, asked}));
  // One value a turn; the second replica executes them later, as far as the copy goes.
  std::vector<std::pair<Bytes, std::uint64_t>> values;
  std::set<std::uint64_t> executed;
  std::uint32_t stood_still = 0;
  for (Nanos now = 1; from.phase() == Phase::kCopying; ++now) {
    ++sequence_;
    values.push_back({batch(more(), sequence_), sequence_});
    first_.push(values.back().first, id(sequence_), ++instance_);
    stood_still += !executed.insert(raw(first_.worker().executed())).second;
    first_.worker().poll(now, 1);
    first_.take_replies();
    ASSERT_LT(now, 120);
  }
  const Instance copied = from.image().instance;
  EXPECT_GE(copied, asked + 5);
  EXPECT_GE(first_.worker().executed(), copied + 5);
  EXPECT_GT(stood_still, 5u);
  EXPECT_GE(from.stood_still(), 5);
  EXPECT_LE(from.stood_still(), stood_still);

  for (std::uint64_t i = 0; asked + i < copied; ++i) {
    second_.push(values[i].first, id(values[i].second), raw(asked) + 1 + i);
    second_.poll();
  }
  Replica third(2);
  consensus::StateExchange& to = third.exchange_;
  to.image() = from.image();
  std::memcpy(to.memory().data(), from.memory().data(), from.image().bytes);
  to.pass(Phase::kInstalling);
  ASSERT_TRUE(third.deliveries_.push({DeliveryKind::kInstallState, copied}));
  for (Nanos now = 1; to.phase() == Phase::kInstalling; ++now) third.worker().poll(now, 1);
  ASSERT_EQ(to.phase(), Phase::kInstalled);
  EXPECT_EQ(third.hashes().recomputed, second_.hashes().recomputed);
  EXPECT_EQ(third.hashes().kept, second_.hashes().recomputed);
  EXPECT_EQ(third.worker().executed(), copied);
}

// However fast the state grows while the memory for a copy of it is touched.
TEST_F(WorkerTest, CopyOfAStateThatGrowsIsMadeNonetheless) {
  using Phase = consensus::StateExchange::Phase;
  consensus::StateExchange& exchange = first_.exchange_;
  exchange.image() = {.instance = Instance{instance_}};
  exchange.pass(Phase::kCopying);
  ASSERT_TRUE(first_.deliveries_.push({DeliveryKind::kCopyState, Instance{instance_}}));
  std::uint64_t puts = 0;
  for (Nanos now = 1; exchange.phase() == Phase::kCopying; ++now) {
    while (first_.deliveries_.size() < 12) {  // a quarter of a megabyte a turn
      std::vector<TestCommand> commands;
      for (int i = 0; i < 40; ++i) {
        ++puts;
        commands.push_back(put(puts, "key" + std::to_string(puts), std::string(1'000, 'v')));
        commands.back().acked_below = puts;
      }
      ++sequence_;
      first_.push(batch(commands, sequence_), id(sequence_), ++instance_);
    }
    first_.worker().poll(now, 12);
    first_.take_replies();
    ASSERT_LT(puts, 50'000u);
  }
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
