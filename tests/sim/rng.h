// The simulator's only source of chance: one 64-bit seed, the same numbers on every machine.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace annulus::sim {

/// SplitMix64: turns any seed, however regular, into well-mixed words.
inline std::uint64_t split_mix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// xoshiro256**. Copies continue independently from the same point; fork() gives a stream of its
/// own, so that drawing more in one part of the world does not shift every other part.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) {
    for (std::uint64_t& word : state_) word = split_mix(seed);
  }

  std::uint64_t next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  Rng fork() { return Rng(next()); }

  /// Uniform in [0, bound); bound > 0. Multiply-shift: the bias is far below what a test can see.
  std::uint64_t below(std::uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64);
  }
  /// Uniform in [first, last].
  std::int64_t between(std::int64_t first, std::int64_t last) {
    return first + static_cast<std::int64_t>(below(static_cast<std::uint64_t>(last - first) + 1));
  }
  /// True `per_million` times in a million.
  bool chance(std::uint32_t per_million) { return below(1'000'000) < per_million; }
  bool coin() { return (next() >> 63) != 0; }

 private:
  std::array<std::uint64_t, 4> state_;
};

}  // namespace annulus::sim
