#include "tools/telemetry.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

namespace annulus::tools {
namespace {

using dataplane::Histogram;
using dataplane::Registry;
using Json = nlohmann::json;

constexpr int kPatienceMs = 200;
constexpr std::size_t kRequestBytesMax = 4'096;

void limit_waiting(int descriptor) {
  const timeval patience{0, kPatienceMs * 1'000};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

bool send_all(int descriptor, const std::string& text) {
  std::size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t n = send(descriptor, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error{path + ": too long for a unix socket (" +
                 std::to_string(sizeof address.sun_path - 1) +
                 " bytes at most); choose a shorter 'runtime' directory"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

/// Of "GET PATH?QUERY HTTP/1.0".
std::string path_of(const std::string& request) {
  if (request.rfind("GET ", 0) != 0) return "";
  return request.substr(4, request.find_first_of(" ?", 4) - 4);
}
std::string query_of(const std::string& request) {
  const std::size_t end = request.find_first_of(" \r\n", 4);
  const std::size_t mark = request.find('?');
  return mark < end ? request.substr(mark + 1, end - mark - 1) : "";
}

std::string prometheus_label(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

Json histogram_json(const Registry::NamedHistogram& named) {
  const Histogram::Snapshot snapshot = named.histogram->snapshot();
  Json buckets = Json::array();
  for (std::size_t i = 0; i < snapshot.buckets.size(); ++i) {
    if (snapshot.buckets[i] != 0) buckets.push_back({i, snapshot.buckets[i]});
  }
  return {
      {"node", named.node},       {"name", named.name},         {"count", snapshot.count},
      {"max", snapshot.max},      {"p50", snapshot.at(0.5)},    {"p90", snapshot.at(0.9)},
      {"p99", snapshot.at(0.99)}, {"p999", snapshot.at(0.999)}, {"buckets", std::move(buckets)}};
}

}  // namespace

std::string snapshot_json(const Registry& registry, const std::string& process) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  Json json = {{"process", process},
               {"pid", getpid()},
               {"time_ns", now.tv_sec * kSecond + now.tv_nsec},
               {"cycles_per_second", dataplane::TscClock::cycles_per_nano() * 1e9},
               {"groups", Json::array()},
               {"gauges", Json::array()},
               {"histograms", Json::array()}};
  for (const Registry::Group& group : registry.groups()) {
    Json values = Json::object();
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      values[group.names[i]] = group.values[i].get();
    }
    json["groups"].push_back(
        {{"node", group.node}, {"stage", group.stage}, {"values", std::move(values)}});
  }
  for (const Registry::Gauge& gauge : registry.gauges()) {
    json["gauges"].push_back({{"node", gauge.node},
                              {"stage", gauge.stage},
                              {"name", gauge.name},
                              {"value", gauge.read()}});
  }
  for (const Registry::NamedHistogram& named : registry.histograms()) {
    json["histograms"].push_back(histogram_json(named));
  }
  return json.dump();
}

std::string prometheus_text(const Registry& registry) {
  // All samples of a metric stand together, as the format asks.
  std::map<std::string, std::string> metrics;
  const auto sample = [&metrics](const std::string& node, const std::string& stage,
                                 const std::string& figure, const char* type, std::uint64_t value) {
    const std::string name = "annulus_" + figure;
    metrics[name + type] += name + "{node=\"" + prometheus_label(node) + "\",stage=\"" +
                            prometheus_label(stage) + "\"} " + std::to_string(value) + "\n";
  };
  for (const Registry::Group& group : registry.groups()) {
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      sample(group.node, group.stage, group.names[i], " untyped", group.values[i].get());
    }
  }
  for (const Registry::Gauge& gauge : registry.gauges()) {
    sample(gauge.node, gauge.stage, gauge.name, " gauge", gauge.read());
  }
  for (const Registry::NamedHistogram& named : registry.histograms()) {
    const Histogram::Snapshot snapshot = named.histogram->snapshot();
    const std::string name = "annulus_" + named.name;
    const std::string node = "node=\"" + prometheus_label(named.node) + "\"";
    std::string& text = metrics[name + " summary"];
    for (const char* quantile : {"0.5", "0.9", "0.99", "0.999"}) {
      text += name + "{" + node + ",quantile=\"" + quantile + "\"} " +
              std::to_string(snapshot.at(std::strtod(quantile, nullptr))) + "\n";
    }
    text += name + "_count{" + node + "} " + std::to_string(snapshot.count) + "\n";
  }
  std::string text;
  for (const auto& [type, samples] : metrics) text += "# TYPE " + type + "\n" + samples;
  return text;
}

std::string default_runtime_directory() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != 0) return std::string(runtime) + "/annulus";
  return "/tmp/annulus-" + std::to_string(getuid());
}

std::string telemetry_path(const std::string& directory, const std::string& process) {
  return (directory.empty() ? default_runtime_directory() : directory) + "/" + process + ".sock";
}

Result<std::unique_ptr<TelemetryServer>> TelemetryServer::start(
    const Registry& registry, const std::string& process, const std::string& directory,
    const dataplane::Endpoint& metrics) {
  const std::string path = telemetry_path(directory, process);
  std::unique_ptr<TelemetryServer> server(new TelemetryServer(registry, process, path));
  std::error_code failure;
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::filesystem::create_directories(parent, failure);
  if (failure) {
    return Error{parent.string() + ": cannot be created (" + failure.message() +
                 "); set 'runtime' in [process] to a directory this user may write to"};
  }
  if (Status status = server->listen_unix(); !status) return status.error();
  if (metrics.port != 0) {
    if (Status status = server->listen_tcp(metrics); !status) return status.error();
  }
  return server;
}

TelemetryServer::~TelemetryServer() {
  for (const int listener : listeners_) close(listener);
  if (bound_) unlink(path_.c_str());
}

Status TelemetryServer::listen_unix() {
  const Result<sockaddr_un> address = unix_address(path_);
  if (!address) return address.error();
  const auto* generic = reinterpret_cast<const sockaddr*>(&address.value());
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool served = connect(probe, generic, sizeof(sockaddr_un)) == 0;
  close(probe);
  if (served) {
    return Error{path_ +
                 ": a process of this name is already running; stop it first, or give "
                 "this cluster its own 'runtime' directory in [process]"};
  }
  unlink(path_.c_str());
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  listeners_.push_back(listener);
  if (bind(listener, generic, sizeof(sockaddr_un)) != 0 || listen(listener, 16) != 0) {
    return Error{path_ + ": cannot listen (" + std::strerror(errno) +
                 "); set 'runtime' in [process] to a directory this user may write to"};
  }
  bound_ = true;
  chmod(path_.c_str(), 0600);
  return {};
}

Status TelemetryServer::listen_tcp(const dataplane::Endpoint& metrics) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  listeners_.push_back(listener);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(metrics.port);
  address.sin_addr.s_addr = htonl(metrics.address);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 16) != 0) {
    return Error{"metrics address " + dataplane::to_string(metrics) + ": cannot listen (" +
                 std::strerror(errno) +
                 "); choose a free port and an address of this machine for 'metrics' in "
                 "[process]"};
  }
  return {};
}

bool TelemetryServer::serve(int stop_descriptor, int timeout_ms) {
  timespec begun{};
  clock_gettime(CLOCK_MONOTONIC, &begun);
  while (true) {
    int left = timeout_ms;
    if (timeout_ms >= 0) {
      timespec now{};
      clock_gettime(CLOCK_MONOTONIC, &now);
      const Nanos gone = (now.tv_sec - begun.tv_sec) * kSecond + (now.tv_nsec - begun.tv_nsec);
      left = static_cast<int>(timeout_ms - gone / kMillisecond);
      if (left < 0) return false;
    }
    std::vector<pollfd> waiting = {{stop_descriptor, POLLIN, 0}};
    for (const int listener : listeners_) waiting.push_back({listener, POLLIN, 0});
    if (poll(waiting.data(), waiting.size(), left) == 0) return false;
    if ((waiting[0].revents & POLLIN) != 0) return true;
    for (std::size_t i = 1; i < waiting.size(); ++i) {
      if ((waiting[i].revents & POLLIN) != 0) answer_one(waiting[i].fd);
    }
  }
}

void TelemetryServer::answer_one(int listener) {
  const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  limit_waiting(client);
  std::string request;
  char part[1'024];
  while (request.find("\r\n\r\n") == std::string::npos && request.size() < kRequestBytesMax) {
    const ssize_t n = recv(client, part, sizeof part, 0);
    if (n <= 0) break;
    request.append(part, static_cast<std::size_t>(n));
  }
  std::string status = "200 OK";
  std::string type = "application/json";
  std::string body;
  if (request.rfind("GET /json ", 0) == 0) {
    body = snapshot_json(registry_, process_);
  } else if (request.rfind("GET /metrics ", 0) == 0) {
    type = "text/plain; version=0.0.4";
    body = prometheus_text(registry_);
  } else if (const auto own = answers_.find(path_of(request)); own != answers_.end()) {
    body = own->second(query_of(request));
  } else {
    status = "404 Not Found";
    type = "text/plain";
    body =
        "ask for /metrics (Prometheus) or /json, a replica for /state?at=0, an acceptor for "
        "/members\n";
  }
  send_all(client, "HTTP/1.0 " + status + "\r\nContent-Type: " + type + "\r\nContent-Length: " +
                       std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body);
  close(client);
}

Result<std::string> fetch_telemetry(const std::string& socket_path, const std::string& what) {
  const Result<sockaddr_un> address = unix_address(socket_path);
  if (!address) return address.error();
  const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{2, 0};
  setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  std::string reply;
  const bool asked = connect(server, reinterpret_cast<const sockaddr*>(&address.value()),
                             sizeof(sockaddr_un)) == 0 &&
                     send_all(server, "GET " + what + " HTTP/1.0\r\n\r\n");
  char part[16'384];
  for (ssize_t n = 0; asked && (n = recv(server, part, sizeof part, 0)) > 0;) {
    reply.append(part, static_cast<std::size_t>(n));
  }
  close(server);
  const std::size_t body = reply.find("\r\n\r\n");
  if (reply.rfind("HTTP/1.0 200", 0) != 0 || body == std::string::npos) {
    return Error{socket_path +
                 ": no process answers there; it has stopped, or is another "
                 "program's socket"};
  }
  return reply.substr(body + 4);
}

}  // namespace annulus::tools
