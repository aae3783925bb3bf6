// The ordering path alone: values are decided and delivered to two learners, nothing is executed.
#pragma once

#include <cstdint>

#include "dataplane/result.h"
#include "tools/bench/report.h"

namespace annulus::bench {

struct OrderingOptions {
  std::uint32_t value_bytes = 8'192;
  std::uint32_t window = 64;  // values outstanding
  double seconds = 5;
  double warmup = 1;
  std::uint32_t mtu = 9'000;
};

/// Three acceptors and two learners over `local`, on at most two cores: acceptors and proposer on
/// one, learners on the other. Every value has its own content, hashed by the proposer, and by
/// every receiver when it opens the frame.
Result run_ordering(const OrderingOptions& options);

}  // namespace annulus::bench
