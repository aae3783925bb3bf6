#include "tools/bench/report.h"

#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "dataplane/clock.h"
#include "version.h"

namespace annulus::bench {
namespace {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

/// Median round trip of one cache line between two threads, in nanoseconds.
double core_round_trip_ns() {
  constexpr int kRounds = 20'000;
  if (std::thread::hardware_concurrency() < 2) return 0;
  // Each stores with release what the other awaits with acquire.
  alignas(64) std::atomic<int> ping{0};
  alignas(64) std::atomic<int> pong{0};
  std::thread other([&] {
    for (int i = 1; i <= kRounds; ++i) {
      for (int spins = 0; ping.load(std::memory_order_acquire) != i; ++spins) {
        if (spins > 10'000) std::this_thread::yield();
      }
      pong.store(i, std::memory_order_release);
    }
  });
  std::vector<std::uint64_t> cycles;
  cycles.reserve(kRounds);
  for (int i = 1; i <= kRounds; ++i) {
    const std::uint64_t start = dataplane::cycles_now();
    ping.store(i, std::memory_order_release);
    for (int spins = 0; pong.load(std::memory_order_acquire) != i; ++spins) {
      if (spins > 10'000) std::this_thread::yield();
    }
    cycles.push_back(dataplane::cycles_now() - start);
  }
  other.join();
  std::nth_element(cycles.begin(), cycles.begin() + kRounds / 2, cycles.end());
  return static_cast<double>(cycles[kRounds / 2]) / dataplane::TscClock::cycles_per_nano();
}

constexpr std::size_t kColumns = 100;  // of a line of the table

std::string rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2f" : "%.0f", value);
  return text;
}

std::string scaled(double value) {
  if (value >= 1e9) return rounded(value / 1e9) + " G";
  if (value >= 1e6) return rounded(value / 1e6) + " M";
  if (value >= 1e4) return rounded(value / 1e3) + " k";
  return rounded(value) + " ";
}

void print(const Result& result) {
  std::printf("%-34s %12s%s", (result.experiment + " " + result.label).c_str(),
              scaled(result.per_second).c_str(), result.unit.c_str());
  if (result.has_latency) {
    std::printf("   p50 %s  p99 %s  p99.9 %s  max %s us", rounded(result.latency.p50_us).c_str(),
                rounded(result.latency.p99_us).c_str(), rounded(result.latency.p999_us).c_str(),
                rounded(result.latency.max_us).c_str());
  }
  if (result.hashes_compared) {
    std::printf("   state hashes %s", result.state_hashes_equal ? "equal" : "DIFFER");
  }
  std::printf("\n");
  if (!result.cpu_ns_per_command.empty()) {
    std::printf("    CPU ns a command:");
    double sum = 0;
    for (const auto& [role, ns] : result.cpu_ns_per_command) {
      std::printf(" %s %s", role.c_str(), rounded(ns).c_str());
      sum += ns;
    }
    std::printf(", sum %s\n", rounded(sum).c_str());
  }
  std::string line;
  for (const auto& [name, value] : result.extra) {
    const std::string one = name + " " + scaled(value);
    if (line.size() + one.size() > kColumns) {
      std::printf("    %s\n", line.c_str());
      line.clear();
    }
    line += one.substr(0, one.find_last_not_of(' ') + 1) + "; ";
  }
  if (!line.empty()) std::printf("    %s\n", line.c_str());
  for (const Target& target : result.targets) {
    std::printf("    target %s [%s]: %s\n", target.text.c_str(), target.estimate.c_str(),
                target.met ? "met" : "SHORT");
  }
  std::fflush(stdout);
}

}  // namespace

LatencyFigures latency_figures(const dataplane::Histogram::Snapshot& snapshot) {
  const auto us = [](std::uint64_t ns) { return static_cast<double>(ns) / 1e3; };
  return {us(snapshot.at(0.5)), us(snapshot.at(0.99)), us(snapshot.at(0.999)),
          us(snapshot.at(1.0))};
}

nlohmann::json machine() {
  static const nlohmann::json instance = [] {
    utsname name{};
    uname(&name);
    dataplane::TscClock calibrated;
    return nlohmann::json{{"cpu", cpu_model()},
                          {"cores", std::thread::hardware_concurrency()},
                          {"kernel", name.release},
                          {"commit", kCommit},
                          {"core_round_trip_ns", std::round(core_round_trip_ns())}};
  }();
  return instance;
}

nlohmann::json to_json(const Result& result) {
  nlohmann::json json{{"experiment", result.experiment},
                      {"label", result.label},
                      {"config", result.config},
                      {"unit", result.unit},
                      {"machine", machine()},
                      {"cpu_ns_per_command", result.cpu_ns_per_command},
                      {"extra", result.extra}};
  json["commands_per_second"] = result.per_second;
  if (result.has_latency) {
    json["latency_us"] = {{"p50", result.latency.p50_us},
                          {"p99", result.latency.p99_us},
                          {"p999", result.latency.p999_us},
                          {"max", result.latency.max_us}};
  }
  if (result.hashes_compared) json["state_hashes_equal"] = result.state_hashes_equal;
  for (const Target& target : result.targets) {
    json["targets"].push_back(
        {{"target", target.text}, {"estimate", target.estimate}, {"met", target.met}});
  }
  return json;
}

Status Report::add(const Result& result) {
  print(result);
  if (!path_.empty()) {
    std::ofstream file(path_, std::ios::app);
    file << to_json(result).dump() << '\n';
    file.flush();
    if (!file) return Error{"cannot write '" + path_ + "': check the directory and its space"};
  }
  if (result.hashes_compared && !result.state_hashes_equal) {
    return Error{"the replicas differ: these figures are void, and this is a bug"};
  }
  return {};
}

}  // namespace annulus::bench
