// A hundred thousand sessions in a whole cluster: whoever repeats a command of one of them, whoever
// answers, and whoever coordinates by then, it was executed once and has one reply.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/core_map.h"
#include "statemachine/kv/kv_codec.h"
#include "statemachine/session_segment.h"
#include "tests/support/batch_client.h"
#include "tools/cluster.h"

namespace annulus::tools {
namespace {

namespace kv = statemachine::kv;
using statemachine::CommandStatus;
using statemachine::SessionHandle;
using statemachine::SessionState;
using support::BatchAnswer;
using support::BatchClient;
using support::BatchCommand;

constexpr std::uint32_t kSessions = 100'000;
constexpr std::uint32_t kWindow = 4;      // commands outstanding of a session
constexpr std::uint32_t kReplyBytes = 8;  // kept of each
constexpr std::uint32_t kStep = 97;       // of a sample: over 1,000 sessions, from end to end
constexpr std::uint16_t kReplica1 = 0;    // as replies name them
constexpr std::uint16_t kReplica2 = 1;
constexpr std::uint8_t kKv = 1;
constexpr std::uint32_t kBatch = 50;  // commands of one value

std::string kv_body(kv::KvOp op) {
  const std::string key = "n";
  kv::KvRequest request;
  request.op = op;
  request.key = std::as_bytes(std::span(key));
  if (op == kv::KvOp::kIncrement) request.first = 1;
  std::string body(kv::body_bytes(request), '\0');
  kv::encode(request, std::as_writable_bytes(std::span(body)));
  return body;
}

std::int64_t number(const BatchAnswer& answer) {
  return kv::decode_integer(std::as_bytes(std::span(answer.bytes)));
}

class ManySessions : public ::testing::Test {
 protected:
  void SetUp() override {
    ClusterOptions options;
    options.service_names = {{"kv", 64}};
    options.services = service_factory(options.service_names);
    const std::string all = dataplane::to_cpu_list(dataplane::this_host().cpus);
    for (const char* role : {"acceptor", "learner", "worker"}) options.process.cores[role] = all;
    options.process.idle = "yield";
    options.gated = true;
    options.limits.retain = retain_;
    auto made = Cluster::create(options);
    ASSERT_TRUE(made) << made.error().message;
    cluster_ = std::move(made).value();
    one_ = make_batch_client();
    other_ = make_batch_client();
    ASSERT_TRUE(cluster_->start().ok());
    ASSERT_NO_FATAL_FAILURE(open());
    ASSERT_NO_FATAL_FAILURE(execute());
  }
  void TearDown() override {
    if (cluster_) cluster_->stop();
  }

  std::unique_ptr<BatchClient> make_batch_client() {
    Cluster::ClientPlace place = cluster_->next_client();
    place.options.batch_commands = kBatch;
    return std::make_unique<BatchClient>(place.options, cluster_->ring(), place.transport);
  }

  /// Sums up a counter of a node.
  std::uint64_t counted(const std::string& node, const char* stage, const char* name) {
    std::uint64_t sum = 0;
    for (const dataplane::Registry::Group& group : cluster_->registry().groups()) {
      if (group.node != node || group.stage != stage) continue;
      for (std::size_t i = 0; i < group.names.size(); ++i) {
        if (std::strcmp(group.names[i], name) == 0) sum += group.values[i].get();
      }
    }
    return sum;
  }

  void tell(const std::string& what, Nanos began) {
    std::cout << "    " << what << ": " << (clock_.now() - began) / kMillisecond << " ms\n";
  }

  bool eventually(const std::function<bool()>& holds) {
    const Nanos until = clock_.now() + 60 * kSecond;
    while (!holds()) {
      if (clock_.now() >= until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  /// Each session by an ordered command.
  void open() {
    const statemachine::OpenSession body{
        static_cast<std::uint8_t>(statemachine::SystemCommand::kOpenSession), 0, kReplyBytes,
        kWindow};
    std::vector<BatchCommand> opens(kSessions);
    for (std::uint32_t i = 0; i < kSessions; ++i) {
      opens[i].sequence = i + 1;
      opens[i].body.assign(reinterpret_cast<const char*>(&body), sizeof body);
    }
    const Nanos began = clock_.now();
    const std::vector<BatchAnswer> opened = one_->run(opens, kReplica1);
    tell("100,000 sessions opened", began);
    for (const BatchAnswer& answer : opened) {
      ASSERT_EQ(answer.status, CommandStatus::kOk);
      ASSERT_EQ(answer.bytes.size(), sizeof(u64le));
      u64le id;
      std::memcpy(&id, answer.bytes.data(), sizeof id);
      sessions_.push_back(id);
    }
  }

  BatchCommand increment(std::uint32_t session, std::uint64_t sequence) const {
    return {sessions_[session], sequence, kKv, 0, body_};
  }

  /// In each session one command whose reply no other one has: how far all have counted together.
  void execute() {
    std::vector<BatchCommand> commands;
    for (std::uint32_t i = 0; i < kSessions; ++i) commands.push_back(increment(i, 1));
    const Nanos began = clock_.now();
    first_ = one_->run(commands, kReplica2);
    tell("a command in each", began);
    std::vector<bool> seen(kSessions + 1);
    for (const BatchAnswer& answer : first_) {
      ASSERT_EQ(answer.status, CommandStatus::kOk);
      const std::int64_t n = number(answer);
      ASSERT_TRUE(n >= 1 && n <= kSessions && !seen[static_cast<std::size_t>(n)]) << n;
      seen[static_cast<std::size_t>(n)] = true;
    }
  }

  /// Sends the commands of every kStep-th session once more, and compares the replies byte by byte.
  /// `only`: the one replica that can have given them.
  void repeat(BatchClient& by, std::uint32_t from, std::uint16_t replier,
              std::optional<std::uint16_t> only = {}) {
    std::vector<BatchCommand> commands;
    for (std::uint32_t i = from; i < kSessions; i += kStep) commands.push_back(increment(i, 1));
    ASSERT_GE(commands.size(), 1'000u);
    const std::vector<BatchAnswer> again = by.run(commands, replier);
    repeated_ += commands.size();
    for (std::size_t k = 0; k < again.size(); ++k) {
      const BatchAnswer& before = first_[from + k * kStep];
      ASSERT_EQ(again[k].status, before.status) << to_string(again[k].status) << ", session " << k;
      ASSERT_EQ(again[k].bytes, before.bytes) << number(again[k]) << ", not " << number(before);
      if (only) {
        ASSERT_EQ(again[k].replica, *only);
      }
    }
  }

  /// The next command of every kStep-th session; returns how many there are.
  std::uint64_t go_on(BatchClient& by) {
    std::vector<BatchCommand> next;
    for (std::uint32_t i = 0; i < kSessions; i += kStep) next.push_back(increment(i, 2));
    for (const BatchAnswer& answer : by.run(next, kReplica2)) {
      EXPECT_EQ(answer.status, CommandStatus::kOk);
      EXPECT_GT(number(answer), kSessions);
    }
    return next.size();
  }

  /// `replica` met so many commands as repeated, but for those in values that some replica answered
  /// from its session table before they were ordered, which they then need not be.
  void expect_repeated(const char* replica, std::uint64_t commands) {
    const std::uint64_t values = counted("replica1", "worker", "queries_answered") +
                                 counted("replica2", "worker", "queries_answered");
    EXPECT_GE(counted(replica, "worker", "repeated") + values * kBatch, commands);
    EXPECT_GT(counted(replica, "worker", "repeated"), 0u);
  }

  /// Both replicas are alike, and have executed `increments` in all, as a read tells, too.
  void expect_executed(std::uint64_t increments) {
    const auto hashes = cluster_->state_hashes(60 * kSecond);
    ASSERT_TRUE(hashes) << hashes.error().message;
    ASSERT_EQ(hashes->size(), 2u);
    for (const statemachine::StateHashes& each : *hashes) {
      EXPECT_EQ(each.kept, each.recomputed);
      EXPECT_EQ(each.recomputed, hashes->front().recomputed);
      EXPECT_EQ(each.executed, hashes->front().executed);
      EXPECT_EQ(each.sessions, hashes->front().sessions);
    }
    const BatchCommand read{0, 0, kKv, statemachine::kReadOnly, kv_body(kv::KvOp::kRead)};
    EXPECT_EQ(other_->run({&read, 1}, kReplica1)[0].bytes, std::to_string(increments));
  }

  dataplane::TscClock clock_;
  std::uint32_t retain_ = 8'192;  // everything: replicas execute all themselves
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<BatchClient> one_;    // opened the sessions, and had the commands executed
  std::unique_ptr<BatchClient> other_;  // another proxy's
  const std::string body_ = kv_body(kv::KvOp::kIncrement);
  std::vector<std::uint64_t> sessions_;
  std::vector<BatchAnswer> first_;  // by session
  std::uint64_t repeated_ = 0;
};

TEST_F(ManySessions, RepetitionByAnotherProxyReplicaOrCoordinatorExecutesOnceWithTheSameReply) {
  // Through another proxy.
  repeat(*other_, 1, kReplica2);
  repeat(*one_, 1, kReplica1);
  // By another replica, one and the other being gone.
  cluster_->gate("replica2").stop();
  repeat(*other_, 2, kReplica1, kReplica1);
  cluster_->gate("replica2").open();
  ASSERT_TRUE(cluster_->state_hashes(60 * kSecond));  // it has caught up
  cluster_->gate("replica1").stop();
  repeat(*other_, 2, kReplica2, kReplica2);
  cluster_->gate("replica1").open();
  // By a new coordinator: what is new makes sure that there is one, since what is repeated is
  // answered without, if need be.
  const consensus::NodeId before = other_->proposer().target();
  cluster_->gate("acceptor" + std::to_string(raw(before))).stop();
  const std::uint64_t added = go_on(*other_);
  EXPECT_NE(other_->proposer().target(), before) << "nobody else was elected";
  repeat(*other_, 3, kReplica1);
  repeat(*one_, 4, kReplica2);

  ASSERT_TRUE(cluster_->state_hashes(60 * kSecond));
  for (const char* replica : {"replica1", "replica2"}) {
    EXPECT_EQ(counted(replica, "worker", "sessions_opened"), kSessions);
    EXPECT_EQ(counted(replica, "worker", "executed"), kSessions + added);
    expect_repeated(replica, repeated_);
  }
  expect_executed(kSessions + added);
}

class ManySessionsForgotten : public ManySessions {
 protected:
  ManySessionsForgotten() { retain_ = 1'024; }  // far fewer than there are
};

TEST_F(ManySessionsForgotten, ReplicaThatFetchedThemAnswersRepetitionsAsBefore) {
  ASSERT_TRUE(cluster_->state_hashes(60 * kSecond));  // neither lacks anything
  // On a slow machine one may have fetched the other's state on the way here. That copy would be
  // offered while it lives, and what came after it executed.
  ASSERT_TRUE(eventually([&] {
    return counted("replica1", "state_source", "copies") ==
           counted("replica1", "state_source", "copies_given_up");
  }));
  cluster_->gate("replica2").stop();
  repeat(*one_, 1, kReplica1, kReplica1);
  const Nanos began = clock_.now();
  ASSERT_TRUE(cluster_->restart_replica("replica2").ok());
  ASSERT_TRUE(eventually([&] { return counted("replica2", "state_receiver", "installed") == 1; }));
  tell("fetched by a replica that had lost its memory", began);
  EXPECT_EQ(counted("replica2", "worker", "executed"), 0u) << "it had the log, not only the state";
  ASSERT_TRUE(cluster_->state_hashes(60 * kSecond));

  cluster_->gate("replica1").stop();
  repeated_ = 0;
  repeat(*other_, 2, kReplica2, kReplica2);
  repeat(*other_, 1, kReplica2, kReplica2);
  EXPECT_EQ(counted("replica2", "worker", "executed"), 0u);
  expect_repeated("replica2", repeated_);
  const std::uint64_t added = go_on(*other_);  // the sessions go on where they were
  EXPECT_EQ(counted("replica2", "worker", "executed"), added);
  cluster_->gate("replica1").open();
  expect_executed(kSessions + added);
}

class NoCompletions final : public statemachine::CompletionSink {
 public:
  void on_completions(std::span<const statemachine::Completion>, Nanos) override {}
};

TEST_F(ManySessions, OneMoreThanTheConfiguredIsRefusedUntilAnotherEnds) {
  const std::uint32_t limit = cluster_->config().limits.sessions;
  const std::uint32_t rest = limit - kSessions;
  NoCompletions sink;
  Cluster::ClientPlace place = cluster_->next_client();
  place.options.sessions_max = rest + 1;
  place.options.session_window_max = kWindow;
  statemachine::Client client(place.options, cluster_->ring(), place.transport, sink);
  std::vector<SessionHandle> handles;
  const auto open = [&](std::uint32_t count) {
    std::size_t at = handles.size();
    for (std::uint32_t i = 0; i < count; ++i) {
      handles.push_back(client.open_session(kWindow, kReplyBytes).value());
    }
    for (const Nanos until = clock_.now() + 60 * kSecond;
         at < handles.size() && clock_.now() < until;) {
      if (client.poll(clock_.now(), 64).work == 0) std::this_thread::yield();
      while (at < handles.size() && client.session_state(handles[at]) != SessionState::kOpening) {
        ++at;
      }
    }
  };
  const Nanos began = clock_.now();
  open(rest);
  tell(std::to_string(rest) + " more, by one client", began);
  for (const SessionHandle handle : handles) ASSERT_TRUE(client.session_ready(handle));

  open(1);
  EXPECT_EQ(client.session_state(handles.back()), SessionState::kRefused);
  client.close_session(handles.back(), clock_.now());
  client.close_session(handles.front(), clock_.now());
  open(1);
  EXPECT_TRUE(client.session_ready(handles.back()));

  ASSERT_TRUE(cluster_->state_hashes(60 * kSecond));
  for (const char* replica : {"replica1", "replica2"}) {
    EXPECT_GE(counted(replica, "worker", "sessions_refused"), 1u);  // more if ordered twice
    EXPECT_EQ(counted(replica, "worker", "sessions_closed"), 1u);
    EXPECT_EQ(counted(replica, "worker", "sessions_opened"), limit + 1u);
  }
  repeat(*other_, 0, kReplica1);
  expect_executed(kSessions);
  cluster_->stop();
}

}  // namespace
}  // namespace annulus::tools
