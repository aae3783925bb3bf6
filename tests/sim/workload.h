// Commands drawn from a seed: few keys, many conflicts, values that name their writer, and now and
// then one that takes many frames.
#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/rng.h"
#include "tools/history/model.h"

namespace annulus::sim {

using namespace history;  // the model, and what clients saw of the cluster

/// A part of the key space, named by the letter that keys of the key-value service begin with and
/// by the range of B-tree keys.
struct KeySpace {
  char letter;
  std::uint64_t btree_first;
};
constexpr KeySpace kCommonKeys{'c', 0};
/// Keys that only values of one partition write, or values of both.
constexpr KeySpace kPartitionKeys[] = {{'a', 1'000}, {'b', 2'000}};
constexpr std::uint64_t kBtreeKeys = 150;  // of each space

struct Draw {
  std::uint8_t service = 0;
  bool read_only = false;
  std::string body;
};

struct WorkloadOptions {
  std::uint32_t kv_keys = 30;
  std::uint32_t value_bytes_max = 20'000;  // of the rare large values
  std::uint32_t large_ppm = 10'000;
  std::uint32_t read_ppm = 400'000;
  std::uint32_t btree_ppm = 350'000;
  std::uint32_t atomic_ppm = 30'000;
};

class Workload {
 public:
  Workload(Rng rng, const WorkloadOptions& options) : rng_(rng), options_(options) {}

  /// A command that touches only `space`. `writer` appears in every value it writes.
  Draw draw(const KeySpace& space, const std::string& writer);
  /// A command that spans both partitions: multi-key reads and writes, ranges, groups.
  Draw draw_across(const std::string& writer);

 private:
  Draw draw_kv(const KeySpace& space, const std::string& writer);
  Draw draw_kv_read(const KeySpace& space);
  Draw draw_kv_items(const KeySpace* spaces, std::size_t count, const std::string& writer,
                     bool read);
  Draw draw_btree(const KeySpace& space, const std::string& writer);
  Draw draw_atomic(const KeySpace* spaces, std::size_t count, const std::string& writer);
  std::string key(const KeySpace& space);
  std::string counter(const KeySpace& space);
  std::string value(const std::string& writer, std::uint32_t bytes_max);

  Rng rng_;
  WorkloadOptions options_;
};

}  // namespace annulus::sim
