#include "tools/bench/bench_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/ordering.h"
#include "tools/bench/report.h"
#include "tools/bench/workload.h"
#include "tools/bench/ycsb.h"

namespace annulus::bench {
namespace {

/// Prints and keeps results; the process fails if a result is void or cannot be written.
struct Output {
  std::string json;

  int finish(const std::vector<Result>& results) const {
    bool sound = true;
    for (const Result& result : results) {
      print(result);
      sound = sound && (!result.hashes_compared || result.state_hashes_equal);
    }
    if (!json.empty() && !append_json(json, results)) return 1;
    if (!sound) {
      std::fprintf(stderr, "annulus bench: replicas differ: these figures are void\n");
      return 1;
    }
    return 0;
  }
};

CLI::App* experiment(CLI::App& bench, const char* name, const char* summary, Output& output) {
  CLI::App* app = bench.add_subcommand(name, summary);
  app->add_option("--json", output.json, "append one JSON object a result to this file");
  return app;
}

/// Runs the workloads one after another; the first that fails ends the experiment.
int run_all(const std::vector<WorkloadOptions>& workloads, const Output& output) {
  std::vector<Result> results;
  for (const WorkloadOptions& workload : workloads) {
    auto result = run_workload(workload);
    if (!result) {
      std::fprintf(stderr, "annulus bench %s: %s\n", workload.experiment.c_str(),
                   result.error().message.c_str());
      return 1;
    }
    results.push_back(std::move(result).value());
  }
  return output.finish(results);
}

void add_load_options(CLI::App* app, WorkloadOptions& options) {
  LoadOptions& load = options.load;
  app->add_option("--keys", load.keys, "records")->capture_default_str();
  app->add_option("--key-bytes", load.key_bytes, "of each key")->capture_default_str();
  app->add_option("--value-bytes", load.value_bytes, "of each value")->capture_default_str();
  app->add_option("--clients", load.clients, "sessions")->capture_default_str();
  app->add_option("--window", load.window, "commands outstanding a session")->capture_default_str();
  app->add_option("--batch", options.batch, "commands a batch")->capture_default_str();
  app->add_option("--rate", load.rate, "commands a second, open loop; 0: closed loop");
  app->add_option("--acceptors", options.acceptors, "2f+1")->capture_default_str();
  app->add_option("--replicas", options.replicas, "that execute")->capture_default_str();
  app->add_option("--mtu", options.mtu, "of the in-process network")->capture_default_str();
  app->add_option("--seconds", options.seconds, "measured")->capture_default_str();
  app->add_option("--warmup", options.warmup, "seconds before")->capture_default_str();
  app->add_option_function<std::string>(
         "--mode",
         [&options](const std::string& mode) {
           options.mode = mode == "smr" ? tools::Mode::kSmr : tools::Mode::kClientServer;
         },
         "smr or client-server")
      ->check(CLI::IsMember({"smr", "client-server"}));
}

void add_workload(CLI::App& bench, Output& output, int& status) {
  const auto options = std::make_shared<WorkloadOptions>();
  CLI::App* app = experiment(bench, "workload", "the general experiment: any mix", output);
  add_load_options(app, *options);
  app->add_option_function<std::string>(
         "--service",
         [options](const std::string& name) {
           options->load.service = name == "kv" ? ServiceKind::kKv : ServiceKind::kBtree;
           options->load.service_id = name == "kv" ? 1 : 2;
         },
         "kv or btree")
      ->check(CLI::IsMember({"kv", "btree"}));
  Mix& mix = options->load.mix;
  app->add_option("--read", mix.read, "percent of commands");
  app->add_option("--update", mix.update, "percent of commands")->capture_default_str();
  app->add_option("--insert", mix.insert, "percent of commands");
  app->add_option("--scan", mix.scan, "percent of commands (btree)");
  app->add_option("--remove", mix.remove, "percent of commands");
  app->callback([=, &output, &status] {
    const Mix& m = options->load.mix;
    if (m.read + m.update + m.insert + m.scan + m.read_modify_write + m.remove != 100) {
      throw CLI::ValidationError("--read, --update, --insert, --scan and --remove",
                                 "must come to 100 percent in all");
    }
    status = run_all({*options}, output);
  });
}

void add_updates(CLI::App& bench, Output& output, int& status) {
  const auto options = std::make_shared<WorkloadOptions>();
  options->experiment = "updates";
  options->load.keys = 10'000'000;
  CLI::App* app =
      experiment(bench, "updates", "8 B / 8 B updates, batch 50, beside client-server", output);
  add_load_options(app, *options);
  app->callback([=, &output, &status] {
    WorkloadOptions alone = *options;
    alone.mode = tools::Mode::kClientServer;
    alone.label = "client-server";
    WorkloadOptions replicated = *options;
    replicated.label = "replicated";
    status = run_all({replicated, alone}, output);
  });
}

void add_latency(CLI::App& bench, Output& output, int& status) {
  const auto options = std::make_shared<WorkloadOptions>();
  options->experiment = "latency";
  options->load.clients = options->load.window = 1;
  options->load.keys = 10'000;
  CLI::App* app = experiment(bench, "latency",
                             "one command at a time, idle cluster, beside client-server", output);
  add_load_options(app, *options);
  app->callback([=, &output, &status] {
    WorkloadOptions alone = *options;
    alone.mode = tools::Mode::kClientServer;
    alone.label = "client-server";
    WorkloadOptions replicated = *options;
    replicated.label = "replicated";
    status = run_all({replicated, alone}, output);
  });
}

void add_ycsb(CLI::App& bench, Output& output, int& status) {
  const auto options = std::make_shared<WorkloadOptions>();
  const auto letters = std::make_shared<std::string>("ABCDEF");
  options->load.keys = 1'000'000;
  CLI::App* app = experiment(bench, "ycsb", "YCSB core workloads A to F", output);
  app->add_option("--workloads", *letters, "letters")->capture_default_str();
  app->add_option("--keys", options->load.keys, "records")->capture_default_str();
  app->add_option("--seconds", options->seconds, "measured, each")->capture_default_str();
  app->callback([=, &output, &status] {
    std::vector<WorkloadOptions> workloads;
    for (const char letter : *letters) {
      auto workload = ycsb_workload(letter, options->load.keys);
      if (!workload) throw CLI::ValidationError("--workloads", "letters are A to F");
      workload->seconds = options->seconds;
      workloads.push_back(*workload);
    }
    status = run_all(workloads, output);
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
  const auto output = std::make_shared<Output>();

  const auto ordering = std::make_shared<OrderingOptions>();
  CLI::App* o =
      experiment(*bench, "ordering", "values decided and delivered, nothing executed", *output);
  o->add_option("--value-bytes", ordering->value_bytes, "bytes a value")->capture_default_str();
  o->add_option("--window", ordering->window, "values outstanding")->capture_default_str();
  o->add_option("--mtu", ordering->mtu, "of the in-process network")->capture_default_str();
  o->add_option("--seconds", ordering->seconds, "measured")->capture_default_str();
  o->add_option("--warmup", ordering->warmup, "seconds before")->capture_default_str();
  o->callback([=, &status] { status = output->finish({run_ordering(*ordering)}); });

  add_workload(*bench, *output, status);
  add_updates(*bench, *output, status);
  add_latency(*bench, *output, status);
  add_ycsb(*bench, *output, status);

  bench->add_subcommand("list", "names the experiments")->callback([bench] {
    for (const CLI::App* each : bench->get_subcommands({})) {
      std::printf("%-12s %s\n", each->get_name().c_str(), each->get_description().c_str());
    }
  });
}

}  // namespace annulus::bench
