// What the disk can do by itself, measured beside an experiment that writes to it.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/result.h"

namespace annulus::bench {

struct DiskFigures {
  double bytes_per_second =
      0;                   // sequential direct writes into blocks that exist, made durable once
  double sync_p50_us = 0;  // of one block, written and made durable
  double sync_p99_us = 0;
  // Several files at once, as acceptors that share the disk write their logs, and nothing else:
  double group_bytes_per_second = 0;  // each made durable by the group
  double majority_p50_us = 0;         // a block in each: until a majority is durable
};

/// Measures in a file of its own, which is gone afterwards.
annulus::Result<DiskFigures> probe_disk(const std::string& directory, std::uint32_t logs);

}  // namespace annulus::bench
