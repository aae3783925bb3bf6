// The content hash on processors that have wider vectors than the build's -march: the same value,
// in less time. Only dataplane/hash.cc calls it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace annulus::dataplane {

/// Of this processor.
bool hash_wide_supported();
/// Where it is supported only.
std::uint64_t hash_wide(const void* bytes, std::size_t size, std::uint64_t seed);

}  // namespace annulus::dataplane
