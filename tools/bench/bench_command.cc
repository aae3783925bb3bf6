#include "tools/bench/bench_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/experiment.h"

namespace annulus::bench {
namespace {

/// A fifth of what the claim is about: `--minutes 10` shows all of it.
constexpr std::uint32_t kMemoryMinutes = 2;

int run(const Experiment& experiment, const std::string& json) {
  Report report(json);
  const Status done = experiment.run(report);
  if (done) return 0;
  std::fprintf(stderr, "annulus bench %s: %s\n", experiment.name.c_str(),
               done.error().message.c_str());
  return 1;
}

void add_experiment(CLI::App& bench, const Experiment& experiment, int& status) {
  CLI::App* app =
      bench.add_subcommand(experiment.name, experiment.summary + " (" + experiment.duration + ")");
  const auto json = std::make_shared<std::string>();
  app->add_option("--json", *json, "append one JSON object a result to this file");
  experiment.add_options(*app);
  app->callback([=, &status] { status = run(experiment, *json); });
}

/// Those of `annulus bench all`, in its order.
std::vector<Experiment> every_experiment() {
  return {ordering_experiment(), latency_experiment(), updates_experiment(), btree_experiment(),
          redis_experiment(),    ycsb_experiment(),    durable_experiment(), failover_experiment(),
          takeover_experiment(), catchup_experiment()};
}

void add_all(CLI::App& bench, int& status) {
  struct Options {
    std::string json = "annulus-bench.json";
    std::uint32_t minutes = kMemoryMinutes;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* app =
      bench.add_subcommand("all", "every experiment with its defaults, one after another");
  app->add_option("--json", options->json, "append one JSON object a result to this file")
      ->capture_default_str();
  app->add_option("--minutes", options->minutes, "of `memory`, which comes last")
      ->check(CLI::Range(2, 10'000))
      ->capture_default_str();
  app->callback([options, &status] {
    std::vector<Experiment> experiments = every_experiment();
    experiments.push_back(memory_experiment(std::make_shared<std::uint32_t>(options->minutes)));
    for (const Experiment& each : experiments) status |= run(each, options->json);
  });
}

void add_list(CLI::App& bench, const std::vector<Experiment>& experiments) {
  bench.add_subcommand("list", "names the experiments")->callback([experiments] {
    for (const Experiment& each : experiments) {
      std::printf("%-10s %8s  %s\n", each.name.c_str(), each.duration.c_str(),
                  each.summary.c_str());
    }
  });
}

}  // namespace

void add_bench_command(CLI::App& app, int& status) {
  CLI::App* bench =
      app.add_subcommand("bench", "measure: one experiment, a table, JSON on request");
  bench->require_subcommand(1);
#ifndef NDEBUG
  bench->parse_complete_callback([&status] {
    std::fprintf(stderr, "annulus bench: a debug build measures nothing: use buildtype release\n");
    status = 1;
    throw CLI::RuntimeError(1);
  });
#endif
  std::vector<Experiment> experiments = every_experiment();
  experiments.push_back(memory_experiment(std::make_shared<std::uint32_t>(kMemoryMinutes)));
  experiments.push_back(workload_experiment());
  for (const Experiment& each : experiments) add_experiment(*bench, each, status);
  add_all(*bench, status);
  add_list(*bench, experiments);
}

}  // namespace annulus::bench
