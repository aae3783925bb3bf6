// What clients notice when a node fails: open-loop load at half of the peak, and faults one after
// another. A failed node is not polled any more for longer than is measured; then it goes on, so
// that one cluster bears any number of faults. To the others it was dead.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "tools/bench/experiment.h"
#include "tools/bench/workload.h"

namespace annulus::bench {
namespace {

constexpr Nanos kMeasured = 100 * kMillisecond;  // from the fault on
constexpr Nanos kFailed = 150 * kMillisecond;
constexpr Nanos kRecovery = 250 * kMillisecond;
constexpr Nanos kLeadIn = 100 * kMillisecond;  // of the load, before the plot
constexpr Nanos kWholeWithin = 20 * kSecond;
constexpr Nanos kStoodStill = 4 * kMillisecond;  // the machine, or a part of it, around a fault
constexpr std::uint64_t kApartMost = 512;        // instances, of replicas that follow
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

/// What was seen around one fault, or around a moment without one.
struct Seen {
  std::vector<Nanos> took;  // of the commands meant to start in the measured time
  Nanos gap = 0;            // longest time in it without a completion
};

/// Once all of them have completed, however late.
Seen look(const Timeline& timeline, std::uint64_t first, Nanos begin) {
  Seen seen;
  Nanos last = begin;
  for (std::uint64_t i = first; i < timeline.count(); ++i) {
    const Timeline::Sample& sample = timeline.at(i);
    const Nanos intended = sample.completed - sample.took;
    if (intended >= begin && intended < begin + kMeasured) seen.took.push_back(sample.took);
    if (sample.completed < begin || last >= begin + kMeasured) continue;
    seen.gap = std::max(seen.gap, sample.completed - last);
    last = sample.completed;
  }
  if (last < begin + kMeasured) seen.gap = std::max(seen.gap, begin + kMeasured - last);
  return seen;
}

/// Of several faults.
struct Figures {
  dataplane::Histogram took;  // all commands of all of them
  std::vector<Nanos> gaps;    // of each
  std::vector<Nanos> p99s;    // likewise

  void add(Seen& seen) {
    for (const Nanos each : seen.took) took.record(static_cast<std::uint64_t>(each));
    gaps.push_back(seen.gap);
    p99s.push_back(quantile(seen.took, 0.99));
  }
};

/// Completions and their 99th percentile, by millisecond from kBefore before a fault on.
struct Plot {
  std::array<dataplane::Histogram, kBefore + kAfter> took;
  std::uint32_t faults = 0;

  void add(const Timeline& timeline, std::uint64_t first, Nanos begin) {
    ++faults;
    for (std::uint64_t i = first; i < timeline.count(); ++i) {
      const Timeline::Sample& sample = timeline.at(i);
      const Nanos at = sample.completed - begin + kBefore * kMillisecond;
      if (at < 0 || at >= (kBefore + kAfter) * kMillisecond) continue;
      took[static_cast<std::size_t>(at / kMillisecond)].record(
          static_cast<std::uint64_t>(sample.took));
    }
  }
};

/// Draws it with gnuplot: throughput above, the percentile below.
Status draw(const Plot& plot, const std::string& title, const std::string& path) {
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
      std::fprintf(gnuplot, "%d %g\n", i - kBefore,
                   value(plot.took[static_cast<std::size_t>(i)].snapshot()));
    }
    std::fprintf(gnuplot, "e\n");
  };
  using Snapshot = dataplane::Histogram::Snapshot;
  series("k commands/s",
         [&](const Snapshot& took) { return static_cast<double>(took.count) / plot.faults; });
  std::fprintf(gnuplot, "set logscale y\n");
  series("p99 in us", [](const Snapshot& took) {
    return std::max(1.0, static_cast<double>(took.at(0.99)) / 1e3);
  });
  std::fprintf(gnuplot, "unset multiplot\n");
  if (pclose(gnuplot) != 0) return Error{path + ": gnuplot failed; is gnuplot-nox installed?"};
  return {};
}

/// Faults of one kind; or times without any, if it has none.
struct Series {
  const Kind* kind = nullptr;
  Figures all;
  Figures calm;  // those during which no core stood still
  Reading counted;
  Plot plot;
};

class Failover {
 public:
  Failover(const Options& options, Rig& rig, Timeline& timeline, double rate)
      : options_(options), rig_(rig), rate_(rate), timeline_(timeline) {}

  Status run(Report& report);

 private:
  Status one_run(Series& series, std::uint32_t number);
  Status await_measured(std::uint64_t first, Nanos begin);
  Status await_replicas();
  std::uint64_t counted(const std::string& node, const char* stage, const char* name) const;
  Nanos stood_still() const;
  std::uint32_t coordinator() const;
  std::string victim(Victim kind, std::uint32_t number) const;
  Result sum_up(Series& series) const;
  void compare(const Kind& kind, const Result& healthy, Result& result) const;
  Status draw_plot(const Series& series) const;

  const Options& options_;
  Rig& rig_;
  const double rate_;
  Timeline& timeline_;
  dataplane::TscClock clock_;
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

/// The cores did so far, in all.
Nanos Failover::stood_still() const {
  std::uint64_t sum = 0;
  for (const dataplane::Registry::Group& group : rig_.cluster().registry().groups()) {
    if (group.stage != "core") continue;
    sum += group.values[static_cast<std::size_t>(dataplane::LoopCounter::kStalledNanos)].get();
  }
  return static_cast<Nanos>(sum);
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
  }
  return {};
}

/// Until a command meant to start after the measured time has completed: all before were sent.
Status Failover::await_measured(std::uint64_t first, Nanos begin) {
  const Nanos until = clock_.now() + kWholeWithin;
  while (true) {
    const std::uint64_t count = timeline_.count();
    const Timeline::Sample last = count == first ? Timeline::Sample{} : timeline_.at(count - 1);
    if (last.completed - last.took >= begin + kMeasured) return {};
    if (clock_.now() > until) {
      return Error{"what was to start at a fault has not started " +
                   std::to_string(kWholeWithin / kSecond) + " s after it"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

/// Looked at is what happened once the load has stopped: that takes a core for tens of
/// milliseconds.
Status Failover::one_run(Series& series, std::uint32_t number) {
  const Kind* kind = series.kind;
  const Reading before = rig_.reading();
  const auto wait = [](Nanos time) { std::this_thread::sleep_for(std::chrono::nanoseconds(time)); };
  if (Status begun = rig_.run(rate_, &timeline_); !begun) return begun;
  wait(kLeadIn);
  tools::Gate* gate =
      kind == nullptr ? nullptr : &rig_.cluster().gate(victim(kind->victim, number));
  const std::uint64_t first = timeline_.count();
  wait(kBefore * kMillisecond);
  const Nanos stood_before = stood_still();
  const Nanos begin = clock_.now();
  if (gate != nullptr) kind->victim == Victim::kSlowAcceptor ? gate->slow(10) : gate->stop();
  wait(kFailed);
  const bool calm = stood_still() - stood_before <= kStoodStill;
  if (gate != nullptr) gate->open();
  wait(kRecovery);
  if (Status all = await_measured(first, begin); !all) return all;
  if (Status rested = rig_.rest(); !rested) return rested;
  if (timeline_.count() - first > kSamples) {
    return Error{"more completed around a fault than there is room to note"};
  }
  Seen seen = look(timeline_, first, begin);
  if (seen.took.empty()) return Error{"nothing completed: the cluster does not work"};
  series.plot.add(timeline_, first, begin);
  series.all.add(seen);
  if (calm) series.calm.add(seen);
  series.counted.add(rig_.reading().since(before));
  return await_replicas();
}

Result Failover::sum_up(Series& series) const {
  Result result = rig_.result_of(series.counted);
  const auto note = [&](const std::string& prefix, Figures& figures) {
    const auto us = [](std::vector<Nanos>& times, double at) {
      return static_cast<double>(quantile(times, at)) / 1e3;
    };
    result.extra[prefix + "gap_p50_us"] = us(figures.gaps, 0.5);
    result.extra[prefix + "gap_p99_us"] = us(figures.gaps, 0.99);
    result.extra[prefix + "gap_max_us"] = us(figures.gaps, 1);
    result.extra[prefix + "p99_us"] = latency_figures(figures.took.snapshot()).p99_us;
    result.extra[prefix + "median_p99_us"] = us(figures.p99s, 0.5);
    result.extra[prefix + "count"] = static_cast<double>(figures.gaps.size());
  };
  note("", series.all);
  if (!series.calm.gaps.empty()) note("calm_", series.calm);
  const auto commands = series.all.took.snapshot();
  result.label = series.kind == nullptr ? "healthy" : series.kind->label;
  result.latency = latency_figures(commands);
  result.per_second = static_cast<double>(commands.count) /
                      static_cast<double>(series.all.gaps.size()) * 1e9 / kMeasured;
  result.extra["rate_per_second"] = rate_;
  return result;
}

/// Targets are for all faults, however the machine disturbed them.
void Failover::compare(const Kind& kind, const Result& healthy, Result& result) const {
  for (const std::string which : {"p99", "calm_p99", "median_p99", "calm_median_p99"}) {
    const auto with = result.extra.find(which + "_us");
    const auto without = healthy.extra.find(which + "_us");
    if (with == result.extra.end() || without == healthy.extra.end()) continue;
    result.extra[which + "_ratio"] = with->second / without->second;
  }
  const auto ratio = [&](const char* text, double most) {
    result.targets.push_back({text, "votes of spares within the ring's p99; credits of 1,024",
                              result.extra["p99_ratio"] <= most});
  };
  switch (kind.victim) {
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

Status Failover::draw_plot(const Series& series) const {
  if (options_.plot.empty()) return {};
  std::string name = series.kind->label;
  std::replace(name.begin(), name.end(), ' ', '-');
  return draw(series.plot, series.kind->label, options_.plot + name + ".png");
}

/// All kinds in turn, and each time a moment without a fault, so that whatever else the machine
/// does is the same to all; in a new order each time, for a fault may have after-effects.
Status Failover::run(Report& report) {
  std::vector<std::unique_ptr<Series>> series;
  series.push_back(std::make_unique<Series>());
  for (const Kind& kind : kKinds) {
    const auto& wanted = options_.kinds;
    if (!wanted.empty() && std::ranges::find(wanted, kind.name) == wanted.end()) continue;
    series.push_back(std::make_unique<Series>());
    series.back()->kind = &kind;
  }
  std::vector<Series*> order;
  for (auto& each : series) order.push_back(each.get());
  std::mt19937 random(1);
  for (std::uint32_t number = 0; number < options_.faults; ++number) {
    std::shuffle(order.begin(), order.end(), random);
    for (Series* each : order) {
      if (Status done = one_run(*each, number); !done) return done;
    }
  }
  const Result healthy = sum_up(*series[0]);
  if (Status added = report.add(healthy); !added) return added;
  for (auto& each : series) {
    if (each->kind == nullptr) continue;
    Result result = sum_up(*each);
    compare(*each->kind, healthy, result);
    if (Status drawn = draw_plot(*each); !drawn) return drawn;
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
          "700 s",
          [options](CLI::App& app) {
            app.add_option("--faults", options->faults, "of each kind")
                ->check(CLI::Range(1, 10'000))
                ->capture_default_str();
            app.add_option("--kind", options->kinds, "only these kinds")
                ->check(CLI::IsMember({"acceptor", "slow", "replica", "coordinator"}));
            app.add_option("--keys", options->workload.load.keys, "records")
                ->check(CLI::Range(2, 100'000'000))
                ->capture_default_str();
            app.add_option("--warmup", options->workload.warmup, "seconds before the peak")
                ->capture_default_str();
            app.add_option("--plot", options->plot,
                           "draw a picture of each kind of fault, named so and ending in .png");
          },
          [options](Report& report) { return run_failover(*options, report); }};
}

}  // namespace annulus::bench
