// What a replica that comes back costs the others, under load. First one that only stood still: the
// acceptors still have what it missed, and it pulls that. Then one that is killed, loses its
// memory, and is started again once the acceptors have forgotten what it missed: it fetches the
// state of the other replica.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "tools/bench/experiment.h"
#include "tools/bench/workload.h"

namespace annulus::bench {
namespace {

using std::chrono::milliseconds;

struct Options {
  WorkloadOptions workload;
  std::uint32_t rounds = 5;
  std::uint32_t pauses = 20;
  double load = 0.5;  // of the peak; 1: closed loop
};

constexpr Nanos kPatience = 60 * kSecond;
constexpr Nanos kOnSchedule = 20 * kMillisecond;
constexpr std::uint64_t kCaughtUp = 512;  // instances that it may still lack, as one that follows
constexpr std::uint32_t kSamples = 1 << 20;
constexpr const char* kVictim = "replica1";
constexpr const char* kStays = "replica2";

class Catchup {
 public:
  Catchup(const Options& options, Rig& rig, Timeline& timeline, double rate)
      : options_(options), rig_(rig), rate_(rate), timeline_(timeline) {}

  Status run(Report& report);

 private:
  Status pauses(Report& report);
  Status pause();
  Status on_schedule();
  Status stop_victim();
  Status round();
  std::uint64_t counted(const std::string& node, const char* stage, const char* name) const;
  double per_second(Nanos time) const;
  Status wait_for(const char* what, const std::function<bool()>& condition);
  Nanos paused() const;
  double longest_turn_us(const char* stage) const;

  const Options& options_;
  Rig& rig_;
  const double rate_;
  Timeline& timeline_;
  dataplane::TscClock clock_;
  // By round.
  std::vector<double> healthy_;  // commands a second with all replicas
  std::vector<double> without_;  // while the replica is gone
  std::vector<double> during_;   // while it comes back
  std::vector<double> took_ms_;
  std::vector<double> megabytes_;
  std::vector<double> paused_ms_;
  std::vector<double> worker_turn_us_;   // the longest of the replica that comes back
  std::vector<double> learner_turn_us_;  // likewise
  std::vector<double> kept_;
  std::uint32_t outrun_ = 0;  // pauses after which it had to fetch the state
  Reading back_;              // since the last restart: counters begin anew with it
};

std::uint64_t Catchup::counted(const std::string& node, const char* stage, const char* name) const {
  std::uint64_t sum = 0;
  for (const dataplane::Registry::Group& group : rig_.cluster().registry().groups()) {
    if (group.node != node || group.stage != stage) continue;
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      if (std::strcmp(group.names[i], name) == 0) sum += group.values[i].get();
    }
  }
  return sum;
}

/// The longest copy so far.
Nanos Catchup::paused() const {
  std::uint64_t most = 0;
  for (const auto& named : rig_.cluster().registry().histograms()) {
    if (named.name == "state_copy_ns") most = std::max(most, named.histogram->snapshot().max);
  }
  return static_cast<Nanos>(most);
}

/// Of a stage of the replica that comes back, since it was started again.
double Catchup::longest_turn_us(const char* stage) const {
  return static_cast<double>(counted(kVictim, stage, "longest_turn_cycles")) /
         dataplane::TscClock::cycles_per_nano() / 1e3;
}

double Catchup::per_second(Nanos time) const {
  const std::uint64_t before = timeline_.count();
  std::this_thread::sleep_for(std::chrono::nanoseconds(time));
  return static_cast<double>(timeline_.count() - before) * 1e9 / static_cast<double>(time);
}

Status Catchup::wait_for(const char* what, const std::function<bool()>& condition) {
  for (const Nanos until = clock_.now() + kPatience; clock_.now() < until;) {
    if (condition()) return {};
    std::this_thread::sleep_for(milliseconds(1));
  }
  return Error{std::string("waited a minute for ") + what +
               "; see the counters 'state_receiver' and 'state_source' of the replicas"};
}

/// An outage leaves commands behind their schedule, which are made up for at full speed: the next
/// round is to begin after that. And after a long stall of the machine the replica that stays may
/// itself be fetching the state of the one that is to be killed, which then alone has it.
Status Catchup::on_schedule() {
  const auto executed = [&] {
    return std::array{counted(kVictim, "worker", "values"), counted(kStays, "worker", "values")};
  };
  Nanos since = clock_.now();
  auto then = executed();
  std::uint32_t looks = 0;
  std::uint32_t late = 0;
  return wait_for("the load to be on schedule again, and both replicas to execute it", [&] {
    const std::uint64_t count = timeline_.count();
    late += rate_ > 0 && (count == 0 || timeline_.at(count - 1).took > kOnSchedule);
    ++looks;
    if (clock_.now() - since <= kSecond / 4) return false;
    const auto now = executed();
    const bool both = now[0] > then[0] && now[1] > then[1];
    const bool rested = both && late <= looks / 2;  // a busy machine makes some late at any time
    since = clock_.now();
    then = now;
    looks = late = 0;
    return rested;
  });
}

/// Until what it misses is forgotten. A replica that stays but stood still itself meanwhile may be
/// outrun too, and then needs the one that was stopped: that goes on, and is stopped again later.
Status Catchup::stop_victim() {
  const auto decided = [&] { return counted(kStays, "learner", "delivered"); };
  const auto begun = [&] { return counted(kStays, "state_receiver", "begun"); };
  for (;;) {
    const std::uint64_t begun_before = begun();
    if (Status rested = on_schedule(); !rested) return rested;
    healthy_.push_back(per_second(kSecond));
    rig_.cluster().gate(kVictim).stop();
    const std::uint64_t enough = decided() + 2 * rig_.cluster().config().limits.retain;
    Status gone = wait_for("what the replica missed to be forgotten",
                           [&] { return decided() > enough || begun() != begun_before; });
    if (!gone || begun() == begun_before) return gone;
    rig_.cluster().gate(kVictim).open();
    healthy_.pop_back();
  }
}

/// It misses half of what the acceptors retain.
Status Catchup::pause() {
  const auto decided = [&] { return counted(kStays, "learner", "delivered"); };
  const auto begun = [&] { return counted(kVictim, "state_receiver", "begun"); };
  if (Status rested = on_schedule(); !rested) return rested;
  healthy_.push_back(per_second(kSecond / 4));
  const std::uint64_t begun_before = begun();
  const std::uint64_t enough = decided() + rig_.cluster().config().limits.retain / 2;
  rig_.cluster().gate(kVictim).stop();
  Status missed = wait_for("a replica to miss something", [&] { return decided() > enough; });
  rig_.cluster().gate(kVictim).open();
  if (!missed) return missed;
  const Nanos begin = clock_.now();
  const std::uint64_t first = timeline_.count();
  Status near = wait_for("the replica to have what it missed",
                         [&] { return rig_.cluster().replicas_apart() <= kCaughtUp; });
  const Nanos took = clock_.now() - begin;
  during_.push_back(static_cast<double>(timeline_.count() - first) * 1e9 /
                    static_cast<double>(took));
  kept_.push_back(during_.back() / healthy_.back());
  took_ms_.push_back(static_cast<double>(took) / 1e6);
  outrun_ += begun() != begun_before;
  return near;
}

Status Catchup::round() {
  if (Status stopped = stop_victim(); !stopped) return stopped;
  without_.push_back(per_second(kSecond));
  if (Status again = rig_.cluster().restart_replica(kVictim); !again) return again;
  back_ = rig_.reading();
  const Nanos begin = clock_.now();
  const std::uint64_t first = timeline_.count();
  // Until it executes what is ordered now.
  const auto back = [&] {
    return counted(kVictim, "state_receiver", "installed") != 0 &&
           counted(kVictim, "worker", "values") != 0;
  };
  if (Status done = wait_for("the replica to come back", back); !done) return done;
  const Nanos took = clock_.now() - begin;
  during_.push_back(static_cast<double>(timeline_.count() - first) * 1e9 /
                    static_cast<double>(took));
  kept_.push_back(during_.back() / healthy_.back());
  took_ms_.push_back(static_cast<double>(took) / 1e6);
  worker_turn_us_.push_back(longest_turn_us("stage.worker"));
  learner_turn_us_.push_back(longest_turn_us("stage.learner"));
  megabytes_.push_back(
      static_cast<double>(counted(kStays, "state_source", "chunks_sent")) *
      consensus::fragment_bytes(rig_.cluster().config().mtu - dataplane::kIpUdpHeaderBytes) / 1e6);
  paused_ms_.push_back(static_cast<double>(paused()) / 1e6);
  std::this_thread::sleep_for(milliseconds(500));
  return {};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Status Catchup::pauses(Report& report) {
  const Reading before = rig_.reading();
  for (std::uint32_t i = 0; i < options_.pauses; ++i) {
    if (Status done = pause(); !done) return done;
  }
  Result result = rig_.result_of(rig_.reading().since(before));
  result.label = rate_ == 0 ? "replica paused, closed loop" : "replica paused, open loop";
  const double kept = median(kept_);
  result.per_second = median(during_);
  result.extra["healthy_per_second"] = median(healthy_);
  result.extra["during_per_second"] = median(during_);
  result.extra["kept"] = kept;
  result.extra["kept_least"] = *std::min_element(kept_.begin(), kept_.end());
  result.extra["caught_up_ms"] = median(took_ms_);
  result.extra["pauses"] = options_.pauses;
  result.extra["fetched_state"] = outrun_;
  result.targets.push_back({"at least 90 % of the commands while a paused replica catches up",
                            "the acceptors send what it missed, once", kept >= 0.9});
  for (auto* figures : {&healthy_, &during_, &kept_, &took_ms_}) figures->clear();
  return report.add(result);
}

Status Catchup::run(Report& report) {
  if (Status begun = rig_.run(rate_, &timeline_); !begun) return begun;
  std::this_thread::sleep_for(std::chrono::duration<double>(options_.workload.warmup));
  if (Status paused = pauses(report); !paused) return paused;
  for (std::uint32_t i = 0; i < options_.rounds; ++i) {
    if (Status done = round(); !done) return done;
  }
  if (Status rested = rig_.rest(); !rested) return rested;
  // Latency, cycles and stalls are of the last round.
  Result result = rig_.result_of(rig_.reading().since(back_));
  result.label = rate_ == 0 ? "replica comes back, closed loop" : "replica comes back, open loop";
  const double kept = median(kept_);
  result.per_second = median(during_);
  result.extra["healthy_per_second"] = median(healthy_);
  result.extra["without_per_second"] = median(without_);
  result.extra["during_per_second"] = median(during_);
  result.extra["kept"] = kept;
  result.extra["kept_least"] = *std::min_element(kept_.begin(), kept_.end());
  result.extra["longest_worker_turn_us"] = median(worker_turn_us_);
  result.extra["longest_learner_turn_us"] = median(learner_turn_us_);
  result.extra["came_back_ms"] = median(took_ms_);
  result.extra["copied_mb_in_all"] = megabytes_.back();
  result.extra["longest_copy_ms"] = paused_ms_.back();
  result.targets.push_back({"at least 90 % of the commands while a replica comes back",
                            "100 MB/s sent at most, eight passes over each byte", kept >= 0.9});
  return report.add(result);
}

Status run_catchup(const Options& options, Report& report) {
  Timeline timeline(kSamples);  // outlives the load, however this ends
  auto made = Rig::create(options.workload);
  if (!made) return made.error();
  Rig& rig = *made.value();
  if (auto loaded = rig.load(); !loaded) return loaded.error();
  auto peak = rig.measure(options.workload.load.mix);
  if (!peak) return peak.error();
  peak.value().label = "peak, closed loop";
  const double rate = options.load >= 1 ? 0 : peak.value().per_second * options.load;
  Catchup catchup(options, rig, timeline, rate);
  if (Status done = catchup.run(report); !done) return done;
  if (Status finished = rig.finish(peak.value()); !finished) return finished;
  return report.add(peak.value());
}

}  // namespace

Experiment catchup_experiment() {
  auto options = std::make_shared<Options>();
  options->workload.experiment = "catchup";
  options->workload.gated = true;
  options->workload.load.keys = 1'000'000;
  options->workload.load.value_bytes = 8;
  options->workload.seconds = 2;
  options->workload.warmup = 1;
  options->workload.deadline = 30 * kSecond;  // an outage is to show in what was kept
  return {
      "catchup",
      "a replica stands still under load, then loses its memory and fetches the other one's state",
      "50 s",
      [options](CLI::App& app) {
        app.add_option("--rounds", options->rounds, "how often it is killed")
            ->check(CLI::Range(1, 1'000))
            ->capture_default_str();
        app.add_option("--pauses", options->pauses, "how often it stands still before that")
            ->check(CLI::Range(1, 1'000))
            ->capture_default_str();
        app.add_option("--load", options->load, "share of the peak; 1: as fast as it goes")
            ->check(CLI::Range(0.01, 1.0))
            ->capture_default_str();
        app.add_option("--keys", options->workload.load.keys, "records")
            ->check(CLI::Range(2, 100'000'000))
            ->capture_default_str();
        app.add_option("--value-bytes", options->workload.load.value_bytes, "of each")
            ->check(CLI::Range(1, 16'000))
            ->capture_default_str();
        app.add_option("--warmup", options->workload.warmup, "seconds before")
            ->capture_default_str();
      },
      [options](Report& report) { return run_catchup(*options, report); }};
}

}  // namespace annulus::bench
