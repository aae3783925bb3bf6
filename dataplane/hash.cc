#include "dataplane/hash.h"

#include "dataplane/hash_wide.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace annulus::dataplane {
namespace {

/// Shorter ones gain nothing.
constexpr std::size_t kWideFrom = 2'048;

const bool wide = hash_wide_supported();

}  // namespace

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed) {
  if (bytes.size() >= kWideFrom && wide) return hash_wide(bytes.data(), bytes.size(), seed);
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

}  // namespace annulus::dataplane
