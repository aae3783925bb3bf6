// The one content hash: XXH3, 64 bits. Guards frames, names contents, and feeds state hashes.
// It finds corruption, not forgery; the frame's authentication tag is for that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace annulus::dataplane {

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed = 0);

}  // namespace annulus::dataplane
