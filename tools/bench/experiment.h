// What `annulus bench` offers: each experiment with its options and a run that hands over results
// as they come.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/result.h"
#include "tools/bench/report.h"

namespace CLI {
class App;
}

namespace annulus::bench {

struct Experiment {
  std::string name;
  std::string summary;
  std::string duration;  // with its defaults, for `annulus bench list`
  std::function<void(CLI::App&)> add_options;
  std::function<Status(Report&)> run;
};

Experiment ordering_experiment();
Experiment workload_experiment();
Experiment updates_experiment();
Experiment latency_experiment();
Experiment btree_experiment();
Experiment redis_experiment();
Experiment ycsb_experiment();
Experiment failover_experiment();
Experiment takeover_experiment();
Experiment durable_experiment();
Experiment catchup_experiment();
/// Runs for as long as `minutes` says, which is an option of it.
Experiment memory_experiment(std::shared_ptr<std::uint32_t> minutes);

}  // namespace annulus::bench
