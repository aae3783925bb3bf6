// What a chaos run prints and leaves behind.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/chaos/run.h"

namespace annulus::chaos {
namespace {

/// A gap that a fault caused may end a little after it.
constexpr Nanos kAfterwards = 500 * kMillisecond;

struct Counts {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
  std::uint64_t reply_lost = 0;
  std::uint64_t unknown = 0;
  std::uint64_t not_executed = 0;
};

Counts count(const History& history, bool native) {
  Counts counts;
  for (const Entry& entry : history.entries()) {
    if (entry.native != native) continue;
    ++counts.sent;
    counts.answered += entry.end == End::kAnswered ? 1 : 0;
    counts.reply_lost += entry.end == End::kExecuted ? 1 : 0;
    counts.unknown += entry.end == End::kUnknown || entry.end == End::kOpen ? 1 : 0;
    counts.not_executed += entry.end == End::kNotExecuted ? 1 : 0;
  }
  return counts;
}

/// When commands were answered, in order.
std::vector<Nanos> completions(const History& history, bool native) {
  std::vector<Nanos> times;
  for (const Entry& entry : history.entries()) {
    if (entry.native == native && entry.end == End::kAnswered) times.push_back(entry.ended);
  }
  std::sort(times.begin(), times.end());
  return times;
}

/// The longest time without a completion that overlaps an interval.
Nanos longest_gap(const std::vector<Nanos>& times, Nanos begin, Nanos end) {
  Nanos longest = 0;
  Nanos last = begin;
  for (auto at = std::lower_bound(times.begin(), times.end(), begin); last < end; ++at) {
    const Nanos next = at == times.end() ? end : *at;
    longest = std::max(longest, next - last);
    last = next;
  }
  return longest;
}

struct Row {
  const char* name = "";
  std::uint32_t faults = 0;
  Nanos native_gap = 0;
  Nanos proxy_gap = 0;
  Nanos stall = 0;    // of this process in the same time
  Nanos return_ = 0;  // longest time from the end of the fault until its node was whole
};

std::vector<Row> rows_of(const RunReport& report) {
  const std::vector<Nanos> native = completions(report.history, true);
  const std::vector<Nanos> proxy = completions(report.history, false);
  std::vector<Row> rows;
  for (const FaultRow& fault : fault_rows()) {
    Row row{.name = fault.name};
    for (const Done& done : report.faults) {
      if (done.drawn.row != &fault) continue;
      ++row.faults;
      const Nanos end = std::min(std::max(done.over, done.returned) + kAfterwards, report.ended);
      row.native_gap = std::max(row.native_gap, longest_gap(native, done.begun, end));
      row.proxy_gap = std::max(row.proxy_gap, longest_gap(proxy, done.begun, end));
      row.return_ = std::max(row.return_, done.returned - done.over);
      for (const auto& [at, length] : report.stalls) {
        if (at + length > done.begun && at < end) row.stall = std::max(row.stall, length);
      }
    }
    if (row.faults > 0) rows.push_back(row);
  }
  return rows;
}

double ms(Nanos time) { return static_cast<double>(time) / 1e6; }

const char* name_of(Medium medium) {
  return medium == Medium::kUdp ? "udp" : medium == Medium::kMemif ? "memif" : "veth";
}

Nanos longest_stall(const RunReport& report) {
  Nanos longest = 0;
  for (const auto& [at, length] : report.stalls) longest = std::max(longest, length);
  return longest;
}

void print_counts(const char* name, const Counts& counts) {
  std::printf("%-22s %9llu %9llu %11llu %9llu %13llu\n", name,
              static_cast<unsigned long long>(counts.sent),
              static_cast<unsigned long long>(counts.answered),
              static_cast<unsigned long long>(counts.reply_lost),
              static_cast<unsigned long long>(counts.unknown),
              static_cast<unsigned long long>(counts.not_executed));
}

nlohmann::json json_of(const Counts& counts) {
  return {{"sent", counts.sent},
          {"answered", counts.answered},
          {"reply_lost", counts.reply_lost},
          {"unknown", counts.unknown},
          {"not_executed", counts.not_executed}};
}

}  // namespace

void print_report(const RunOptions& options, const RunReport& report) {
  std::printf("\n%s, durability %s, seed %llu, %.0f s\n\n", name_of(options.medium),
              options.disk ? "disk" : "memory", static_cast<unsigned long long>(options.seed),
              static_cast<double>(report.ended - report.begun) / 1e9);
  std::printf("%-28s %6s  %s\n%-28s %6s %9s %9s %9s %9s\n", "", "", "longest, in ms:", "fault",
              "times", "native", "proxy", "stall", "return");
  for (const Row& row : rows_of(report)) {
    std::printf("%-28s %6u %9.0f %9.0f %9.0f %9.0f\n", row.name, row.faults, ms(row.native_gap),
                ms(row.proxy_gap), ms(row.stall), ms(row.return_));
  }
  std::printf(
      "(native, proxy: time without an answer; stall: this process got no processor when it was "
      "to\n"
      "run, the machine's doing; return: until who was hit was whole)\n\n");
  std::printf("%-22s %9s %9s %11s %9s %13s\n", "commands", "sent", "answered", "reply lost",
              "unknown", "not executed");
  print_counts("native client", count(report.history, true));
  print_counts("through the proxy", count(report.history, false));
  std::printf("\nelections won %llu; proxy connections lost %llu; longest stall %.0f ms\n",
              static_cast<unsigned long long>(report.elections),
              static_cast<unsigned long long>(report.connections_lost), ms(longest_stall(report)));
  if (report.replicas_equal > 0) {
    std::printf("%u replica%s at instance %llu: state hashes %s\n", report.replicas_equal,
                report.replicas_equal == 1 ? "" : "s",
                static_cast<unsigned long long>(report.executed),
                report.replicas_equal == 1 ? "kept and recomputed alike" : "equal");
  }
  for (const std::string& failure : report.failures) std::printf("FAILED: %s\n", failure.c_str());
  for (const std::string& violation : report.verdict.violations) {
    std::printf("FAILED: %s\n", violation.c_str());
  }
  if (report.interrupted) {
    std::printf("interrupted: nothing was verified\n");
  } else if (report.failed()) {
    std::printf("seed %llu failed; logs, faults and history are in %s\n",
                static_cast<unsigned long long>(options.seed), options.directory.c_str());
  } else {
    std::printf(
        "%llu commands on %llu objects: linearizable, none lost, none executed twice\n"
        "with one acknowledged write taken out it would read: %s\n",
        static_cast<unsigned long long>(report.verdict.operations),
        static_cast<unsigned long long>(report.verdict.objects), report.proof.c_str());
  }
}

Status write_report(const RunOptions& options, const RunReport& report, const std::string& path) {
  nlohmann::json json = {{"transport", name_of(options.medium)},
                         {"durability", options.disk ? "disk" : "memory"},
                         {"seed", options.seed},
                         {"rate_per_second", options.rate},
                         {"seconds", static_cast<double>(report.ended - report.begun) / 1e9},
                         {"native", json_of(count(report.history, true))},
                         {"proxy", json_of(count(report.history, false))},
                         {"elections_won", report.elections},
                         {"connections_lost", report.connections_lost},
                         {"longest_stall_ms", ms(longest_stall(report))},
                         {"replicas_equal", report.replicas_equal},
                         {"operations_judged", report.verdict.operations},
                         {"objects", report.verdict.objects},
                         {"failures", report.failures},
                         {"violations", report.verdict.violations},
                         {"interrupted", report.interrupted},
                         {"passed", !report.failed()},
                         {"faults", nlohmann::json::array()}};
  for (const Row& row : rows_of(report)) {
    json["faults"].push_back({{"fault", row.name},
                              {"times", row.faults},
                              {"native_gap_ms", ms(row.native_gap)},
                              {"proxy_gap_ms", ms(row.proxy_gap)},
                              {"stall_ms", ms(row.stall)},
                              {"return_ms", ms(row.return_)}});
  }
  std::ofstream file(path);
  file << json.dump(1) << '\n';
  file.close();
  if (!file) return Error{path + ": cannot be written; name another file with --json"};
  return {};
}

void keep_evidence(const RunOptions& options, const RunReport& report) {
  std::ofstream evidence(options.directory + "/violation.txt");
  for (const std::string& failure : report.failures) evidence << failure << '\n';
  for (const std::string& violation : report.verdict.violations) evidence << violation << '\n';
  for (const std::string& line : report.verdict.evidence) evidence << "  " << line << '\n';
  std::ofstream history(options.directory + "/history.txt");
  for (const Entry& entry : report.history.entries()) {
    history << describe(entry, report.begun) << '\n';
  }
}

}  // namespace annulus::chaos
