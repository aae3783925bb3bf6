#include "tools/bench/bench_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/ordering.h"
#include "tools/bench/report.h"

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

  bench->add_subcommand("list", "names the experiments")->callback([bench] {
    for (const CLI::App* each : bench->get_subcommands({})) {
      std::printf("%-12s %s\n", each->get_name().c_str(), each->get_description().c_str());
    }
  });
}

}  // namespace annulus::bench
