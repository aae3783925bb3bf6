// A whole cluster in one process, its stages spread over every CPU there is: what embedders run,
// and what ThreadSanitizer watches.
#include "tools/cluster.h"

#include <gtest/gtest.h>

#include <cstring>

#include "dataplane/core_map.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::tools {
namespace {

using statemachine::CommandStatus;
namespace kv = statemachine::kv;

ClusterOptions on_every_cpu() {
  ClusterOptions options;
  options.service_names = {{"kv", 64}};
  options.services = service_factory(options.service_names);
  const std::string all = dataplane::to_cpu_list(dataplane::this_host().cpus);
  for (const char* role : {"acceptor", "learner", "worker"}) options.process.cores[role] = all;
  options.process.idle = "yield";
  return options;
}

std::vector<std::byte> increment(const std::string& key) {
  kv::KvRequest request;
  request.op = kv::KvOp::kIncrement;
  request.key = std::as_bytes(std::span(key));
  request.first = 1;
  std::vector<std::byte> body(kv::body_bytes(request));
  kv::encode(request, body);
  return body;
}

/// Counts `key` up to `rounds`; every reply must be the next number.
void count_up(statemachine::BlockingClient& client, const std::string& key, int rounds) {
  const std::vector<std::byte> body = increment(key);
  for (std::int64_t i = 1; i <= rounds; ++i) {
    const auto reply = client.call(1, 0, body);
    ASSERT_TRUE(reply) << reply.error().message;
    ASSERT_EQ(reply->status, CommandStatus::kOk);
    ASSERT_EQ(kv::decode_integer(reply->bytes), i);
  }
}

TEST(EmbeddedCluster, ExecutesOnceAndAlikeOnEveryReplica) {
  auto made = Cluster::create(on_every_cpu());
  ASSERT_TRUE(made) << made.error().message;
  Cluster& cluster = *made.value();
  statemachine::BlockingClient& one = cluster.make_blocking_client();
  statemachine::BlockingClient& other = cluster.make_blocking_client();
  ASSERT_TRUE(cluster.start().ok());
  std::thread beside([&] { count_up(other, "other", 300); });
  count_up(one, "one", 300);
  beside.join();
  const auto hashes = cluster.state_hashes();
  ASSERT_TRUE(hashes) << hashes.error().message;
  ASSERT_EQ(hashes->size(), 2u);
  for (const statemachine::StateHashes& each : *hashes) {
    EXPECT_EQ(each.kept, each.recomputed);
    EXPECT_EQ(each.recomputed, hashes->front().recomputed);
  }
  cluster.stop();
}

/// Both replicas have the same state, as each recomputes it.
void expect_equal_states(Cluster& cluster) {
  const auto hashes = cluster.state_hashes();
  ASSERT_TRUE(hashes) << hashes.error().message;
  for (const statemachine::StateHashes& each : *hashes) {
    EXPECT_EQ(each.kept, each.recomputed);
    EXPECT_EQ(each.recomputed, hashes->front().recomputed);
    EXPECT_EQ(each.executed, hashes->front().executed);
  }
}

/// Whose nodes can be made to fail.
ClusterOptions gated(std::uint32_t retain) {
  ClusterOptions options = on_every_cpu();
  options.gated = true;
  options.limits.window = 64;
  options.limits.retain = retain;
  return options;
}

TEST(EmbeddedCluster, ReplicaThatLostItsMemoryFetchesTheStateAndReplacesTheOtherOne) {
  auto made = Cluster::create(gated(1'024));
  ASSERT_TRUE(made) << made.error().message;
  Cluster& cluster = *made.value();
  statemachine::BlockingClient& client = cluster.make_blocking_client();
  ASSERT_TRUE(cluster.start().ok());
  const std::vector<std::byte> body = increment("n");
  std::int64_t expected = 0;
  const auto count = [&](int rounds) {
    for (int i = 0; i < rounds; ++i) {
      const auto reply = client.call(1, 0, body);
      ASSERT_TRUE(reply) << reply.error().message;
      ASSERT_EQ(kv::decode_integer(reply->bytes), ++expected);
    }
  };
  count(1'500);
  for (const char* victim : {"replica1", "replica2", "replica1"}) {
    cluster.gate(victim).stop();
    count(10);
    ASSERT_TRUE(cluster.restart_replica(victim).ok());
    count(50);
    expect_equal_states(cluster);
  }
  // What was fetched is whole: it answers for everything, alone.
  cluster.gate("replica2").stop();
  count(50);
  EXPECT_FALSE(cluster.restart_replica("acceptor1").ok());
  EXPECT_FALSE(cluster.restart_replica("replica3").ok());
  cluster.stop();
}

// What they hold of the values that clients sent, by reference, is lost to the clients.
TEST(EmbeddedCluster, NodesThatStandStillHoldNobodyUpHoweverMuchIsSent) {
  auto made = Cluster::create(gated(4'096));
  ASSERT_TRUE(made) << made.error().message;
  Cluster& cluster = *made.value();
  statemachine::BlockingClient& client = cluster.make_blocking_client();
  ASSERT_TRUE(cluster.start().ok());
  const std::string keys = "abc";
  const std::string value(15'000, 'v');
  std::vector<std::span<const std::byte>> items;
  for (const char& key : keys) {
    items.push_back(std::as_bytes(std::span(&key, 1)));
    items.push_back(std::as_bytes(std::span(value)));
  }
  const auto put = [&](int rounds) {
    for (int i = 0; i < rounds; ++i) {
      kv::KvRequest request{.op = kv::KvOp::kPutMany};
      request.items = items;
      std::vector<std::byte> body(kv::body_bytes(request));
      kv::encode(request, body);
      const auto reply = client.call(1, 0, body);
      ASSERT_TRUE(reply) << reply.error().message;
      ASSERT_EQ(reply->status, CommandStatus::kOk);
    }
  };
  put(600);
  cluster.gate("replica1").stop();
  cluster.gate("acceptor3").stop();
  put(4'000);
  cluster.stop();
}

TEST(EmbeddedCluster, RefusesAnEvenNumberOfAcceptors) {
  ClusterOptions options = on_every_cpu();
  options.acceptors = 2;
  const auto made = Cluster::create(options);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("odd number of acceptors"), std::string::npos);
}

}  // namespace
}  // namespace annulus::tools
