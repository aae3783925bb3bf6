// The proxy before a real cluster: acceptors, replicas and both services over the in-process
// switch, time moved by hand, clients over TCP.
#include "tools/proxy/proxy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "statemachine/kv/kv.h"
#include "statemachine/worker.h"
#include "tests/support/local_ring.h"

namespace annulus::proxy {
namespace {

using consensus::Endpoint;
using consensus::NodeId;
using support::LocalRing;

constexpr std::uint32_t kReplicas = LocalRing::kLearners;

std::string encode(const std::vector<std::string>& command) {
  std::string text = "*" + std::to_string(command.size()) + "\r\n";
  for (const std::string& argument : command) {
    text += "$" + std::to_string(argument.size()) + "\r\n" + argument + "\r\n";
  }
  return text;
}

class Replica {
 public:
  Replica(std::uint32_t index, LocalRing& ring) : kv_({.service = 1, .limit_bytes = 64u << 20}) {
    dataplane::Transport& transport = ring.fabric.transport(LocalRing::kAcceptors + index);
    consensus::LearnerNodeOptions network;
    network.identity = LocalRing::identity(LocalRing::kAcceptors + index);
    network_ = std::make_unique<consensus::LearnerNode>(
        network, ring.configuration, transport,
        consensus::LearnerNode::Rings{deliveries_, replies_, proposals_});
    statemachine::WorkerOptions options;
    options.node = network.identity.node;
    options.epoch = 1;
    options.sessions = {.sessions_max = 1'024, .segment_bytes = 1u << 20, .segments_max = 64};
    options.replies.replica = static_cast<std::uint16_t>(index);
    options.replies.frame_bytes_max = transport.frame_bytes_max();
    worker_ = std::make_unique<statemachine::Worker>(
        options, std::vector<statemachine::Service*>{nullptr, &kv_},
        statemachine::Worker::Rings{deliveries_, replies_, proposals_});
  }
  void poll(Nanos now) {
    network_->poll(now, 64);
    worker_->poll(now, 64);
  }

 private:
  statemachine::kv::KvService kv_;
  dataplane::SpscRing<consensus::Delivery> deliveries_{1'024};
  dataplane::SpscRing<consensus::ReplyFrame> replies_{1'024};
  dataplane::SpscRing<consensus::Proposal> proposals_{4};
  std::unique_ptr<consensus::LearnerNode> network_;
  std::unique_ptr<statemachine::Worker> worker_;
};

/// A client's socket, never blocking.
class Socket {
 public:
  explicit Socket(std::uint16_t port, int receive_buffer = 0)
      : descriptor_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) {
      setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    fcntl(descriptor_, F_SETFL, O_NONBLOCK);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(descriptor_); }

  void queue(const std::string& bytes) { unsent_ += bytes; }
  /// Sends what the kernel takes of what is queued.
  void send_some() {
    if (unsent_.empty()) return;
    const ssize_t sent = send(descriptor_, unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
    if (sent > 0) unsent_.erase(0, static_cast<std::size_t>(sent));
  }
  void receive_some() {
    char buffer[65'536];
    const ssize_t got = recv(descriptor_, buffer, sizeof(buffer), 0);
    if (got > 0) received.append(buffer, static_cast<std::size_t>(got));
    if (got == 0 || (got < 0 && errno != EAGAIN)) closed = true;
  }

  std::string received;
  bool closed = false;

 private:
  int descriptor_;
  std::string unsent_;
};

class ProxyTest : public testing::Test {
 protected:
  ProxyTest() {
    for (std::uint32_t i = 0; i < kReplicas; ++i) {
      replicas_.push_back(std::make_unique<Replica>(i, ring_));
    }
    options_.port = 0;
    options_.clients_max = 64;
    options_.services = {.kv = 1};
  }
  ~ProxyTest() override {
    // Who holds values before who made them.
    ring_.acceptors.clear();
    replicas_.clear();
    ring_.fabric.clear();
  }

  void start() {
    statemachine::ClientOptions client;
    client.cluster = LocalRing::kCluster;
    auto proxy = Proxy::create(options_, client, ring_.configuration,
                               ring_.fabric.transport(LocalRing::kProposer));
    ASSERT_TRUE(proxy.ok()) << proxy.error().message;
    proxy_ = std::move(proxy).value();
  }
  void turn(Nanos step = 10 * kMicrosecond) {
    now_ += step;
    if (alive_) {
      for (auto& acceptor : ring_.acceptors) acceptor->poll(now_, 64);
      for (auto& replica : replicas_) replica->poll(now_);
    }
    proxy_->poll(now_, 64);
  }
  /// Turns, with `sockets` sending and reading, until the condition holds.
  template <typename Condition>
  bool run_until(std::vector<Socket*> sockets, Condition condition, int turns = 200'000,
                 Nanos step = 10 * kMicrosecond) {
    for (; turns > 0; --turns) {
      for (Socket* each : sockets) {
        each->send_some();
        each->receive_some();
      }
      if (condition()) return true;
      turn(step);
    }
    return false;
  }
  /// What `bytes` are answered with; `wanted` only says how much to wait for.
  std::string ask(Socket& socket, const std::string& bytes, std::size_t wanted) {
    socket.received.clear();
    socket.queue(bytes);
    run_until({&socket}, [&] { return socket.received.size() >= wanted || socket.closed; });
    return socket.received;
  }
  void expect_answer(Socket& socket, const std::string& bytes, const std::string& wanted) {
    EXPECT_EQ(ask(socket, bytes, wanted.size()), wanted);
  }
  std::uint64_t count(ProxyCounter which) const { return proxy_->counters()[which].get(); }

  Nanos now_ = kSecond;
  bool alive_ = true;
  LocalRing ring_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  ProxyOptions options_;
  std::unique_ptr<Proxy> proxy_;
};

TEST_F(ProxyTest, AnswersInOrderWhateverTheClusterDoes) {
  start();
  Socket socket(proxy_->port());
  std::string stream = encode({"SET", "k", "0"});
  std::string wanted = "+OK\r\n";
  for (int i = 1; i <= 3'000; ++i) {
    stream += encode({"INCR", "k"}) + (i % 3 == 0 ? encode({"PING"}) : encode({"GET", "k"}));
    const std::string number = std::to_string(i);
    wanted += ":" + number + "\r\n";
    wanted +=
        i % 3 == 0 ? "+PONG\r\n" : "$" + std::to_string(number.size()) + "\r\n" + number + "\r\n";
  }
  expect_answer(socket, stream, wanted);
}

TEST_F(ProxyTest, WithoutAClusterSaysSoInTimeAndRecovers) {
  start();
  alive_ = false;
  Socket socket(proxy_->port());
  Socket other(proxy_->port());
  socket.queue(encode({"SET", "k", "v"}));
  const Nanos before = now_;
  ASSERT_TRUE(run_until(
      {&socket}, [&] { return !socket.received.empty(); }, 20'000, kMillisecond));
  EXPECT_EQ(socket.received.substr(0, 18), "-ERR not executed:");
  EXPECT_LE(now_ - before, options_.deadline + kSecond);
  expect_answer(socket, encode({"PING"}), "+PONG\r\n");
  // Others do not each wait their time out.
  const Nanos asked = now_;
  EXPECT_EQ(ask(other, encode({"GET", "k"}), 18).substr(0, 18), "-ERR not executed:");
  EXPECT_LE(now_ - asked, kMillisecond);
  EXPECT_EQ(count(ProxyCounter::kNotAcceptedInTime), 2u);
  alive_ = true;
  ASSERT_TRUE(run_until(
      {},
      [&] {
        return ask(socket, encode({"SET", "k", "v"}), 5) == "+OK\r\n";
      },
      100, 5 * kMillisecond))
      << "not found within half a second of its return";
  expect_answer(other, encode({"GET", "k"}), "$1\r\nv\r\n");
}

TEST_F(ProxyTest, AClusterThatStopsLeavesTheOutcomeUnknown) {
  start();
  Socket socket(proxy_->port());
  expect_answer(socket, encode({"INCR", "n"}), ":1\r\n");
  alive_ = false;
  socket.received.clear();
  socket.queue(encode({"INCR", "n"}) + encode({"PING"}));
  ASSERT_TRUE(run_until(
      {&socket}, [&] { return socket.received.ends_with("+PONG\r\n"); }, 20'000, kMillisecond));
  EXPECT_EQ(socket.received.substr(0, 20), "-ERR outcome unknown");
  alive_ = true;
  // Executed late or never, but at most once.
  const std::string late = ask(socket, encode({"INCR", "n"}), 4);
  EXPECT_TRUE(late == ":2\r\n" || late == ":3\r\n") << late;
}

TEST_F(ProxyTest, RefusesClientsOverTheLimitAsRedisDoes) {
  options_.clients_max = 2;
  start();
  Socket first(proxy_->port());
  auto second = std::make_unique<Socket>(proxy_->port());
  expect_answer(first, encode({"PING"}), "+PONG\r\n");
  Socket third(proxy_->port());
  ASSERT_TRUE(run_until({&third}, [&] { return third.closed; }));
  EXPECT_EQ(third.received, "-ERR max number of clients reached\r\n");
  EXPECT_EQ(count(ProxyCounter::kRefuseClientsMax), 1u);
  second.reset();
  ASSERT_TRUE(run_until({}, [&] { return count(ProxyCounter::kConnectionsOpen) == 1; }));
  Socket fourth(proxy_->port());
  expect_answer(fourth, encode({"SET", "k", "v"}), "+OK\r\n");
}

TEST_F(ProxyTest, AClientThatDoesNotReadIsPausedAndAtLastClosed) {
  start();
  const std::string value(40'000, 'v');
  Socket good(proxy_->port());
  expect_answer(good, encode({"SET", "big", value}), "+OK\r\n");
  std::string requests;
  for (int i = 0; i < 2'000; ++i) requests += encode({"GET", "big"});
  std::vector<std::unique_ptr<Socket>> slow;
  for (int i = 0; i < 8; ++i) {
    slow.push_back(std::make_unique<Socket>(proxy_->port(), 4'096));
    slow.back()->queue(requests);
    slow.back()->send_some();
  }
  ASSERT_TRUE(run_until({}, [&] { return count(ProxyCounter::kPausedOutput) >= 8; }));
  for (int i = 0; i < 100; ++i) {
    expect_answer(good, encode({"GET", "big"}), "$40000\r\n" + value + "\r\n");
  }
  EXPECT_EQ(count(ProxyCounter::kConnectionsOpen), 9u);
  // One of them starts to read, and gets all it asked for; the others are closed in time.
  const std::size_t whole = 2'000 * (value.size() + 10);
  ASSERT_TRUE(run_until({slow[0].get()}, [&] { return slow[0]->received.size() >= whole; }));
  EXPECT_EQ(slow[0]->received.size(), whole);
  ASSERT_TRUE(run_until(
      {&good}, [&] { return count(ProxyCounter::kConnectionsOpen) == 2; }, 3'000,
      100 * kMillisecond));
  EXPECT_EQ(count(ProxyCounter::kCloseOutputStalled), 7u);
  EXPECT_EQ(count(ProxyCounter::kCloseNoMemory) + count(ProxyCounter::kCloseOutputFull), 0u);
  expect_answer(good, encode({"GET", "big"}), "$40000\r\n" + value + "\r\n");
}

TEST_F(ProxyTest, BackPressureOfTheClusterLosesNothing) {
  options_.sessions = 1;
  options_.session_window = 16;
  start();
  std::vector<std::unique_ptr<Socket>> sockets;
  std::vector<Socket*> all;
  for (int i = 0; i < 20; ++i) {
    sockets.push_back(std::make_unique<Socket>(proxy_->port()));
    all.push_back(sockets.back().get());
    for (int n = 0; n < 100; ++n) all.back()->queue(encode({"INCR", "k" + std::to_string(i)}));
  }
  std::string wanted;
  for (int n = 1; n <= 100; ++n) wanted += ":" + std::to_string(n) + "\r\n";
  ASSERT_TRUE(run_until(all, [&] {
    for (Socket* each : all) {
      if (each->received.size() < wanted.size()) return false;
    }
    return true;
  }));
  for (Socket* each : all) EXPECT_EQ(each->received, wanted);
  EXPECT_GT(count(ProxyCounter::kBackPressure), 0u);
}

TEST_F(ProxyTest, ClientsThatVanishLeaveNothingBehind) {
  start();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<Socket>> sockets;
    for (int i = 0; i < 10; ++i) {
      sockets.push_back(std::make_unique<Socket>(proxy_->port()));
      for (int n = 0; n < 50; ++n) sockets.back()->queue(encode({"INCR", "k"}));
      sockets.back()->queue(encode({"MULTI"}) + encode({"SET", "a", "b"}) + "*3\r\n$3");
      sockets.back()->send_some();
    }
    for (int i = 0; i < round; ++i) turn();  // gone before, during and after execution
  }
  Socket last(proxy_->port());
  expect_answer(last, encode({"PING"}), "+PONG\r\n");
  ASSERT_TRUE(run_until({}, [&] {
    return count(ProxyCounter::kConnectionsOpen) == 1 && proxy_->client().outstanding() == 0;
  }));
  expect_answer(last, encode({"SET", "k", "v"}), "+OK\r\n");
}

TEST(ProxyCreate, SaysWhatIsWrongWithTheAddress) {
  ProxyOptions options;
  options.clients_max = 4;
  options.address = "example";
  const Endpoint endpoint{0x0a000001, 1};
  dataplane::LocalSwitch network({&endpoint, 1}, dataplane::LocalOptions{});
  statemachine::ClientOptions client;
  consensus::Configuration configuration;
  configuration.acceptors.push_back({NodeId{1}, LocalRing::endpoint(1)});
  configuration.learners.push_back({NodeId{2}, LocalRing::endpoint(2), consensus::kAllPartitions});
  auto bad = Proxy::create(options, client, configuration, network.transport(0));
  ASSERT_FALSE(bad.ok());
  EXPECT_NE(bad.error().message.find("'example' is not an IPv4 address"), std::string::npos);
  options.address = "127.0.0.1";
  options.port = 0;
  auto good = Proxy::create(options, client, configuration, network.transport(0));
  ASSERT_TRUE(good.ok());
  options.port = (*good)->port();
  auto taken = Proxy::create(options, client, configuration, network.transport(0));
  ASSERT_FALSE(taken.ok());
  EXPECT_NE(taken.error().message.find("choose another port"), std::string::npos);
}

}  // namespace
}  // namespace annulus::proxy
