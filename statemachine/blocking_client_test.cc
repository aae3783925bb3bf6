// The waiting client, against a server without replication that runs in a thread of its own.
#include "statemachine/blocking_client.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>

#include "consensus/node.h"
#include "dataplane/local/local_transport.h"
#include "statemachine/kv/kv.h"
#include "statemachine/kv/kv_codec.h"
#include "statemachine/worker.h"

namespace annulus::statemachine {
namespace {

constexpr std::uint64_t kCluster = 12;
constexpr std::uint8_t kKv = 1;
constexpr std::array<dataplane::Endpoint, 2> kEndpoints{{{0x0a000001, 1}, {0x0a000002, 1}}};

class BlockingClientTest : public testing::Test {
 protected:
  BlockingClientTest() : switch_(kEndpoints, {}), kv_({.service = kKv, .limit_bytes = 64u << 20}) {
    configuration_.learners.push_back(
        {consensus::NodeId{4}, kEndpoints[0], consensus::kAllPartitions});
    options_.cluster = kCluster;
    options_.client_server = true;
  }
  ~BlockingClientTest() override {
    stop_ = true;
    if (server_.joinable()) server_.join();
    switch_.clear();
  }

  /// Starts the server; the client must outlive it, and does: it is made before.
  void serve() {
    server_ = std::thread([this] {
      consensus::LearnerNodeOptions network;
      network.identity = {kCluster, 0, consensus::NodeId{4}, 1};
      network.client_server = true;
      consensus::LearnerNode node(network, configuration_, switch_.transport(0),
                                  consensus::LearnerNode::Rings{deliveries_, replies_, proposals_});
      WorkerOptions options;
      options.node = consensus::NodeId{4};
      options.replies.frame_bytes_max = switch_.transport(0).frame_bytes_max();
      Worker worker(options, {nullptr, &kv_}, Worker::Rings{deliveries_, replies_, proposals_});
      dataplane::TscClock clock;
      while (!stop_) {
        const Nanos now = clock.now();
        if (node.poll(now, 64).work + worker.poll(now, 64).work == 0) std::this_thread::yield();
      }
      switch_.clear();  // replies on their way refer to the worker's memory
    });
  }
  static std::vector<std::byte> body(kv::KvOp op, const std::string& key,
                                     const std::string& value = "") {
    const kv::KvRequest request{
        .op = op, .key = std::as_bytes(std::span{key}), .value = std::as_bytes(std::span{value})};
    std::vector<std::byte> bytes(kv::body_bytes(request));
    kv::encode(request, bytes);
    return bytes;
  }

  consensus::Configuration configuration_;
  ClientOptions options_;
  dataplane::TscClock clock_;
  dataplane::LocalSwitch switch_;
  kv::KvService kv_;
  dataplane::SpscRing<consensus::Delivery> deliveries_{64};
  dataplane::SpscRing<consensus::ReplyFrame> replies_{64};
  dataplane::SpscRing<consensus::Proposal> proposals_{2};
  std::atomic<bool> stop_{false};
  std::thread server_;
};

TEST_F(BlockingClientTest, CallsAreAnsweredInTurn) {
  BlockingClient client(options_, configuration_, switch_.transport(1), clock_);
  serve();
  for (int i = 0; i < 20; ++i) {
    const std::string value = std::to_string(i);
    const auto put = client.call(kKv, 0, body(kv::KvOp::kPut, "k", value), 30 * kSecond);
    ASSERT_TRUE(put.ok()) << put.error().message;
    EXPECT_EQ(put.value().status, CommandStatus::kOk);
    const auto read = client.call(kKv, kReadOnly, body(kv::KvOp::kRead, "k"), 30 * kSecond);
    ASSERT_TRUE(read.ok()) << read.error().message;
    const auto& bytes = read.value().bytes;
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), value);
  }
  const auto absent = client.call(kKv, kReadOnly, body(kv::KvOp::kRead, "none"), 30 * kSecond);
  ASSERT_TRUE(absent.ok());
  EXPECT_EQ(absent.value().status, CommandStatus::kNotFound);
  stop_ = true;
  server_.join();
}

TEST_F(BlockingClientTest, ClusterThatDoesNotAnswerIsAnErrorThatSaysWhatToCheck) {
  BlockingClient client(options_, configuration_, switch_.transport(1), clock_);
  const auto reply = client.call(kKv, 0, body(kv::KvOp::kPut, "k", "v"), 50 * kMillisecond);
  ASSERT_FALSE(reply.ok());
  EXPECT_NE(reply.error().message.find("check that the cluster runs"), std::string::npos);
  switch_.clear();
}

}  // namespace
}  // namespace annulus::statemachine
