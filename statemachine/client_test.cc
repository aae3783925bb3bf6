// The client against the real thing: acceptors, learners, workers and the key-value service over
// the in-process switch, in both modes, with and without faults.
#include "statemachine/client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "consensus/node.h"
#include "dataplane/local/local_transport.h"
#include "statemachine/kv/kv.h"
#include "statemachine/kv/kv_codec.h"
#include "statemachine/worker.h"
#include "tests/lossy_transport.h"

namespace annulus::statemachine {
namespace {

using consensus::Endpoint;
using consensus::NodeId;
using tests::Faults;
using tests::LossyTransport;

constexpr std::uint64_t kCluster = 31;
constexpr std::uint8_t kKv = 1;
constexpr Endpoint kGroup{0xef000001, 4000};
constexpr Nanos kTurn = 10 * kMicrosecond;

Endpoint endpoint_of(std::uint32_t i) { return {0x0a000001 + i, 4000}; }

class Replica {
 public:
  Replica(std::uint16_t index, NodeId id, const consensus::Configuration& configuration,
          dataplane::Transport& transport, bool client_server)
      : kv_({.service = kKv, .limit_bytes = 64u << 20}) {
    consensus::LearnerNodeOptions network;
    network.identity = {kCluster, 0, id, 1};
    network.client_server = client_server;
    network_ = std::make_unique<consensus::LearnerNode>(
        network, configuration, transport,
        consensus::LearnerNode::Rings{deliveries_, replies_, proposals_});
    WorkerOptions options;
    options.node = id;
    options.epoch = 1;
    options.sessions = {.sessions_max = 1'024, .segment_bytes = 1u << 20, .segments_max = 64};
    options.replies.replica = index;
    options.replies.frame_bytes_max = transport.frame_bytes_max();
    options.session_idle = 30 * kSecond + index * kSecond;
    worker_ = std::make_unique<Worker>(options, std::vector<Service*>{nullptr, &kv_},
                                       Worker::Rings{deliveries_, replies_, proposals_});
  }
  void poll(Nanos now) {
    if (stopped) return;
    network_->poll(now, 64);
    worker_->poll(now, 64);
  }
  Worker& worker() { return *worker_; }
  bool stopped = false;

 private:
  kv::KvService kv_;
  dataplane::SpscRing<consensus::Delivery> deliveries_{1'024};
  dataplane::SpscRing<consensus::ReplyFrame> replies_{1'024};
  dataplane::SpscRing<consensus::Proposal> proposals_{4};
  std::unique_ptr<consensus::LearnerNode> network_;
  std::unique_ptr<Worker> worker_;
};

struct Ended {
  CommandStatus status;
  std::string reply;
};

/// `client_server` is the test's parameter.
class ClientTest : public testing::TestWithParam<bool>, public CompletionSink {
 protected:
  ClientTest() {
    configuration_.group = kGroup;
    std::vector<Endpoint> endpoints;
    for (std::uint32_t i = 0; i < 6; ++i) endpoints.push_back(endpoint_of(i));
    for (std::uint32_t i = 0; i < 3; ++i) {
      configuration_.acceptors.push_back({NodeId{i + 1}, endpoints[i]});
    }
    for (std::uint32_t i = 3; i < 5; ++i) {
      configuration_.learners.push_back({NodeId{i + 1}, endpoints[i], consensus::kAllPartitions});
    }
    switch_ = std::make_unique<dataplane::LocalSwitch>(
        endpoints, dataplane::LocalOptions{.mtu = 1'500, .link_depth = 4'096});
    for (std::uint32_t i = 0; i < 5; ++i) EXPECT_TRUE(switch_->transport(i).join(kGroup).ok());
    for (std::uint32_t i = 0; i < 3; ++i) {
      consensus::AcceptorNodeOptions options;
      options.identity = {kCluster, 0, NodeId{i + 1}, 1};
      options.coordinate = i == 0;
      acceptors_.push_back(std::make_unique<consensus::AcceptorNode>(options, configuration_,
                                                                     switch_->transport(i)));
    }
    for (std::uint16_t i = 0; i < 2; ++i) {
      replicas_.push_back(std::make_unique<Replica>(i, NodeId{i + 4u}, configuration_,
                                                    switch_->transport(i + 3u), GetParam()));
    }
    lossy_ = std::make_unique<LossyTransport>(switch_->transport(5), 5);
    options_.cluster = kCluster;
    options_.client_server = GetParam();
    options_.retransmit_after = 2 * kMillisecond;
  }
  ~ClientTest() override {
    // In-process, nodes hold each other's values by reference: those that keep them go first.
    lossy_->clear();
    switch_->clear();
    acceptors_.clear();
    replicas_.clear();
    client_.reset();
  }

  void start(std::uint32_t window = 256, std::uint32_t reply_bytes = 64) {
    client_ = std::make_unique<Client>(options_, configuration_, *lossy_, *this);
    session_ = *client_->open_session(window, reply_bytes);
    ASSERT_TRUE(run_until([&] { return client_->session_ready(session_); }));
  }
  template <typename Condition>
  bool run_until(Condition condition, Nanos longest = 20 * kSecond) {
    for (const Nanos end = now_ + longest; now_ < end;) {
      if (condition()) return true;
      turn();
    }
    return condition();
  }
  void turn(bool with_client = true) {
    now_ += kTurn;
    for (auto& acceptor : acceptors_) acceptor->poll(now_, 64);
    for (auto& replica : replicas_) replica->poll(now_);
    if (with_client) client_->poll(now_, 64);
  }
  void on_completions(std::span<const Completion> completions, Nanos) override {
    for (const Completion& c : completions) {
      EXPECT_FALSE(ended_.contains(c.tag)) << "completed twice";
      ended_[c.tag] = {c.status, {reinterpret_cast<const char*>(c.reply.data()), c.reply.size()}};
      order_.push_back(c.tag);
    }
  }

  SubmitOutcome try_submit(const kv::KvRequest& request, std::uint64_t tag, Nanos deadline = 0) {
    std::span<std::byte> body;
    const std::uint8_t flags = kv::read_only(request.op) ? kReadOnly : 0;
    const auto outcome =
        client_->submit(session_, kKv, flags, kv::body_bytes(request), tag, now_, body, deadline);
    if (outcome == SubmitOutcome::kAccepted) kv::encode(request, body);
    return outcome;
  }
  std::uint64_t submit(const kv::KvRequest& request, Nanos deadline = 0) {
    const std::uint64_t tag = ++tag_;
    EXPECT_TRUE(
        run_until([&] { return try_submit(request, tag, deadline) == SubmitOutcome::kAccepted; }));
    return tag;
  }
  static kv::Bytes bytes(const std::string& text) { return std::as_bytes(std::span{text}); }
  std::uint64_t put(const std::string& key, const std::string& value) {
    return submit({.op = kv::KvOp::kPut, .key = bytes(key), .value = bytes(value)});
  }
  std::uint64_t read(const std::string& key) {
    return submit({.op = kv::KvOp::kRead, .key = bytes(key)});
  }
  std::uint64_t increment(const std::string& key) {
    return submit({.op = kv::KvOp::kIncrement, .key = bytes(key), .first = 1});
  }
  Ended end_of(std::uint64_t tag) {
    EXPECT_TRUE(run_until([&] { return ended_.contains(tag); }));
    return ended_[tag];
  }
  bool all_ended(Nanos longest = 20 * kSecond) {
    return run_until([&] { return client_->outstanding() == 0; }, longest);
  }
  std::uint64_t count(ClientCounter which) const { return client_->counters()[which].get(); }
  std::uint64_t count(consensus::ProposerCounter which) const {
    return client_->proposer_counters()[which].get();
  }
  void expect_replicas_equal() {
    if (GetParam()) return;
    StateHashes hashes[2];
    for (int i = 0; i < 1'000; ++i) turn();
    for (int i = 0; i < 2; ++i) {
      const auto ticket = replicas_[i]->worker().ask_state_hashes();
      ASSERT_TRUE(
          run_until([&] { return replicas_[i]->worker().state_hashes(ticket, hashes[i]); }));
      EXPECT_EQ(hashes[i].kept, hashes[i].recomputed);
    }
    EXPECT_EQ(hashes[0].recomputed, hashes[1].recomputed);
  }

  consensus::Configuration configuration_;
  std::unique_ptr<dataplane::LocalSwitch> switch_;
  std::vector<std::unique_ptr<consensus::AcceptorNode>> acceptors_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::unique_ptr<LossyTransport> lossy_;
  ClientOptions options_;
  std::unique_ptr<Client> client_;
  SessionHandle session_{};
  Nanos now_ = kSecond;
  std::uint64_t tag_ = 0;
  std::map<std::uint64_t, Ended> ended_;
  std::vector<std::uint64_t> order_;
};

INSTANTIATE_TEST_SUITE_P(Modes, ClientTest, testing::Bool(), [](const auto& parameter) {
  return parameter.param ? "ClientServer" : "Replicated";
});

TEST_P(ClientTest, WritesAndReadsInTheOrderSubmitted) {
  start();
  const auto w1 = put("k", "one");
  const auto r1 = read("k");
  const auto w2 = put("k", "two");
  const auto r2 = read("k");
  EXPECT_EQ(end_of(w1).status, CommandStatus::kOk);
  EXPECT_EQ(end_of(r1).reply, "one");
  EXPECT_EQ(end_of(w2).status, CommandStatus::kOk);
  EXPECT_EQ(end_of(r2).reply, "two");
  expect_replicas_equal();
}

TEST_P(ClientTest, LoneCommandIsSentAtOnce) {
  start();
  const Nanos before = now_;
  end_of(put("k", "v"));
  EXPECT_LT(now_ - before, 20 * kTurn);
}

TEST_P(ClientTest, CommandsShareBatches) {
  start();
  for (int i = 0; i < 200; ++i) put("k" + std::to_string(i), "v");
  ASSERT_TRUE(all_ended());
  EXPECT_LE(count(ClientCounter::kBatches), 10u);
  EXPECT_EQ(count(ClientCounter::kCompletions), 200u);
}

TEST_P(ClientTest, WindowOfASessionPushesBack) {
  start(4);
  for (std::uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(try_submit({.op = kv::KvOp::kCount}, 100 + i), SubmitOutcome::kAccepted);
  }
  EXPECT_EQ(try_submit({.op = kv::KvOp::kCount}, 104), SubmitOutcome::kWindowFull);
  ASSERT_TRUE(all_ended());
  EXPECT_EQ(try_submit({.op = kv::KvOp::kCount}, 105), SubmitOutcome::kAccepted);
}

TEST_P(ClientTest, ClusterThatDoesNotAnswerPushesBack) {
  options_.batches_in_flight = 4;
  options_.batch_commands = 2;
  start();
  lossy_->set({.loss = 1});
  SubmitOutcome outcome{};
  int accepted = 0;
  for (; accepted < 100; ++accepted) {
    outcome = try_submit({.op = kv::KvOp::kCount}, 1'000u + static_cast<unsigned>(accepted));
    if (outcome != SubmitOutcome::kAccepted) break;
  }
  EXPECT_EQ(outcome, SubmitOutcome::kBusy);
  EXPECT_EQ(accepted, 8);
}

TEST_P(ClientTest, CommandThatNeverFitsIsRefused) {
  start();
  std::span<std::byte> body;
  EXPECT_EQ(client_->submit(session_, kKv, 0, options_.value_bytes_max, 1, now_, body),
            SubmitOutcome::kTooLarge);
}

TEST_P(ClientTest, SubmitWithoutAReadySessionIsRefused) {
  start();
  const SessionHandle other = *client_->open_session(8);
  std::span<std::byte> body;
  EXPECT_EQ(client_->submit(other, kKv, 0, 8, 1, now_, body), SubmitOutcome::kSessionNotReady);
  EXPECT_FALSE(client_->open_session(3).ok());
}

TEST_P(ClientTest, DeadlinePassesAsOutcomeUnknown) {
  start();
  lossy_->set({.loss = 1});
  const auto tag =
      submit({.op = kv::KvOp::kIncrement, .key = bytes("n"), .first = 1}, 50 * kMillisecond);
  const Nanos before = now_;
  EXPECT_EQ(end_of(tag).status, CommandStatus::kOutcomeUnknown);
  EXPECT_GE(now_ - before, 50 * kMillisecond);
  EXPECT_LT(now_ - before, 60 * kMillisecond);
  lossy_->set({});
  EXPECT_EQ(end_of(put("k", "v")).status, CommandStatus::kOk) << "the client goes on";
  expect_replicas_equal();
}

TEST_P(ClientTest, CommandsAreExecutedOnceThroughLossDuplicationAndReordering) {
  start();
  options_.deadline = 30 * kSecond;
  lossy_->set({.loss = 0.1, .duplicate = 0.1, .reorder = 0.2});
  constexpr int kIncrements = 2'000;
  for (int i = 0; i < kIncrements; ++i) increment("n" + std::to_string(i % 7));
  ASSERT_TRUE(all_ended(60 * kSecond));
  lossy_->set({});
  std::int64_t sum = 0;
  for (int i = 0; i < 7; ++i) sum += std::stoll(end_of(read("n" + std::to_string(i))).reply);
  EXPECT_EQ(sum, kIncrements);
  for (std::uint64_t tag = 1; tag <= kIncrements; ++tag) {
    EXPECT_EQ(ended_[tag].status, CommandStatus::kOk);
  }
  EXPECT_GT(count(consensus::ProposerCounter::kQueries), 0u);
  EXPECT_GT(count(consensus::ProposerCounter::kRetransmitted), 0u);
  expect_replicas_equal();
}

TEST_P(ClientTest, ReadsSeeTheWritesBeforeThemThroughLoss) {
  start();
  lossy_->set({.loss = 0.05, .duplicate = 0.05, .reorder = 0.1});
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(end_of(put("k", std::to_string(i))).status, CommandStatus::kOk);
    ASSERT_EQ(end_of(read("k")).reply, std::to_string(i));
  }
}

TEST_P(ClientTest, LongRepliesAreJoinedThroughLoss) {
  start();
  const std::string big(40'000, 'x');
  ASSERT_EQ(end_of(put("big", big)).status, CommandStatus::kOk);
  lossy_->set({.loss = 0.01, .duplicate = 0.02, .reorder = 0.05});
  for (int i = 0; i < 20; ++i) {
    const Ended ended = end_of(read("big"));
    ASSERT_EQ(ended.status, CommandStatus::kOk);
    ASSERT_EQ(ended.reply, big);
  }
}

TEST_P(ClientTest, DeadReplicaCostsNoOutcome) {
  if (GetParam()) GTEST_SKIP() << "client-server mode has one replica";
  start();
  for (int i = 0; i < 100; ++i) increment("n");
  replicas_[1]->stopped = true;
  for (int i = 0; i < 100; ++i) increment("n");
  std::vector<std::uint64_t> reads;
  for (int i = 0; i < 20; ++i) reads.push_back(read("n"));
  ASSERT_TRUE(all_ended());
  for (const auto& [tag, ended] : ended_) EXPECT_EQ(ended.status, CommandStatus::kOk);
  EXPECT_GT(count(consensus::ProposerCounter::kSuspected), 0u);
  EXPECT_EQ(end_of(read("n")).reply, "200");
  replicas_[1]->stopped = false;
  EXPECT_TRUE(run_until(
      [&] { return replicas_[1]->worker().executed() == replicas_[0]->worker().executed(); }));
  expect_replicas_equal();
}

TEST_P(ClientTest, ClosedSessionEndsAndItsPlaceIsUsedAgain) {
  options_.sessions_max = 1;
  start();
  for (int round = 0; round < 5; ++round) {
    put("k", "v");
    client_->close_session(session_, now_);
    EXPECT_EQ(client_->session_state(session_), SessionState::kClosed);
    ASSERT_TRUE(run_until([&] {
      auto opened = client_->open_session(8);
      if (opened.ok()) session_ = *opened;
      return opened.ok();
    }));
    ASSERT_TRUE(run_until([&] { return client_->session_ready(session_); }));
  }
  EXPECT_EQ(replicas_[0]->worker().sessions().count(), 1u);
  expect_replicas_equal();
}

TEST_P(ClientTest, SessionWhoseLastReplyIsOnItsWayIsClosedInTheClusterToo) {
  start();
  put("k", "v");
  turn();
  for (int i = 0; i < 1'000; ++i) turn(false);
  client_->close_session(session_, now_);
  EXPECT_TRUE(run_until([&] { return replicas_[0]->worker().sessions().count() == 0; }, kSecond));
}

TEST_P(ClientTest, SessionsOpenedInTurnAreClosedInTurnHoweverManyAtATime) {
  options_.sessions_max = 600;
  options_.batches_in_flight = 2;
  start(8);
  for (int round = 0; round < 3; ++round) {
    std::vector<SessionHandle> handles;
    while (handles.size() < 599) handles.push_back(*client_->open_session(8));
    EXPECT_FALSE(client_->open_session(8).ok());
    if (round == 1) turn();
    if (round != 0) {
      for (const SessionHandle each : handles) client_->close_session(each, now_);
    }
    const std::uint32_t left = round == 0 ? 600 : 1;
    ASSERT_TRUE(run_until([&] {
      return std::all_of(handles.begin(), handles.end(),
                         [&](SessionHandle each) {
                           return client_->session_ready(each) == (round == 0);
                         }) &&
             replicas_[0]->worker().sessions().count() == left;
    }));
    for (const SessionHandle each : handles) client_->close_session(each, now_);
    ASSERT_TRUE(run_until([&] { return replicas_[0]->worker().sessions().count() == 1; }));
    for (int i = 0; i < 1'000; ++i) turn();
  }
  EXPECT_EQ(end_of(put("k", "v")).status, CommandStatus::kOk);
  expect_replicas_equal();
}

TEST_P(ClientTest, OpeningASessionIsRepeatedUntilItIsAnsweredAndOpensOne) {
  options_.deadline = 20 * kMillisecond;
  lossy_->set({.loss = 1});
  client_ = std::make_unique<Client>(options_, configuration_, *lossy_, *this);
  session_ = *client_->open_session(8);
  EXPECT_FALSE(run_until([&] { return client_->session_ready(session_); }, 100 * kMillisecond));
  lossy_->set({.loss = 0.5});
  EXPECT_TRUE(run_until([&] { return client_->session_ready(session_); }));
  EXPECT_EQ(replicas_[0]->worker().sessions().count(), 1u);
}

TEST_P(ClientTest, IdleSessionIsKeptAlive) {
  start();
  for (int i = 0; i < 900; ++i) {
    now_ += 100 * kMillisecond;  // ninety seconds in all
    for (int k = 0; k < 8; ++k) turn();
  }
  EXPECT_GT(count(ClientCounter::kKeepAlives), 2u);
  EXPECT_EQ(end_of(put("k", "v")).status, CommandStatus::kOk);
}

TEST_P(ClientTest, ManyIdleSessionsAreAllKeptAliveInTime) {
  options_.sessions_max = 400;
  options_.batches_in_flight = 2;
  options_.batch_commands = 4;
  options_.keepalive = 400 * kMillisecond;
  start(8);
  std::vector<SessionHandle> handles;
  while (handles.size() < 399) handles.push_back(*client_->open_session(8));
  ASSERT_TRUE(run_until([&] { return client_->session_ready(handles.back()); }));
  run_until([] { return false; }, 600 * kMillisecond);  // more than what fits in flight at a time
  EXPECT_GE(count(ClientCounter::kKeepAlives), 400u);
}

TEST_P(ClientTest, VanishedClientsSessionExpiresAndTheClientIsTold) {
  options_.keepalive = 1'000 * kSecond;
  start();
  for (int i = 0; i < 900; ++i) {
    now_ += 100 * kMillisecond;
    for (int k = 0; k < 8; ++k) turn();
  }
  EXPECT_EQ(replicas_[0]->worker().sessions().count(), 0u);
  EXPECT_EQ(end_of(put("k", "v")).status, CommandStatus::kNoSuchSession);
  EXPECT_EQ(client_->session_state(session_), SessionState::kExpired);
  client_->close_session(session_, now_);
  session_ = *client_->open_session(8);
  ASSERT_TRUE(run_until([&] { return client_->session_ready(session_); }));
  EXPECT_EQ(end_of(put("k", "v")).status, CommandStatus::kOk);
  expect_replicas_equal();
}

TEST_P(ClientTest, RefusalOfAValueSentTwiceLeavesTheOutcomeUnknown) {
  options_.keepalive = 1'000 * kSecond;
  start();
  for (int i = 0; i < 900; ++i) {
    now_ += 100 * kMillisecond;
    for (int k = 0; k < 8; ++k) turn();
  }
  ASSERT_EQ(replicas_[0]->worker().sessions().count(), 0u);
  lossy_->set({.loss = 1});
  const auto tag = put("k", "v");
  ASSERT_TRUE(run_until([&] { return count(consensus::ProposerCounter::kRetransmitted) > 0; }));
  lossy_->set({});
  // What was lost the first time is only known here: two coordinators might have ordered it.
  EXPECT_EQ(end_of(tag).status, CommandStatus::kOutcomeUnknown);
  EXPECT_EQ(client_->session_state(session_), SessionState::kExpired);
}

}  // namespace
}  // namespace annulus::statemachine
