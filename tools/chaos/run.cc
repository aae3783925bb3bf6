#include "tools/chaos/run.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "tools/chaos/injector.h"
#include "tools/chaos/load.h"
#include "tools/node.h"
#include "tools/redis_link.h"
#include "tools/signals.h"
#include "tools/state_answer.h"
#include "tools/telemetry.h"
#include "tools/transports.h"

namespace annulus::chaos {
namespace {

constexpr int kTickMs = 5;
constexpr Nanos kStallLeast = 2 * kMillisecond;
constexpr Nanos kStartWithin = 60 * kSecond;
constexpr Nanos kWarmUp = kSecond;
constexpr Nanos kHealWithin = 90 * kSecond;
constexpr Nanos kProgressFor = 2 * kSecond;  // all goes well for so long before the load ends
constexpr Nanos kProgressWithin = 15 * kSecond;
constexpr Nanos kSettleWithin = 30 * kSecond;
constexpr Nanos kAgreeWithin = 30 * kSecond;
/// Of a log, a minute at the default rate; each command is a write of its own when little is sent.
constexpr double kLogMbPerMinute = 150;
constexpr std::uint32_t kSmallDiskRoomMb = 24;

class Run {
 public:
  Run(const RunOptions& options, const tools::StopSignals& signals)
      : options_(options), signals_(signals) {}

  Result<RunReport> go();

 private:
  Status make_site();
  Status add_small_disk();
  Status start_load();
  void wreak(Injector& injector);
  void recover(Injector& injector);
  void compare_replicas(const Injector& injector);
  void judge();
  void prove();
  /// Ticks until `done` or for `most`. True if it was the former. Notes when a tick came late.
  bool pass(Nanos most, const std::function<bool(Nanos)>& done);
  void fail(const std::string& what) { report_.failures.push_back(what); }
  bool over() const { return report_.interrupted || !report_.failures.empty(); }

  const RunOptions& options_;
  const tools::StopSignals& signals_;
  dataplane::TscClock clock_;
  RunReport report_;
  std::uint32_t log_mb_ = 0;
  std::uint16_t port_ = 0;
  // In the order in which they depend on each other.
  std::unique_ptr<SmallDiskOf> small_;
  std::unique_ptr<Site> site_;
  std::unique_ptr<tools::ProcessFamily> family_;
  tools::NodeConfig client_node_;
  consensus::Configuration ring_;
  std::unique_ptr<dataplane::Transport> transport_;
  std::unique_ptr<Load> load_;
  std::unique_ptr<tools::Cores> cores_;
};

Status Run::add_small_disk() {
  constexpr std::uint32_t kNode = 1;  // the second acceptor
  if (!options_.disk || options_.medium == Medium::kVeth || geteuid() != 0) return {};
  auto disk = SmallDisk::mount(options_.directory + "/acceptor2", log_mb_ + kSmallDiskRoomMb);
  if (!disk) return disk.error();
  small_ = std::make_unique<SmallDiskOf>(SmallDiskOf{kNode, log_mb_, std::move(disk).value()});
  return {};
}

Status Run::make_site() {
  log_mb_ = static_cast<std::uint32_t>(64 + kLogMbPerMinute * (options_.minutes + 0.5) *
                                                options_.rate / 400);
  port_ = tools::free_tcp_port();
  if (Status added = add_small_disk(); !added) return added;
  const SiteOptions options{.medium = options_.medium,
                            .directory = options_.directory,
                            .namespaces = options_.namespaces,
                            .disk = options_.disk,
                            .log_mb = log_mb_,
                            .port = port_};
  auto made = options_.medium == Medium::kVeth ? make_veth_site(options) : make_local_site(options);
  if (!made) return made.error();
  site_ = std::move(made).value();
  family_ = std::make_unique<tools::ProcessFamily>(options_.directory, SIGKILL);
  return site_->start(*family_, signals_);
}

Status Run::start_load() {
  const tools::Config& config = site_->config();
  client_node_ = site_->client();
  auto opened = tools::open_transport(config.cluster, client_node_);
  if (!opened) return opened.error();
  transport_ = std::move(opened).value();
  ring_ = tools::ring_configuration(config.cluster);
  load_ = std::make_unique<Load>(
      LoadOptions{.rate = options_.rate, .seed = options_.seed, .proxy = {0x7f000001, port_}},
      tools::client_options(config.cluster, consensus::kNoNode), ring_, *transport_);
  auto cores = tools::Cores::plan({{"client", load_.get()}}, config.process,
                                  tools::host_of(config.cluster, config.cluster.nodes.back()));
  if (!cores) return cores.error();
  cores_ = std::move(cores).value();
  cores_->start();
  return {};
}

bool Run::pass(Nanos most, const std::function<bool(Nanos)>& done) {
  Nanos now = clock_.now();
  const Nanos until = now + most;
  while (true) {
    const Nanos before = now;
    if (signals_.wait(kTickMs)) report_.interrupted = true;
    now = clock_.now();
    const Nanos late = now - before - kTickMs * kMillisecond;
    if (late >= kStallLeast) report_.stalls.push_back({before, late});
    if (done(now)) return true;
    if (report_.interrupted || now >= until) return false;
  }
}

void Run::wreak(Injector& injector) {
  const bool started = pass(kStartWithin, [&](Nanos now) {
    injector.tick(now, false);
    return injector.all_started();
  });
  if (report_.interrupted) return;
  if (!started) return fail("not every node serves after a minute");
  load_->set_phase(Load::Phase::kRunning);
  pass(kWarmUp, [&](Nanos now) {
    injector.tick(now, false);
    return false;
  });
  const auto time = static_cast<Nanos>(options_.minutes * 60e9);
  pass(time, [&](Nanos now) {
    injector.tick(now, true);
    return !report_.failures.empty();
  });
}

/// Heals, and demands that everything goes on: nodes, completions, the end of what is outstanding.
void Run::recover(Injector& injector) {
  injector.heal(clock_.now());
  const bool well = pass(kHealWithin + (clock_.now() - report_.begun), [&](Nanos now) {
    injector.tick(now, false);
    return injector.all_well() || over();
  });
  if (over()) return;
  if (!well) return fail("not whole again after the faults: " + injector.unwell());
  std::uint64_t native = load_->native_answered();
  std::uint64_t proxy = load_->proxy_answered();
  const auto wanted = static_cast<std::uint64_t>(options_.rate / 4 * kProgressFor / kSecond);
  const bool progress = pass(kProgressWithin, [&](Nanos now) {
    injector.tick(now, false);
    return load_->native_answered() > native + wanted && load_->proxy_answered() > proxy + wanted;
  });
  native = load_->native_answered() - native;
  proxy = load_->proxy_answered() - proxy;
  if (!progress && !report_.interrupted) {
    fail("no progress after the faults: in " + std::to_string(kProgressWithin / kSecond) + " s " +
         std::to_string(native) + " commands of the native client and " + std::to_string(proxy) +
         " of the proxy were answered, " + std::to_string(wanted) + " each were wanted");
  }
  for (const Load::Phase phase : {Load::Phase::kIdle, Load::Phase::kReading}) {
    load_->set_phase(phase);
    const bool settled = pass(kSettleWithin, [&](Nanos now) {
      injector.tick(now, false);
      return load_->settled();
    });
    if (settled || over()) continue;
    fail(phase == Load::Phase::kIdle ? "commands neither answered nor given up after their deadline"
                                     : "not every object could be read at the end");
  }
}

void Run::compare_replicas(const Injector& injector) {
  const std::vector<std::string> names = injector.whole_replicas();
  std::vector<tools::StateTold> told(names.size());
  std::string missing;
  // All at one instance: at which the furthest is, as soon as the others get there.
  const bool agreed = pass(kAgreeWithin, [&](Nanos) {
    std::uint64_t at = 0;
    for (const tools::StateTold& each : told) at = std::max(at, each.executed);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (told[i].executed == at && at != 0) continue;
      auto state = tools::fetch_state(tools::telemetry_path(options_.directory, names[i]), at);
      missing = state ? "" : state.error().message;
      if (!state) return false;
      told[i] = state.value();
    }
    return std::ranges::all_of(told, [&](const auto& t) { return t.executed == told[0].executed; });
  });
  if (report_.interrupted || names.empty()) return;
  if (!agreed) return fail("replicas do not come to the same instance: " + missing);
  report_.executed = told[0].executed;
  report_.replicas_equal = static_cast<std::uint32_t>(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (told[i].kept != told[i].recomputed) {
      fail(names[i] + ": the hash kept while executing is not that of its state");
    }
    if (told[i].recomputed != told[0].recomputed) {
      fail("state differs after instance " + std::to_string(report_.executed) + ": " + names[0] +
           " and " + names[i]);
    }
  }
}

/// Takes away a write that was acknowledged and seen: the verification must tell.
void Run::prove() {
  History altered;
  const Entry* taken = nullptr;
  for (const Entry& entry : report_.history.entries()) {
    const bool write = entry.command.write && entry.end == End::kAnswered;
    if (write && entry.command.object.type == ObjectType::kList) taken = &entry;
  }
  if (taken == nullptr) return fail("no write was acknowledged: nothing is verified");
  for (Entry entry : report_.history.entries()) {
    if (entry.command.object != taken->command.object) continue;
    if (entry.operation.id == taken->operation.id) entry.end = End::kNotExecuted;
    altered.entries().push_back(std::move(entry));
  }
  const Verdict verdict = verify(altered, report_.begun);
  report_.proof = verdict.violations.empty() ? "" : verdict.violations.front();
  if (verdict.violations.empty()) fail("a write taken out of the history is not missed");
}

Result<RunReport> Run::go() {
  if (Status made = make_site(); !made) return made.error();
  if (Status started = start_load(); !started) return started.error();
  {
    Injector injector(options_, *site_, *family_, small_.get(), report_);
    report_.begun = clock_.now();
    std::printf("seed %llu, proxy at 127.0.0.1:%u, directory %s\n",
                static_cast<unsigned long long>(options_.seed), port_, options_.directory.c_str());
    std::fflush(stdout);
    wreak(injector);
    if (!report_.interrupted) recover(injector);
    if (!report_.interrupted) compare_replicas(injector);
  }
  report_.ended = clock_.now();
  cores_->stop();
  report_.connections_lost = load_->connections_lost();
  report_.stalls.insert(report_.stalls.end(), load_->stalls().begin(), load_->stalls().end());
  report_.history = std::move(load_->history());
  cores_.reset();
  load_.reset();
  family_->stop();
  if (report_.interrupted) return std::move(report_);
  report_.verdict = verify(report_.history, report_.begun);
  if (!report_.failed()) prove();
  return std::move(report_);
}

}  // namespace

Result<RunReport> run_chaos(const RunOptions& options, const tools::StopSignals& signals) {
  return Run(options, signals).go();
}

}  // namespace annulus::chaos
