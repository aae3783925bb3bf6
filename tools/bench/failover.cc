// What clients notice when a node fails: open-loop load at half of the peak, and faults one after
// another. A failed node is not polled any more for longer than is measured; then it goes on, so
// that one cluster bears any number of faults. To the others it was dead.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "tools/bench/experiment.h"
#include "tools/bench/workload.h"

namespace annulus::bench {
namespace {

constexpr Nanos kMeasured = 100 * kMillisecond;  // from the fault on
constexpr Nanos kFailed = 150 * kMillisecond;
constexpr Nanos kRecovery = 250 * kMillisecond;
constexpr Nanos kWholeWithin = 20 * kSecond;
constexpr std::uint64_t kApartMost = 512;  // instances, of replicas that follow
constexpr std::uint32_t kSamples = 1 << 21;
// Of the plot, in steps of a millisecond.
constexpr int kBefore = 50;
constexpr int kAfter = 150;

struct Options {
  WorkloadOptions workload;
  std::uint32_t faults = 200;      // of each kind
  std::string plot;                // prefix of the pictures' names; empty: none
  std::vector<std::string> kinds;  // empty: all
};

enum class Victim : std::uint8_t { kAcceptor, kSlowAcceptor, kReplica, kCoordinator };
struct Kind {
  Victim victim;
  const char* name;
  const char* label;
};
constexpr Kind kKinds[] = {{Victim::kAcceptor, "acceptor", "acceptor killed"},
                           {Victim::kSlowAcceptor, "slow", "acceptor slowed 10x"},
                           {Victim::kReplica, "replica", "replica killed"},
                           {Victim::kCoordinator, "coordinator", "coordinator killed"}};

template <typename T>
T quantile(std::vector<T>& values, double at) {
  if (values.empty()) return {};
  const auto place = static_cast<std::size_t>(at * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(place),
                   values.end());
  return values[place];
}

/// The longest time without a completion in the measured time from `begin` on.
Nanos longest_gap(const Timeline& timeline, std::uint64_t first, Nanos begin) {
  Nanos gap = 0;
  Nanos last = begin;
  for (std::uint64_t i = first; i < timeline.count() && last < begin + kMeasured; ++i) {
    const Nanos completed = timeline.at(i).completed;
    if (completed < begin) continue;
    gap = std::max(gap, completed - last);
    last = completed;
  }
  return last < begin + kMeasured ? std::max(gap, begin + kMeasured - last) : gap;
}

/// What commands took that were meant to start in the measured time of a fault, or of a moment
/// without one: whenever they completed, for the latest are those that the fault hurt most.
class Latencies {
 public:
  explicit Latencies(const Timeline& timeline) : timeline_(timeline), next_(timeline.count()) {}

  void measure_from(Nanos begin) { begins_.push_back(begin); }
  /// Takes what completed since the last time; before the timeline is full anew.
  void collect() {
    for (const std::uint64_t end = timeline_.count(); next_ < end; ++next_) {
      const Timeline::Sample& sample = timeline_.at(next_);
      const Nanos intended = sample.completed - sample.took;
      const auto after = std::ranges::upper_bound(begins_, intended);
      if (after != begins_.begin() && intended < *(after - 1) + kMeasured) {
        took_.push_back(sample.took);
      }
    }
  }
  std::vector<Nanos>& took() { return took_; }

 private:
  const Timeline& timeline_;
  std::uint64_t next_;  // not looked at yet
  std::vector<Nanos> begins_;
  std::vector<Nanos> took_;
};

/// Completions and their 99th percentile, by millisecond from kBefore before a fault on.
struct Plot {
  std::vector<std::vector<Nanos>> took = std::vector<std::vector<Nanos>>(kBefore + kAfter);
  std::uint32_t faults = 0;

  void add(const Timeline& timeline, std::uint64_t first, Nanos begin) {
    ++faults;
    for (std::uint64_t i = first; i < timeline.count(); ++i) {
      const Timeline::Sample& sample = timeline.at(i);
      const Nanos at = sample.completed - begin + kBefore * kMillisecond;
      if (at < 0 || at >= (kBefore + kAfter) * kMillisecond) continue;
      took[static_cast<std::size_t>(at / kMillisecond)].push_back(sample.took);
    }
  }
};

/// Draws it with gnuplot: throughput above, the percentile below.
Status draw(Plot& plot, const std::string& title, const std::string& path) {
  std::FILE* gnuplot = popen("gnuplot", "w");
  if (gnuplot == nullptr) return Error{"gnuplot cannot be started: install gnuplot-nox"};
  std::fprintf(gnuplot,
               "set terminal pngcairo size 900,600\nset output '%s'\n"
               "set multiplot layout 2,1 title 'fault at 0: %s, mean of %u'\n"
               "set grid\nunset key\nset xrange [%d:%d]\n",
               path.c_str(), title.c_str(), plot.faults, -kBefore, kAfter);
  const auto series = [&](const char* label, auto&& value) {
    std::fprintf(gnuplot, "set ylabel '%s'\nset xlabel 'ms'\nplot '-' with lines lw 2\n", label);
    for (int i = 0; i < kBefore + kAfter; ++i) {
      std::fprintf(gnuplot, "%d %g\n", i - kBefore, value(plot.took[static_cast<std::size_t>(i)]));
    }
    std::fprintf(gnuplot, "e\n");
  };
  series("k commands/s",
         [&](std::vector<Nanos>& took) { return static_cast<double>(took.size()) / plot.faults; });
  std::fprintf(gnuplot, "set logscale y\n");
  series("p99 in us", [](std::vector<Nanos>& took) {
    return std::max(1.0, static_cast<double>(quantile(took, 0.99)) / 1e3);
  });
  std::fprintf(gnuplot, "unset multiplot\n");
  if (pclose(gnuplot) != 0) return Error{path + ": gnuplot failed; is gnuplot-nox installed?"};
  return {};
}

class Failover {
 public:
  Failover(const Options& options, Rig& rig, Timeline& timeline, double rate)
      : options_(options), rig_(rig), rate_(rate), timeline_(timeline) {}

  Status run(Report& report);

 private:
  Status faults_of(const Kind& kind);
  Status one_fault(const Kind& kind, std::uint32_t number);
  void no_faults();
  Status await_replicas();
  std::uint64_t counted(const std::string& node, const char* stage, const char* name) const;
  std::uint32_t coordinator() const;
  std::string victim(Victim kind, std::uint32_t number) const;
  void sum_up(Result& result);
  void set_targets(Victim victim, Result& result) const;
  Status draw_plot(const Kind& kind);

  const Options& options_;
  Rig& rig_;
  const double rate_;
  Timeline& timeline_;
  dataplane::TscClock clock_;
  double healthy_p99_us_ = 0;
  // Of the present kind.
  std::optional<Latencies> latencies_;
  std::vector<Nanos> gaps_;
  Plot plot_;
};

std::uint64_t Failover::counted(const std::string& node, const char* stage,
                                const char* name) const {
  for (const dataplane::Registry::Group& group : rig_.cluster().registry().groups()) {
    if (group.node != node || group.stage != stage) continue;
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      if (std::strcmp(group.names[i], name) == 0) return group.values[i].get();
    }
  }
  return 0;
}

/// The number of the acceptor that proposes.
std::uint32_t Failover::coordinator() const {
  std::vector<std::uint64_t> before;
  const auto proposals = [&](std::uint32_t number) {
    return counted("acceptor" + std::to_string(number), "coordinator", "proposals");
  };
  const std::uint32_t acceptors = options_.workload.acceptors;
  for (std::uint32_t i = 1; i <= acceptors; ++i) before.push_back(proposals(i));
  while (true) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (std::uint32_t i = 1; i <= acceptors; ++i) {
      if (proposals(i) > before[i - 1]) return i;
    }
  }
}

std::string Failover::victim(Victim kind, std::uint32_t number) const {
  if (kind == Victim::kReplica) {
    return "replica" + std::to_string(1 + number % options_.workload.replicas);
  }
  const std::uint32_t acceptors = options_.workload.acceptors;
  const std::uint32_t leads = coordinator();
  // The first of the ring, and the others in turn: spares among them.
  const std::uint32_t by =
      kind == Victim::kCoordinator || acceptors == 1 ? 0 : 1 + number % (acceptors - 1);
  return "acceptor" + std::to_string(1 + (leads - 1 + by) % acceptors);
}

/// Until none lacks what another has, for it may be fetching the state of that one: a fault that
/// took that, too, would take all.
Status Failover::await_replicas() {
  const Nanos until = clock_.now() + kWholeWithin;
  while (rig_.cluster().replicas_apart() > kApartMost) {
    if (clock_.now() > until) {
      return Error{"a replica has not executed what another has " +
                   std::to_string(kWholeWithin / kSecond) + " s after a fault"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    latencies_->collect();
  }
  return {};
}

Status Failover::one_fault(const Kind& kind, std::uint32_t number) {
  const auto wait = [](Nanos time) { std::this_thread::sleep_for(std::chrono::nanoseconds(time)); };
  tools::Gate& gate = rig_.cluster().gate(victim(kind.victim, number));
  const std::uint64_t first = timeline_.count();
  wait(kBefore * kMillisecond);
  const Nanos begin = clock_.now();
  latencies_->measure_from(begin);
  kind.victim == Victim::kSlowAcceptor ? gate.slow(10) : gate.stop();
  wait(kFailed);
  gate.open();
  wait(kRecovery);
  plot_.add(timeline_, first, begin);
  gaps_.push_back(longest_gap(timeline_, first, begin));
  latencies_->collect();
  return await_replicas();
}

void Failover::no_faults() {
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t first = timeline_.count();
    const Nanos begin = clock_.now();
    latencies_->measure_from(begin);
    std::this_thread::sleep_for(std::chrono::nanoseconds(kFailed));
    gaps_.push_back(longest_gap(timeline_, first, begin));
    latencies_->collect();
  }
}

Status Failover::faults_of(const Kind& kind) {
  for (std::uint32_t i = 0; i < options_.faults; ++i) {
    if (Status done = one_fault(kind, i); !done) return done;
  }
  return {};
}

void Failover::sum_up(Result& result) {
  const auto us = [](std::vector<Nanos>& times, double at) {
    return static_cast<double>(quantile(times, at)) / 1e3;
  };
  std::vector<Nanos>& took = latencies_->took();
  result.latency = {us(took, 0.5), us(took, 0.99), us(took, 0.999), us(took, 1)};
  result.extra["gap_p50_us"] = us(gaps_, 0.5);
  result.extra["gap_p99_us"] = us(gaps_, 0.99);
  result.extra["gap_max_us"] = us(gaps_, 1);
  result.extra["rate_per_second"] = rate_;
}

void Failover::set_targets(Victim victim, Result& result) const {
  const double p99 = result.latency.p99_us;
  const auto ratio = [&](const char* text, double most) {
    result.targets.push_back({text, "votes of spares within the ring's p99; credits of 1,024",
                              p99 <= most * healthy_p99_us_});
  };
  result.extra["p99_ratio"] = p99 / healthy_p99_us_;
  switch (victim) {
    case Victim::kAcceptor:
    case Victim::kSlowAcceptor:
      ratio("p99 over 100 ms at most 2x the healthy one", 2);
      result.targets.push_back({"longest gap at most 5 ms (p99 of the faults)",
                                "the ring is bypassed after its p99, well below 1 ms",
                                result.extra["gap_p99_us"] <= 5'000});
      break;
    case Victim::kReplica:
      ratio("p99 over 100 ms at most 3x the healthy one", 3);
      break;
    case Victim::kCoordinator:
      result.targets.push_back({"median gap at most 5 ms",
                                "missed after 2 ms, elected in one round, found by the next probe",
                                result.extra["gap_p50_us"] <= 5'000});
      result.targets.push_back({"p99 of the gaps at most 30 ms", "two rounds, after a stall",
                                result.extra["gap_p99_us"] <= 30'000});
      break;
  }
}

Status Failover::draw_plot(const Kind& kind) {
  if (options_.plot.empty()) return {};
  std::string name = kind.label;
  std::replace(name.begin(), name.end(), ' ', '-');
  return draw(plot_, kind.label, options_.plot + name + ".png");
}

Status Failover::run(Report& report) {
  // Each kind as a run of its own: all that was sent is answered, and right.
  for (int i = -1; i < static_cast<int>(std::size(kKinds)); ++i) {
    const Kind* kind = i < 0 ? nullptr : &kKinds[i];
    const auto& wanted = options_.kinds;
    if (kind != nullptr && !wanted.empty() && std::ranges::find(wanted, kind->name) == wanted.end())
      continue;
    if (Status begun = rig_.run(rate_, &timeline_); !begun) return begun;
    std::this_thread::sleep_for(std::chrono::duration<double>(options_.workload.warmup));
    const auto before = rig_.reading();
    latencies_.emplace(timeline_);
    gaps_.clear();
    plot_ = Plot{};
    if (kind == nullptr) {
      no_faults();
    } else if (Status done = faults_of(*kind); !done) {
      return done;
    }
    if (Status rested = rig_.rest(); !rested) return rested;
    latencies_->collect();
    if (latencies_->took().empty()) return Error{"nothing completed: the cluster does not work"};
    Result result = rig_.result_since(before);
    result.label = kind == nullptr ? "healthy" : kind->label;
    sum_up(result);
    if (kind == nullptr) {
      healthy_p99_us_ = result.latency.p99_us;
    } else {
      result.extra["faults"] = options_.faults;
      set_targets(kind->victim, result);
      if (Status drawn = draw_plot(*kind); !drawn) return drawn;
    }
    if (Status added = report.add(result); !added) return added;
  }
  return {};
}

Status run_failover(const Options& options, Report& report) {
  Timeline timeline(kSamples);  // outlives the load, however this ends
  auto made = Rig::create(options.workload);
  if (!made) return made.error();
  Rig& rig = *made.value();
  if (auto loaded = rig.load(); !loaded) return loaded.error();
  auto peak = rig.measure(options.workload.load.mix);
  if (!peak) return peak.error();
  peak.value().label = "peak, closed loop";
  Failover failover(options, rig, timeline, peak.value().per_second / 2);
  if (Status done = failover.run(report); !done) return done;
  if (Status finished = rig.finish(peak.value()); !finished) return finished;
  return report.add(peak.value());
}

}  // namespace

Experiment failover_experiment() {
  auto options = std::make_shared<Options>();
  options->workload.experiment = "failover";
  options->workload.gated = true;
  options->workload.load.keys = 100'000;
  options->workload.load.value_bytes = 8;
  options->workload.seconds = 2;
  options->workload.warmup = 1;
  return {"failover",
          "open-loop load at half of the peak while acceptors, replicas and coordinators fail",
          "330 s",
          [options](CLI::App& app) {
            app.add_option("--faults", options->faults, "of each kind")
                ->check(CLI::Range(1, 10'000))
                ->capture_default_str();
            app.add_option("--kind", options->kinds, "only these kinds")
                ->check(CLI::IsMember({"acceptor", "slow", "replica", "coordinator"}));
            app.add_option("--keys", options->workload.load.keys, "records")
                ->check(CLI::Range(2, 100'000'000))
                ->capture_default_str();
            app.add_option("--warmup", options->workload.warmup, "seconds before")
                ->capture_default_str();
            app.add_option("--plot", options->plot,
                           "draw a picture of each kind of fault, named so and ending in .png");
          },
          [options](Report& report) { return run_failover(*options, report); }};
}

}  // namespace annulus::bench
