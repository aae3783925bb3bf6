// The command line: one subcommand each from its own file; nothing else here.
#include <CLI/CLI.hpp>

#include "tools/bench/bench_command.h"
#include "tools/chaos/chaos_command.h"
#include "tools/cluster_command.h"
#include "tools/config_command.h"
#include "tools/demo_command.h"
#include "tools/dev.h"
#include "tools/hub.h"
#include "tools/inspect_command.h"
#include "tools/node_command.h"
#include "tools/sim_command.h"
#include "tools/top.h"

int main(int argc, char** argv) {
  CLI::App app("Annulus: state-machine replication by Ring Paxos over poll-mode queues.",
               "annulus");
  app.require_subcommand(1);
  int status = 0;
  annulus::tools::add_demo_command(app, status);
  annulus::tools::add_dev_command(app, status);
  annulus::tools::add_node_commands(app, status);
  annulus::tools::add_cluster_command(app, status);
  annulus::bench::add_bench_command(app, status);
  annulus::tools::add_hub_command(app, status);
  annulus::tools::add_sim_command(app, status);
  annulus::chaos::add_chaos_command(app, status);
  annulus::tools::add_top_command(app, status);
  annulus::tools::add_config_command(app, status);
  annulus::tools::add_inspect_command(app, status);
  CLI11_PARSE(app, argc, argv);
  return status;
}
