// Results: one JSON object each, a table for people, and the machine they were measured on.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/result.h"

namespace annulus::bench {

struct LatencyFigures {
  double p50_us = 0;
  double p99_us = 0;
  double p999_us = 0;
  double max_us = 0;
};
LatencyFigures latency_figures(const dataplane::Histogram::Snapshot& snapshot);

/// A figure that was to be reached, with the estimate it was derived from.
struct Target {
  std::string text;  // "at least 3.0 M commands/s"
  std::string estimate;
  bool met = false;
};

struct Result {
  std::string experiment;
  std::string label;  // distinguishes alternatives of one run
  std::map<std::string, std::string> config;
  double per_second = 0;
  std::string unit = "commands/s";
  LatencyFigures latency;
  bool has_latency = true;
  std::map<std::string, double> cpu_ns_per_command;  // useful cycles by role
  bool hashes_compared = false;
  bool state_hashes_equal = false;
  std::map<std::string, double> extra;  // names end in their unit
  std::vector<Target> targets;
};

/// What a figure depends on and a reader cannot see: processor, kernel, commit, and how far apart
/// the two cores are in this run (they float over host cores).
nlohmann::json machine();

nlohmann::json to_json(const Result& result);

/// Where results go as they come: a table on stdout and, with a path, a file of one JSON object a
/// line.
class Report {
 public:
  explicit Report(std::string path) : path_(std::move(path)) {}
  /// Fails when the file cannot be written, or the result is void because replicas differ.
  Status add(const Result& result);

 private:
  std::string path_;
};

}  // namespace annulus::bench
