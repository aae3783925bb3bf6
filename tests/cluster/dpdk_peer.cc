// A process with one DPDK port for the transport tests: sends numbered frames, checks and counts
// those it receives, echoes. Driven by lines on stdin (the tests' peers.py), answers on stdout.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <deque>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/dpdk/dpdk.h"
#include "dataplane/hash.h"
#include "dataplane/wire_int.h"

using namespace annulus;             // NOLINT: a test program
using namespace annulus::dataplane;  // NOLINT

namespace {

constexpr std::uint32_t kMagic = 0x52454550;  // "PEER"

struct Numbered {
  u32le magic;
  u32le bytes;  // of the pattern that follows
  u64le sequence;
  u64le hash;  // of the pattern
};

/// What arrived from one sender.
struct Tally {
  std::uint64_t received = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t overtaken = 0;  // arrived after a later one
  std::uint64_t corrupt = 0;
  std::uint64_t sequence_next = 0;
  std::vector<bool> seen;
};

class Peer {
 public:
  explicit Peer(std::unique_ptr<Transport> transport)
      : transport_(std::move(transport)), pool_(4096, transport_->frame_bytes_max()) {
    transport_->register_counters(registry_, "peer");
  }
  const Registry& registry() const { return registry_; }

  void run();

 private:
  struct Order {
    Endpoint to;
    std::uint64_t frames;
    std::uint32_t bytes;
  };
  bool read_commands();
  bool obey(const std::string& line);
  void receive(Nanos now);
  void count(const RxFrame& frame);
  void send(Nanos now);
  void report();

  std::unique_ptr<Transport> transport_;
  Registry registry_;
  BufferPool pool_;
  std::deque<Order> orders_;
  std::uint64_t sequence_ = 0;
  std::map<Endpoint, Tally> tallies_;
  std::uint64_t foreign_ = 0;
  bool echo_ = false;
  std::string input_;
};

void Peer::run() {
  TscClock clock;
  std::printf("ready\n");
  std::fflush(stdout);
  for (std::uint64_t turn = 0;; ++turn) {
    const Nanos now = clock.now();
    receive(now);
    send(now);
    if (turn % 64 == 0 && !read_commands()) return;
    sched_yield();
  }
}

bool Peer::read_commands() {
  char bytes[4096];
  const ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
  if (n == 0) return false;  // the test is gone
  if (n > 0) input_.append(bytes, static_cast<std::size_t>(n));
  for (std::size_t end; (end = input_.find('\n')) != std::string::npos;) {
    const std::string line = input_.substr(0, end);
    input_.erase(0, end + 1);
    if (!obey(line)) return false;
  }
  return true;
}

bool Peer::obey(const std::string& line) {
  std::istringstream in(line);
  std::string verb, to;
  in >> verb;
  if (verb == "send") {
    Order order{};
    in >> to >> order.frames >> order.bytes;
    const auto endpoint = parse_endpoint(to);
    CHECK(endpoint.ok());
    order.to = endpoint.value();
    orders_.push_back(order);
  } else if (verb == "echo") {
    echo_ = true;
  } else if (verb == "report") {
    report();
  }
  return verb != "quit";
}

void Peer::receive(Nanos now) {
  std::vector<RxFrame> frames(32);
  frames.resize(transport_->receive(now, frames));
  for (RxFrame& frame : frames) {
    count(frame);
    if (!echo_) continue;
    TxFrame back{.to = frame.from, .head = {}, .payload = std::move(frame.head)};
    transport_->transmit(now, {&back, 1});
  }
}

void Peer::count(const RxFrame& frame) {
  const auto bytes = frame.head.bytes();
  const auto* numbered = reinterpret_cast<const Numbered*>(bytes.data());
  if (bytes.size() < sizeof(Numbered) || numbered->magic != kMagic) {
    ++foreign_;
    return;
  }
  Tally& tally = tallies_[frame.from];
  const std::uint64_t sequence = numbered->sequence;
  const auto body = bytes.subspan(sizeof(Numbered));
  if (body.size() != numbered->bytes || hash_bytes(body) != numbered->hash ||
      sequence > 10'000'000) {
    ++tally.corrupt;
    return;
  }
  ++tally.received;
  if (tally.seen.size() <= sequence) tally.seen.resize(sequence + 1);
  if (tally.seen[sequence]) {
    ++tally.duplicates;
  } else if (sequence < tally.sequence_next) {
    ++tally.overtaken;
  }
  tally.seen[sequence] = true;
  tally.sequence_next = std::max(tally.sequence_next, sequence + 1);
}

/// A few frames a turn, so that a peer on the same CPU keeps up.
void Peer::send(Nanos now) {
  constexpr int kTurnFrames = 8;
  for (int i = 0; i < kTurnFrames && !orders_.empty(); ++i) {
    Order& order = orders_.front();
    Slice payload = pool_.allocate();
    if (!payload) return;
    for (std::uint32_t at = 0; at < order.bytes; ++at) {
      payload.mutable_data()[at] = static_cast<std::byte>(at * 7 + sequence_);
    }
    payload.truncate(order.bytes);
    const Numbered head{.magic = kMagic,
                        .bytes = order.bytes,
                        .sequence = sequence_++,
                        .hash = hash_bytes(payload.bytes())};
    TxFrame frame{
        .to = order.to, .head = std::as_bytes(std::span{&head, 1}), .payload = std::move(payload)};
    transport_->transmit(now, {&frame, 1});
    if (--order.frames == 0) orders_.pop_front();
  }
}

void Peer::report() {
  nlohmann::json report = {{"sent", sequence_}, {"busy", !orders_.empty()}, {"foreign", foreign_}};
  report["from"] = nlohmann::json::object();
  for (const auto& [sender, tally] : tallies_) {
    report["from"][to_string(sender)] = {{"received", tally.received},
                                         {"duplicates", tally.duplicates},
                                         {"overtaken", tally.overtaken},
                                         {"corrupt", tally.corrupt}};
  }
  for (const Registry::Group& group : registry_.groups()) {
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      report[group.stage][group.names[i]] = group.values[i].get();
    }
  }
  std::printf("%s\n", report.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("One DPDK port, driven over stdin.");
  DpdkConfig config;
  std::string address, group;
  config.rx_queue_frames = 512;
  config.tx_queue_frames = 512;
  config.rx_frames_held = 1024;
  config.threads = 1;
  config.eal.file_prefix = "annulus_peer_" + std::to_string(getpid());
  app.add_option("--device", config.device)->required();
  app.add_option("--address", address)->required();
  app.add_option("--group", group);
  app.add_option("--mtu", config.mtu);
  app.add_flag("--hugepages", config.eal.hugepages);
  CLI11_PARSE(app, argc, argv);
  const auto endpoint = parse_endpoint(address);
  if (endpoint.ok()) config.endpoint = endpoint.value();
  auto transport = open_dpdk_transport(config);
  if (!transport) {
    std::fprintf(stderr, "error: %s\n", transport.error().message.c_str());
    return 1;
  }
  if (!group.empty()) {
    const Status joined = transport.value()->join(parse_endpoint(group).value());
    if (!joined.ok()) {
      std::fprintf(stderr, "error: %s\n", joined.error().message.c_str());
      return 1;
    }
  }
  fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
  Peer peer(std::move(transport).value());
  CHECK(serve_registry_on_telemetry(peer.registry()).ok());
  peer.run();
  return 0;
}
