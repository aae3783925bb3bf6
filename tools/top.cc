#include "tools/top.h"

#include <ncurses.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <tuple>

#include "dataplane/counters.h"
#include "tools/config_command.h"
#include "tools/telemetry.h"

namespace annulus::tools {
namespace {

using dataplane::Histogram;
using Json = nlohmann::json;

template <typename... Arguments>
std::string line(const char* format, Arguments... arguments) {
  char text[256];
  std::snprintf(text, sizeof text, format, arguments...);
  return text;
}

/// One process between two snapshots.
struct Interval {
  Json before;  // null without an earlier one
  Json now;
  double seconds() const {
    if (before.is_null()) return 0;
    return (now["time_ns"].get<double>() - before["time_ns"].get<double>()) / 1e9;
  }
};

using GroupKey = std::tuple<std::string, std::string, std::string>;  // node, stage, counter

/// Every counter of a snapshot by name; of groups that share a name, the sum.
std::map<GroupKey, std::uint64_t> counters_of(const Json& snapshot) {
  std::map<GroupKey, std::uint64_t> counters;
  if (snapshot.is_null()) return counters;
  for (const Json& group : snapshot["groups"]) {
    for (const auto& [name, value] : group["values"].items()) {
      counters[{group["node"], group["stage"], name}] += value.get<std::uint64_t>();
    }
  }
  return counters;
}

/// The counters' growth over an interval.
std::map<GroupKey, std::uint64_t> growth(const Interval& interval) {
  std::map<GroupKey, std::uint64_t> counters = counters_of(interval.now);
  for (const auto& [key, value] : counters_of(interval.before)) counters[key] -= value;
  return counters;
}

void render_stages(const Interval& interval, std::vector<std::string>& out) {
  const std::map<GroupKey, std::uint64_t> grown = growth(interval);
  const std::map<GroupKey, std::uint64_t> whole = counters_of(interval.now);
  std::map<GroupKey, std::uint64_t> gauges;
  for (const Json& gauge : interval.now["gauges"]) {
    gauges[{gauge["node"], gauge["stage"], gauge["name"]}] = gauge["value"];
  }
  const double hertz = interval.now["cycles_per_second"].get<double>();
  for (const auto& [key, items] : grown) {
    const auto& [node, stage, name] = key;
    if (name != "items") continue;
    const auto of = [&](const std::map<GroupKey, std::uint64_t>& from, const char* which) {
      const auto found = from.find({node, stage, which});
      return found == from.end() ? 0.0 : static_cast<double>(found->second);
    };
    const double useful = of(grown, "useful_cycles");
    const double all =
        interval.seconds() > 0 ? hertz * interval.seconds() : useful + of(grown, "idle_cycles");
    const double turns = of(grown, "useful_turns");
    std::string rings;
    for (const auto& [gauge, value] : gauges) {
      if (std::get<0>(gauge) != node || std::get<1>(gauge) != stage) continue;
      if (std::get<2>(gauge) == "cpu") continue;
      rings += " " + std::get<2>(gauge) + "=" + std::to_string(value);
    }
    const auto cpu = gauges.find({node, stage, "cpu"});
    out.push_back(line("%-14s %-10s %4s %7.1f%% %12.0f %8.1f %10.1f %s", node.c_str(),
                       stage.c_str(),
                       cpu == gauges.end() ? "-" : std::to_string(cpu->second).c_str(),
                       all > 0 ? 100 * useful / all : 0,
                       interval.seconds() > 0 ? static_cast<double>(items) / interval.seconds()
                                              : static_cast<double>(items),
                       turns > 0 ? static_cast<double>(items) / turns : 0,
                       of(whole, "longest_turn_cycles") / hertz * 1e6, rings.c_str()));
  }
}

void render_cores(const Interval& interval, std::vector<std::string>& out) {
  const std::map<GroupKey, std::uint64_t> grown = growth(interval);
  std::map<std::uint64_t, double> useful;  // by CPU
  std::map<std::pair<std::string, std::string>, std::uint64_t> cpu_of;
  for (const Json& gauge : interval.now["gauges"]) {
    if (gauge["name"] == "cpu") cpu_of[{gauge["node"], gauge["stage"]}] = gauge["value"];
  }
  for (const auto& [key, cycles] : grown) {
    const auto& [node, stage, name] = key;
    const auto cpu = cpu_of.find({node, stage});
    if (name == "useful_cycles" && cpu != cpu_of.end()) {
      useful[cpu->second] += static_cast<double>(cycles);
    }
  }
  const double cycles = interval.now["cycles_per_second"].get<double>() * interval.seconds();
  const std::string process = interval.now["process"];
  for (const auto& [cpu, busy] : useful) {
    const std::string node = "cpu" + std::to_string(cpu);
    const auto of = [&](const char* name) {
      const auto found = grown.find({node, "core", name});
      return found == grown.end() ? 0.0 : static_cast<double>(found->second);
    };
    out.push_back(line("%-14s %-10s %4s %7.1f%%  yields %.0f, sleeps %.0f, stalls %.0f (%.1f ms)",
                       process.c_str(), "core", std::to_string(cpu).c_str(),
                       cycles > 0 ? 100 * busy / cycles : 0, of("yields"), of("sleeps"),
                       of("stalls"), of("stalled_nanos") / 1e6));
  }
}

void render_drops(const Interval& interval, std::vector<std::string>& out) {
  const std::map<GroupKey, std::uint64_t> whole = counters_of(interval.now);
  for (const auto& [key, increase] : growth(interval)) {
    const auto& [node, stage, name] = key;
    if (name.find("drop") == std::string::npos || whole.at(key) == 0) continue;
    out.push_back(line("%-14s %-10s %-28s %12llu (+%llu)", node.c_str(), stage.c_str(),
                       name.c_str(), static_cast<unsigned long long>(whole.at(key)),
                       static_cast<unsigned long long>(increase)));
  }
}

Histogram::Snapshot histogram_of(const Json& json) {
  Histogram::Snapshot snapshot;
  snapshot.buckets.resize(Histogram::kBuckets);
  for (const Json& bucket : json["buckets"]) {
    const auto index = bucket[0].get<std::size_t>();
    if (index < snapshot.buckets.size()) snapshot.buckets[index] = bucket[1];
  }
  snapshot.count = json["count"];
  snapshot.max = json["max"];
  return snapshot;
}

void render_latencies(const Interval& interval, std::vector<std::string>& out) {
  for (const Json& json : interval.now["histograms"]) {
    Histogram::Snapshot snapshot = histogram_of(json);
    if (!interval.before.is_null()) {
      for (const Json& earlier : interval.before["histograms"]) {
        if (earlier["node"] != json["node"] || earlier["name"] != json["name"]) continue;
        snapshot = snapshot.since(histogram_of(earlier));
      }
    }
    if (snapshot.count == 0) continue;
    const auto us = [&](double quantile) {
      return static_cast<double>(snapshot.at(quantile)) / 1e3;
    };
    out.push_back(line(
        "%-14s %-20s %12llu %9.1f %9.1f %9.1f %9.1f", json["node"].get<std::string>().c_str(),
        json["name"].get<std::string>().c_str(), static_cast<unsigned long long>(snapshot.count),
        us(0.5), us(0.99), us(0.999), static_cast<double>(snapshot.max) / 1e3));
  }
}

/// One snapshot of each process whose socket lies in `directory` and answers.
std::vector<std::string> fetch_all(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failure)) {
    if (entry.is_socket() && entry.path().extension() == ".sock") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> snapshots;
  for (const std::string& path : paths) {
    Result<std::string> text = fetch_telemetry(path);
    if (text) snapshots.push_back(std::move(text).value());
  }
  return snapshots;
}

struct Arguments {
  std::string directory;
  double interval = 1;
  bool once = false;
  bool json = false;
};

int show_live(const Arguments& arguments) {
  initscr();
  noecho();
  curs_set(0);
  timeout(static_cast<int>(arguments.interval * 1'000));
  std::vector<std::string> previous = fetch_all(arguments.directory);
  for (int key = getch(); key != 'q'; key = getch()) {
    std::vector<std::string> current = fetch_all(arguments.directory);
    erase();
    int row = 0;
    for (const std::string& text : render_top(previous, current)) {
      mvaddnstr(row++, 0, text.c_str(), COLS);
    }
    mvaddnstr(LINES - 1, 0, "q: quit", COLS);
    refresh();
    previous = std::move(current);
  }
  endwin();
  return 0;
}

int show(const Arguments& arguments) {
  std::vector<std::string> first = fetch_all(arguments.directory);
  if (first.empty()) {
    print_error(arguments.directory +
                ": no running process has its telemetry there; start one (annulus dev), or name "
                "its directory with --dir");
    return 1;
  }
  if (arguments.json) {
    std::string text;
    for (const std::string& snapshot : first) text += (text.empty() ? "" : ",\n") + snapshot;
    std::printf("[%s]\n", text.c_str());
    return 0;
  }
  if (!arguments.once) return show_live(arguments);
  std::this_thread::sleep_for(std::chrono::duration<double>(arguments.interval));
  for (const std::string& text : render_top(first, fetch_all(arguments.directory))) {
    std::printf("%s\n", text.c_str());
  }
  return 0;
}

}  // namespace

std::vector<std::string> render_top(const std::vector<std::string>& previous,
                                    const std::vector<std::string>& current) {
  std::map<std::string, Json> before;
  for (const std::string& text : previous) {
    Json json = Json::parse(text);
    const std::string process = json["process"];
    before[process] = std::move(json);
  }
  std::vector<Interval> intervals;
  for (const std::string& text : current) {
    Interval interval{nullptr, Json::parse(text)};
    const auto found = before.find(interval.now["process"]);
    // A process started again has another pid, and counters that begin at zero.
    if (found != before.end() && found->second["pid"] == interval.now["pid"]) {
      interval.before = found->second;
    }
    intervals.push_back(std::move(interval));
  }
  std::vector<std::string> out = {line("%-14s %-10s %4s %8s", "PROCESS", "", "CPU", "USEFUL")};
  for (const Interval& interval : intervals) render_cores(interval, out);
  out.push_back("");
  out.push_back(line("%-14s %-10s %4s %8s %12s %8s %10s %s", "NODE", "STAGE", "CPU", "USEFUL",
                     "ITEMS/S", "BATCH", "LONGEST us", "RINGS"));
  for (const Interval& interval : intervals) render_stages(interval, out);
  out.push_back("");
  out.push_back(line("%-14s %-20s %12s %9s %9s %9s %9s", "NODE", "HOP", "COUNT", "p50 us", "p99 us",
                     "p99.9 us", "max us"));
  for (const Interval& interval : intervals) render_latencies(interval, out);
  out.push_back("");
  out.push_back(line("%-14s %-10s %-28s %12s", "NODE", "STAGE", "DROPPED", "FRAMES"));
  for (const Interval& interval : intervals) render_drops(interval, out);
  return out;
}

void add_top_command(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("top", "Live counters of the processes on this machine");
  auto arguments = std::make_shared<Arguments>();
  arguments->directory = default_runtime_directory();
  command->add_option("--dir", arguments->directory, "Where the telemetry sockets lie")
      ->capture_default_str();
  command->add_option("--interval", arguments->interval, "Seconds between two readings")
      ->check(CLI::Range(0.1, 3'600.0))
      ->capture_default_str();
  command->add_flag("--once", arguments->once, "Print one screen as text, and end");
  command->add_flag("--json", arguments->json, "Print every process's snapshot, and end");
  command->callback([arguments, &status] { status = show(*arguments); });
}

}  // namespace annulus::tools
