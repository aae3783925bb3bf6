#include "dataplane/dpdk/software_switch.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "dataplane/dpdk/eal.h"
#include "dataplane/dpdk/ethernet_device.h"
#include "dataplane/dpdk/frame_memory.h"
#include "dataplane/dpdk/mbuf_pool.h"

namespace annulus::dataplane {
namespace {

constexpr std::uint32_t kBurst = 32;
/// Frames waiting for the end of a turn, a port: a burst of each other port, twice.
constexpr std::uint32_t kTxPending = 256;

/// xorshift64*: a sequence that a seed repeats on every machine.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  double draw() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<double>((state_ * 0x2545f4914f6cdd1d) >> 11) * 0x1.0p-53;
  }
  bool hit(double probability) { return probability > 0 && draw() < probability; }

 private:
  std::uint64_t state_;
};

/// Which port a station was last heard on. Direct-mapped: a collision only costs a flood.
class StationTable {
 public:
  void learn(const MacAddress& mac, std::uint32_t port) {
    Entry& entry = entries_[slot(mac)];
    entry.mac = mac;
    entry.port = port;
  }
  std::optional<std::uint32_t> find(const MacAddress& mac) const {
    const Entry& entry = entries_[slot(mac)];
    if (entry.mac != mac || mac == MacAddress{}) return std::nullopt;
    return entry.port;
  }

 private:
  struct Entry {
    MacAddress mac;
    std::uint32_t port = 0;
  };
  static std::size_t slot(const MacAddress& mac) {
    return ((mac.bytes[3] * 31u + mac.bytes[4]) * 31u + mac.bytes[5]) % 1024;
  }
  std::array<Entry, 1024> entries_;
};

struct SwitchPort {
  EthernetDevice device;
  std::array<rte_mbuf*, kTxPending> pending{};
  std::uint32_t pending_count = 0;
  Counters<SwitchCounter> counters;
};

struct Delayed {
  Nanos due;
  std::uint64_t order;  // of arrival: equal times keep it
  std::uint32_t to;
  rte_mbuf* mbuf;
  bool operator>(const Delayed& other) const {
    return due != other.due ? due > other.due : order > other.order;
  }
};

class MemifSwitch final : public SoftwareSwitch {
 public:
  MemifSwitch(const SwitchConfig& config, MbufPool pool)
      : pool_(std::move(pool)),
        dice_(config.seed),
        delayed_max_(config.delayed_frames_max),
        faults_(std::size_t{config.ports} * config.ports) {
    delayed_.reserve(delayed_max_);
    ports_.reserve(config.ports);
  }
  ~MemifSwitch() override {
    for (const Delayed& frame : delayed_) rte_pktmbuf_free(frame.mbuf);
  }

  Status add_port(const SwitchConfig& config, std::uint32_t port);
  PollResult poll(Nanos now, std::uint32_t budget) override;
  std::uint32_t ports() const override { return static_cast<std::uint32_t>(ports_.size()); }
  LinkFaults& faults(std::uint32_t from, std::uint32_t to) override {
    return between(from - 1, to - 1);
  }
  const Counters<SwitchCounter>& port_counters(std::uint32_t port) const override {
    return ports_[port - 1]->counters;
  }

 private:
  LinkFaults& between(std::uint32_t from, std::uint32_t to) {
    return faults_[from * ports_.size() + to];
  }
  void forward(Nanos now, std::uint32_t from, rte_mbuf* mbuf);
  void pass(Nanos now, std::uint32_t from, std::uint32_t to, rte_mbuf* mbuf);
  void deliver(Nanos now, Nanos due, std::uint32_t to, rte_mbuf* mbuf);
  void enqueue(std::uint32_t to, rte_mbuf* mbuf);
  void flush(SwitchPort& port);

  MbufPool pool_;  // before the ports, which receive into it
  std::vector<std::unique_ptr<SwitchPort>> ports_;
  Dice dice_;
  StationTable stations_;
  const std::uint32_t delayed_max_;
  std::vector<Delayed> delayed_;  // heap, earliest first
  std::uint64_t arrivals_ = 0;
  std::vector<LinkFaults> faults_;  // by sender, then receiver
};

Status MemifSwitch::add_port(const SwitchConfig& config, std::uint32_t port) {
  const std::string socket = switch_socket(config.directory, port);
  auto device =
      EthernetDevice::open({.device = "net_memif" + std::to_string(port) +
                                      ",role=server,id=0,socket=" + socket + ",socket-abstract=no",
                            .mtu = config.mtu},
                           pool_.get());
  if (!device) return device.error();
  ports_.push_back(std::unique_ptr<SwitchPort>(new SwitchPort{std::move(device).value()}));
  return {};
}

PollResult MemifSwitch::poll(Nanos now, std::uint32_t budget) {
  std::uint32_t work = 0;
  std::array<rte_mbuf*, kBurst> burst;
  const std::size_t most = std::min(budget, kBurst);
  for (std::uint32_t port = 0; port < ports_.size(); ++port) {
    const std::uint16_t count = ports_[port]->device.receive(std::span{burst}.first(most));
    for (std::uint16_t i = 0; i < count; ++i) forward(now, port, burst[i]);
    work += count;
  }
  while (!delayed_.empty() && delayed_.front().due <= now) {
    std::pop_heap(delayed_.begin(), delayed_.end(), std::greater<>{});
    const Delayed frame = delayed_.back();
    delayed_.pop_back();
    enqueue(frame.to, frame.mbuf);
    ++work;
  }
  for (const auto& port : ports_) flush(*port);
  return {.work = work, .deadline = delayed_.empty() ? kNever : delayed_.front().due};
}

/// Takes the mbuf over; every receiver gets a reference of its own.
void MemifSwitch::forward(Nanos now, std::uint32_t from, rte_mbuf* mbuf) {
  Counters<SwitchCounter>& counters = ports_[from]->counters;
  counters[SwitchCounter::kRxFrames].add();
  counters[SwitchCounter::kRxBytes].add(mbuf->pkt_len);
  if (mbuf->data_len < sizeof(EthernetHeader)) {
    counters[SwitchCounter::kRxDropBad].add();
    rte_pktmbuf_free(mbuf);
    return;
  }
  const auto& ethernet = *rte_pktmbuf_mtod(mbuf, const EthernetHeader*);
  if (!ethernet.from.multicast()) stations_.learn(ethernet.from, from);
  const auto known =
      ethernet.to.multicast() ? std::optional<std::uint32_t>{} : stations_.find(ethernet.to);
  if (known) {
    if (*known != from) pass(now, from, *known, mbuf);
  } else {
    counters[SwitchCounter::kRxFlooded].add();
    for (std::uint32_t to = 0; to < ports_.size(); ++to) {
      if (to != from) pass(now, from, to, mbuf);
    }
  }
  rte_pktmbuf_free(mbuf);
}

void MemifSwitch::pass(Nanos now, std::uint32_t from, std::uint32_t to, rte_mbuf* mbuf) {
  const LinkFaults& link = between(from, to);
  Counters<SwitchCounter>& counters = ports_[to]->counters;
  if (link.cut) return counters[SwitchCounter::kFaultCut].add();
  if (dice_.hit(link.loss)) return counters[SwitchCounter::kFaultLost].add();
  const bool twice = dice_.hit(link.duplicate);
  if (twice) counters[SwitchCounter::kFaultDuplicated].add();
  for (int copy = 0; copy < (twice ? 2 : 1); ++copy) {
    Nanos due = now + link.delay_min;
    if (link.delay_max > link.delay_min) {
      due +=
          static_cast<Nanos>(dice_.draw() * static_cast<double>(link.delay_max - link.delay_min));
    }
    if (dice_.hit(link.reorder)) due += link.reorder_by;
    deliver(now, due, to, mbuf);
  }
}

void MemifSwitch::deliver(Nanos now, Nanos due, std::uint32_t to, rte_mbuf* mbuf) {
  Counters<SwitchCounter>& counters = ports_[to]->counters;
  if (due > now && delayed_.size() == delayed_max_) {
    counters[SwitchCounter::kTxDropDelayFull].add();
    return;
  }
  rte_pktmbuf_refcnt_update(mbuf, 1);
  if (due <= now) return enqueue(to, mbuf);
  counters[SwitchCounter::kFaultDelayed].add();
  delayed_.push_back({.due = due, .order = arrivals_++, .to = to, .mbuf = mbuf});
  std::push_heap(delayed_.begin(), delayed_.end(), std::greater<>{});
}

void MemifSwitch::enqueue(std::uint32_t to, rte_mbuf* mbuf) {
  SwitchPort& port = *ports_[to];
  port.pending[port.pending_count++] = mbuf;
  if (port.pending_count == kTxPending) flush(port);
}

void MemifSwitch::flush(SwitchPort& port) {
  if (port.pending_count == 0) return;
  const auto pending = std::span{port.pending}.first(std::exchange(port.pending_count, 0));
  std::array<std::uint32_t, kTxPending> bytes;
  for (std::size_t i = 0; i < pending.size(); ++i) bytes[i] = pending[i]->pkt_len;
  const std::uint16_t sent = port.device.transmit(pending);
  for (std::uint16_t i = 0; i < sent; ++i) port.counters[SwitchCounter::kTxBytes].add(bytes[i]);
  port.counters[SwitchCounter::kTxFrames].add(sent);
  const auto left = pending.subspan(sent);
  if (left.empty()) return;
  port.counters[SwitchCounter::kTxDropFull].add(left.size());
  rte_pktmbuf_free_bulk(left.data(), static_cast<unsigned>(left.size()));
}

/// Removes the socket of a switch that was killed; refuses one that answers.
Status claim_socket(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) {
    return Error{"socket '" + path + "': the path is longer than " +
                 std::to_string(sizeof address.sun_path - 1) +
                 " characters; choose a shorter directory"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool served =
      probe >= 0 && connect(probe, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  if (probe >= 0) close(probe);
  if (served) {
    return Error{"socket '" + path +
                 "': another hub serves it; stop that one, or choose another directory"};
  }
  unlink(path.c_str());
  return {};
}

}  // namespace

Result<std::unique_ptr<SoftwareSwitch>> SoftwareSwitch::open(const SwitchConfig& config) {
  if (config.ports < 2 || config.ports > kSwitchPortsMax) {
    return Error{"a hub has between 2 and " + std::to_string(kSwitchPortsMax) +
                 " ports, one a process, and " + std::to_string(config.ports) + " were asked for"};
  }
  if (config.mtu < 1280 || config.mtu > kDpdkMtuMax) {
    return Error{"mtu = " + std::to_string(config.mtu) + " is not between 1280 and " +
                 std::to_string(kDpdkMtuMax)};
  }
  std::error_code failure;
  std::filesystem::create_directories(config.directory, failure);
  if (failure) {
    return Error{"directory '" + config.directory + "': " + failure.message() +
                 "; choose one that this user may write"};
  }
  for (std::uint32_t port = 1; port <= config.ports; ++port) {
    if (Status status = claim_socket(switch_socket(config.directory, port)); !status) {
      return status.error();
    }
  }
  const std::uint32_t data_bytes = frame_data_bytes("net_memif0", config.mtu);
  // A burst in hand, what waits for each port at the end of a turn, what is held back, and the
  // free frames that this thread keeps.
  const std::uint32_t frames =
      kBurst + config.ports * kTxPending + config.delayed_frames_max + 2 * MbufPool::kCachedMax;
  const std::uint64_t bytes = frames * MbufPool::mbuf_bytes(data_bytes, config.eal.hugepages);
  if (Status status = start_eal(
          config.eal, config.eal.memory_mib != 0 ? config.eal.memory_mib : eal_memory_mib(bytes));
      !status) {
    return status.error();
  }
  auto pool = MbufPool::create("switch", frames, data_bytes);
  if (!pool) return pool.error();
  auto made = std::make_unique<MemifSwitch>(config, std::move(pool).value());
  for (std::uint32_t port = 1; port <= config.ports; ++port) {
    if (Status status = made->add_port(config, port); !status) return status.error();
  }
  return std::unique_ptr<SoftwareSwitch>(std::move(made));
}

}  // namespace annulus::dataplane
