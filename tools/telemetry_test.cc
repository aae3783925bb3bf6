#include "tools/telemetry.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "tools/state_answer.h"

namespace annulus::tools {

enum class Fruit : std::uint8_t { kApples, kPears, kCount };

}  // namespace annulus::tools

namespace annulus::dataplane {
template <>
const std::array<const char*, 2> CounterNames<tools::Fruit>::names = {"apples", "pears"};
}  // namespace annulus::dataplane

namespace annulus::tools {
namespace {

/// A registry with figures, a directory, and a server on a thread of its own.
class TelemetryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/annulus-test-XXXXXX";
    directory_ = mkdtemp(pattern);
    fruit_[Fruit::kPears].add(7);
    for (int i = 1; i <= 100; ++i) latency_.record(static_cast<std::uint64_t>(i));
    registry_.add("replica1", "worker", fruit_);
    registry_.add("replica1", "executed_ns", latency_);
  }
  void TearDown() override {
    const std::uint64_t one = 1;
    EXPECT_EQ(write(stop_, &one, sizeof one), 8);
    if (thread_.joinable()) thread_.join();
    server_.reset();
    close(stop_);
    EXPECT_TRUE(std::filesystem::is_empty(directory_)) << "the socket is removed at the end";
    std::filesystem::remove_all(directory_);
  }
  void start(const dataplane::Endpoint& metrics = {}, TelemetryServer::Answer state = {}) {
    auto started = TelemetryServer::start(registry_, "replica1", directory_, metrics);
    ASSERT_TRUE(started.ok()) << started.error().message;
    server_ = std::move(started).value();
    if (state) server_->answer("/state", std::move(state));
    thread_ = std::thread([this] { EXPECT_TRUE(server_->serve(stop_, -1)); });
  }

  std::string directory_;
  dataplane::Counters<Fruit> fruit_;
  dataplane::Histogram latency_;
  dataplane::Registry registry_;
  std::unique_ptr<TelemetryServer> server_;
  std::thread thread_;
  int stop_ = eventfd(0, EFD_CLOEXEC);
};

TEST_F(TelemetryTest, ServesTheRegistryAsJson) {
  start();
  const Result<std::string> text = fetch_telemetry(server_->path());
  ASSERT_TRUE(text.ok()) << text.error().message;
  const nlohmann::json json = nlohmann::json::parse(text.value());
  EXPECT_EQ(json["process"], "replica1");
  EXPECT_EQ(json["groups"][0]["stage"], "worker");
  EXPECT_EQ(json["groups"][0]["values"]["pears"], 7);
  EXPECT_EQ(json["histograms"][0]["count"], 100);
  EXPECT_EQ(json["histograms"][0]["max"], 100);
  EXPECT_NEAR(json["histograms"][0]["p50"].get<double>(), 50, 2);
}

TEST_F(TelemetryTest, ServesPrometheusOverTcp) {
  // A free port, as the kernel picks it.
  const int probe = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length);
  close(probe);
  start({INADDR_LOOPBACK, ntohs(address.sin_port)});

  const int client = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
  ASSERT_EQ(send(client, request.data(), request.size(), 0), std::ssize(request));
  std::string reply;
  char part[4'096];
  for (ssize_t n = 0; (n = recv(client, part, sizeof part, 0)) > 0;) {
    reply.append(part, static_cast<std::size_t>(n));
  }
  close(client);
  EXPECT_NE(reply.find("annulus_pears{node=\"replica1\",stage=\"worker\"} 7\n"), std::string::npos)
      << reply;
  EXPECT_NE(reply.find("# TYPE annulus_executed_ns summary\n"), std::string::npos) << reply;
  EXPECT_NE(reply.find("annulus_executed_ns_count{node=\"replica1\"} 100\n"), std::string::npos);
}

TEST_F(TelemetryTest, AReplicaTellsItsStateAtAnInstance) {
  start({}, [](const std::string& query) {
    const std::uint64_t at = std::stoull(query.substr(query.find('=') + 1));
    if (at > 40) return std::string("{\"pending\": true}");
    return "{\"executed\": " + std::to_string(at + 2) + ", \"kept\": 5, \"recomputed\": 6}";
  });
  const Result<StateTold> told = fetch_state(server_->path(), 40);
  ASSERT_TRUE(told.ok()) << told.error().message;
  EXPECT_EQ(told->executed, 42u);
  EXPECT_EQ(told->recomputed, 6u);
  const Result<StateTold> later = fetch_state(server_->path(), 41);
  ASSERT_FALSE(later.ok());
  EXPECT_NE(later.error().message.find("not executed instance 41"), std::string::npos);
}

TEST_F(TelemetryTest, OnlyAReplicaHasState) {
  start();
  EXPECT_FALSE(fetch_state(server_->path(), 0).ok());
}

TEST_F(TelemetryTest, RefusesASecondProcessOfTheSameName) {
  start();
  const auto second = TelemetryServer::start(registry_, "replica1", directory_, {});
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("already running"), std::string::npos);
  EXPECT_TRUE(fetch_telemetry(server_->path()).ok()) << "the first still serves";
}

TEST_F(TelemetryTest, ReplacesTheSocketOfADeadProcess) {
  const std::string path = telemetry_path(directory_, "replica1");
  const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(dead, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(dead);
  start();
  EXPECT_TRUE(fetch_telemetry(server_->path()).ok());
}

TEST_F(TelemetryTest, ASilentClientHoldsUpNobodyForLong) {
  start();
  const int silent = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  server_->path().copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(connect(silent, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_TRUE(fetch_telemetry(server_->path()).ok());
  close(silent);
}

TEST_F(TelemetryTest, PathTooLongForASocketSaysSo) {
  const auto server = TelemetryServer::start(registry_, std::string(120, 'n'), directory_, {});
  ASSERT_FALSE(server.ok());
  EXPECT_NE(server.error().message.find("shorter 'runtime'"), std::string::npos);
}

TEST(Telemetry, NobodyThere) {
  const Result<std::string> text = fetch_telemetry("/tmp/annulus-no-such.sock");
  ASSERT_FALSE(text.ok());
  EXPECT_NE(text.error().message.find("no process answers"), std::string::npos);
}

}  // namespace
}  // namespace annulus::tools
