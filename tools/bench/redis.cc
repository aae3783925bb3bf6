// Stock redis-benchmark against the proxy, beside Debian's redis-server in the same run: the two
// take turns, so that what the machine does to one it does to the other.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tools/bench/child.h"
#include "tools/bench/experiment.h"
#include "tools/redis_link.h"

namespace annulus::bench {
namespace {

constexpr std::uint32_t kLoopback = 0x7f000001;
constexpr int kPatienceSeconds = 60;  // for a server to serve, and for one run
/// No round of a duel begins later than this, so that all of it takes less than three minutes even
/// where starting servers and finding out the requests takes long.
constexpr std::chrono::seconds kDuelMax{72};

struct RedisOptions {
  std::uint32_t rounds = 5;
  double seconds = 1.2;  // of SET and GET together, each run
  std::vector<std::uint32_t> pipelines = {1, 50};
  std::vector<std::uint32_t> value_bytes = {8, 1'024};
  bool embedded = true;
  bool processes = true;
};

/// What redis-benchmark is told, and the requests that fill a run with a given server.
struct Setting {
  std::uint32_t pipeline;
  std::uint32_t value_bytes;
  std::uint64_t requests = 0;
};

/// One line of redis-benchmark.
struct Figures {
  double per_second = 0;
  double p50_us = 0;
  double p99_us = 0;
};
using Tests = std::map<std::string, Figures>;  // "SET", "GET"

struct Contestant {
  std::string name;
  std::function<std::vector<std::string>(const std::string& port)> command;
  std::string ready;  // what it prints when it serves
  std::vector<Setting> settings;
};

/// "SET","32154.34","1.075","0.216","0.831","1.423","5.447","35.263": rate, then average, least,
/// p50, p95, p99 and longest latency in milliseconds.
annulus::Result<Tests> parse_csv(const std::string& text) {
  Tests tests;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::erase(line, '"');
    std::istringstream cells(line);
    std::vector<std::string> row;
    for (std::string cell; std::getline(cells, cell, ',');) row.push_back(cell);
    if (row.size() != 8 || (row[0] != "SET" && row[0] != "GET")) continue;
    const auto number = [&](std::size_t i) { return std::strtod(row[i].c_str(), nullptr); };
    tests[row[0]] = {number(1), number(4) * 1e3, number(6) * 1e3};
  }
  if (tests.size() == 2 && tests["SET"].per_second > 0 && tests["GET"].per_second > 0) return tests;
  return Error{"redis-benchmark printed no figures for SET and GET: " + text};
}

annulus::Result<Tests> run_benchmark(const std::string& port, const Setting& setting) {
  Child benchmark({"redis-benchmark", "-h", "127.0.0.1", "-p", port, "-t", "set,get", "-c", "50",
                   "-P", std::to_string(setting.pipeline), "-d",
                   std::to_string(setting.value_bytes), "-n", std::to_string(setting.requests),
                   "--csv"});
  auto output = benchmark.finish(kPatienceSeconds);
  if (!output) return output.error();
  return parse_csv(output.value());
}

/// redis-benchmark counts replies and gives up at an error; this says that the value is there.
Status check_value(const std::string& port, const Setting& setting) {
  auto link = tools::RedisLink::connect(
      {kLoopback, static_cast<std::uint16_t>(std::strtoul(port.c_str(), nullptr, 10))});
  if (!link) return link.error();
  const auto replies = std::move(link).value().call({{"STRLEN", "key:__rand_int__"}});
  if (!replies) return replies.error();
  const std::string wanted = ":" + std::to_string(setting.value_bytes);
  if (replies.value()[0] == wanted) return {};
  return Error{"the benchmark's key has a value of " + replies.value()[0] + " bytes, not " +
               wanted};
}

/// The tests of one round against one server, setting by setting.
annulus::Result<std::vector<Tests>> run_round(Contestant& contestant, const RedisOptions& options) {
  const std::string port = std::to_string(tools::free_tcp_port());
  Child server(contestant.command(port));
  if (Status serves = server.await(contestant.ready, kPatienceSeconds); !serves) {
    return serves.error();
  }
  std::vector<Tests> round;
  for (Setting& setting : contestant.settings) {
    if (setting.requests == 0) {
      setting.requests = 4'000 * std::min(setting.pipeline, 25u);
      auto trial = run_benchmark(port, setting);
      if (!trial) return trial.error();
      const double rate =
          1 / (1 / trial.value()["SET"].per_second + 1 / trial.value()["GET"].per_second);
      setting.requests =
          std::max<std::uint64_t>(1'000, static_cast<std::uint64_t>(options.seconds * rate));
    }
    auto tests = run_benchmark(port, setting);
    if (!tests) return tests.error();
    if (Status kept = check_value(port, setting); !kept) return kept.error();
    round.push_back(std::move(tests).value());
  }
  return round;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::vector<double> collect(const std::vector<std::vector<Tests>>& rounds, std::size_t setting,
                            const std::string& test, double Figures::*figure) {
  std::vector<double> values;
  for (const std::vector<Tests>& round : rounds) values.push_back(round[setting].at(test).*figure);
  return values;
}

Target target_of(bool processes, std::uint32_t pipeline, double ratio) {
  if (processes) {
    return {"ratio at least 0.4",
            "six processes on two cores: 2-5 us a hop and switch, shared by a batch: 0.4-0.6",
            ratio >= 0.4};
  }
  if (pipeline == 1) {
    return {"ratio at least 0.85",
            "system calls cost both 8-10 us a request, order and execution add 1: 0.9",
            ratio >= 0.85};
  }
  return {"ratio at least 0.8",
          "the client's core limits Redis; ours asks 1.3 us a request of two cores: 0.9",
          ratio >= 0.8};
}

/// `redis` and `ours` take turns.
Status run_duel(Contestant& redis, Contestant& ours, bool processes, const RedisOptions& options,
                Report& report) {
  std::vector<std::vector<Tests>> theirs_rounds;
  std::vector<std::vector<Tests>> our_rounds;
  const auto end = std::chrono::steady_clock::now() + kDuelMax;
  for (std::uint32_t i = 0; i < options.rounds; ++i) {
    if (i > 0 && std::chrono::steady_clock::now() > end) break;
    auto theirs = run_round(redis, options);
    if (!theirs) return theirs.error();
    auto own = run_round(ours, options);
    if (!own) return own.error();
    theirs_rounds.push_back(std::move(theirs).value());
    our_rounds.push_back(std::move(own).value());
  }
  for (std::size_t i = 0; i < ours.settings.size(); ++i) {
    for (const char* test : {"SET", "GET"}) {
      const Setting& setting = ours.settings[i];
      const std::vector<double> rates = collect(our_rounds, i, test, &Figures::per_second);
      const std::vector<double> others = collect(theirs_rounds, i, test, &Figures::per_second);
      std::vector<double> ratios;
      for (std::size_t r = 0; r < rates.size(); ++r) ratios.push_back(rates[r] / others[r]);
      Result result;
      result.experiment = "redis";
      result.label = ours.name + " " + test + " -P " + std::to_string(setting.pipeline) + " -d " +
                     std::to_string(setting.value_bytes);
      result.unit = "requests/s";
      result.has_latency = false;
      result.config = {{"server", ours.name},
                       {"test", test},
                       {"pipeline", std::to_string(setting.pipeline)},
                       {"value_bytes", std::to_string(setting.value_bytes)},
                       {"connections", "50"},
                       {"rounds", std::to_string(rates.size())},
                       {"requests", std::to_string(setting.requests)},
                       {"acceptors", "3"},
                       {"replicas", "2"},
                       {"durability", "memory"},
                       {"transport", processes ? "udp" : "local"}};
      result.per_second = median(rates);
      const double ratio = median(ratios);
      result.extra["ratio"] = ratio;
      result.extra["ratio_least"] = *std::min_element(ratios.begin(), ratios.end());
      result.extra["ratio_most"] = *std::max_element(ratios.begin(), ratios.end());
      result.extra["redis_requests_per_second"] = median(others);
      for (const auto& [name, rounds] : {std::pair{"", &our_rounds}, {"redis_", &theirs_rounds}}) {
        const std::string prefix = name;
        result.extra[prefix + "p50_us"] = median(collect(*rounds, i, test, &Figures::p50_us));
        result.extra[prefix + "p99_us"] = median(collect(*rounds, i, test, &Figures::p99_us));
      }
      result.targets.push_back(target_of(processes, setting.pipeline, ratio));
      if (Status added = report.add(result); !added) return added;
    }
  }
  return {};
}

Status run_redis(const RedisOptions& options, Report& report) {
  for (const auto& [program, package] :
       {std::pair{"redis-server", "redis-server"}, {"redis-benchmark", "redis-tools"}}) {
    if (Status found = require_program(program, package); !found) return found;
  }
  const ScratchDirectory directory;
  if (directory.path().empty()) return Error{"no directory can be made in $TMPDIR or /tmp"};
  std::vector<Setting> settings;
  for (const std::uint32_t pipeline : options.pipelines) {
    for (const std::uint32_t bytes : options.value_bytes) settings.push_back({pipeline, bytes});
  }
  Contestant redis{"redis-server",
                   [](const std::string& port) -> std::vector<std::string> {
                     return {"redis-server", "--port", port,    "--bind", "127.0.0.1", "--save", "",
                             "--appendonly", "no",     "--dir", "/"};
                   },
                   "Ready to accept connections", settings};
  if (options.embedded) {
    Contestant ours{"embedded",
                    [](const std::string& port) -> std::vector<std::string> {
                      return {"annulus", "dev", "--port", port};
                    },
                    "\nready\n", settings};
    if (Status done = run_duel(redis, ours, false, options, report); !done) return done;
  }
  if (!options.processes) return {};
  Contestant ours{"processes",
                  [&](const std::string& port) -> std::vector<std::string> {
                    return {"annulus", "dev",   "--port",        port, "--processes", "--transport",
                            "udp",     "--dir", directory.path()};
                  },
                  "ready\n", settings};
  return run_duel(redis, ours, true, options, report);
}

}  // namespace

Experiment redis_experiment() {
  const auto options = std::make_shared<RedisOptions>();
  return {"redis",
          "redis-benchmark against the proxy, embedded and with a process a node, in turn with "
          "redis-server without persistence",
          "150 s",
          [options](CLI::App& app) {
            app.footer(
                "Takes less than 3 minutes with its defaults: rounds end early on a slow machine.");
            app.add_option("--rounds", options->rounds, "each of both servers")
                ->check(CLI::Range(1, 1'000))
                ->capture_default_str();
            app.add_option("--run-seconds", options->seconds,
                           "of SET and GET together; requests are chosen to last so long")
                ->check(CLI::Range(0.01, 60.0))
                ->capture_default_str();
            app.add_option("--pipeline", options->pipelines, "redis-benchmark's -P")
                ->capture_default_str();
            app.add_option("--value-bytes", options->value_bytes, "redis-benchmark's -d")
                ->capture_default_str();
            app.add_flag("!--no-embedded", options->embedded, "leave out the embedded cluster");
            app.add_flag("!--no-processes", options->processes,
                         "leave out the cluster with a process a node");
          },
          [options](Report& report) { return run_redis(*options, report); }};
}

}  // namespace annulus::bench
