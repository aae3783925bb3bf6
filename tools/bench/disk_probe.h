// What the disk can do by itself, measured beside an experiment that writes to it.
#pragma once

#include <string>

#include "dataplane/result.h"

namespace annulus::bench {

struct DiskFigures {
  double bytes_per_second =
      0;                   // sequential direct writes into blocks that exist, made durable once
  double sync_p50_us = 0;  // of one block, written and made durable
  double sync_p99_us = 0;
};

/// Measures in a file of its own, which is gone afterwards.
annulus::Result<DiskFigures> probe_disk(const std::string& directory);

}  // namespace annulus::bench
