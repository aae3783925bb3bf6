// `annulus dev --processes`: starts a process a node, says which have ended, stops them all.
#include <cstdio>

#include "tools/dev.h"
#include "tools/signals.h"

namespace annulus::tools {

Status run_dev_processes(const ProcessClusterOptions& options, const StopSignals& signals) {
  auto prepared = ProcessCluster::prepare(options);
  if (!prepared) return prepared.error();
  const ProcessCluster& cluster = prepared.value();
  ProcessFamily family(cluster.directory(), options.death_signal);
  if (Status started = cluster.start(family, signals); !started) return started;
  std::printf("ready\n");
  std::fflush(stdout);
  while (!signals.wait(200)) {
    const std::string ended = family.reap();
    if (ended.empty()) continue;
    std::printf("%s has ended; start it again with: annulus node --config %s --name %s\n",
                ended.c_str(), cluster.config().path.c_str(), ended.c_str());
    std::fflush(stdout);
  }
  return {};
}

}  // namespace annulus::tools
