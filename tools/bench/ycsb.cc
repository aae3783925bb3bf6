#include "tools/bench/ycsb.h"

namespace annulus::bench {

std::optional<WorkloadOptions> ycsb_workload(char letter, const WorkloadOptions& base) {
  WorkloadOptions options = base;
  options.experiment = "ycsb";
  options.label = std::string("workload ") + letter;
  LoadOptions& load = options.load;
  load.key_bytes = 24;
  load.value_bytes = 1'000;
  load.field_bytes = 100;
  load.distribution = Distribution::kZipfian;
  switch (letter) {
    case 'A':
      load.mix = {.read = 50, .update = 50};
      break;
    case 'B':
      load.mix = {.read = 95, .update = 5};
      break;
    case 'C':
      load.mix = {.read = 100, .update = 0};
      break;
    case 'D':
      load.mix = {.read = 95, .update = 0, .insert = 5};
      load.distribution = Distribution::kLatest;
      break;
    case 'E':
      load.service = ServiceKind::kBtree;
      load.mix = {.read = 0, .update = 0, .insert = 5, .scan = 95};
      load.scan_entries_max = 100;
      load.scan_length_uniform = true;
      break;
    case 'F':
      load.mix = {.read = 50, .update = 0, .read_modify_write = 50};
      break;
    default:
      return std::nullopt;
  }
  return options;
}

}  // namespace annulus::bench
