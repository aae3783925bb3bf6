// Which record a generated command is about: uniform, Zipfian or latest-first, as YCSB specifies
// them (Cooper et al., SoCC 2010). Seeded; the same seed gives the same sequence.
#pragma once

#include <cstdint>
#include <vector>

namespace annulus::bench {

/// SplitMix64 (Steele et al., OOPSLA 2014): fast, and good enough for load.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ull); }
  /// Uniform in [0, bound).
  std::uint64_t below(std::uint64_t bound) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(Wide{next()} * bound >> 64);
  }
  /// Uniform in [0, 1).
  double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

/// Ranks 0..n-1 with probability proportional to 1/(rank+1)^theta (Gray et al., SIGMOD 1994).
class Zipfian {
 public:
  static constexpr double kTheta = 0.99;
  explicit Zipfian(std::uint64_t n);
  /// With the sum of 1/rank^theta over n ranks known already.
  Zipfian(std::uint64_t n, double zeta);
  std::uint64_t next(Random& random);
  /// Extends the range to n records at little cost.
  void grow(std::uint64_t n);

 private:
  void derive();
  std::uint64_t n_;
  double zeta_;
  double zeta2_;
  double alpha_;
  double eta_;
};

enum class Distribution : std::uint8_t { kUniform, kZipfian, kLatest };

/// Chooses among records that are known to exist: a new one counts once its insert is acknowledged,
/// and all before it are.
class KeyChooser {
 public:
  /// `inserts_max`: how far inserts may run ahead of the oldest unacknowledged one.
  KeyChooser(Distribution distribution, std::uint64_t records, std::uint64_t seed,
             std::uint32_t inserts_max);
  /// An existing record.
  std::uint64_t next();
  bool can_insert() const { return inserted_ - records_ < acknowledged_.size(); }
  /// A new record: the next number. Requires can_insert().
  std::uint64_t insert() { return inserted_++; }
  std::uint64_t inserted() const { return inserted_; }
  /// The record of an insert is there.
  void acknowledge(std::uint64_t record);
  std::uint64_t records() const { return records_; }
  Random& random() { return random_; }

 private:
  Distribution distribution_;
  std::uint64_t records_;   // all below exist
  std::uint64_t inserted_;  // numbers given out
  std::uint64_t range_;     // of the scrambled distribution: records now, and those expected
  std::vector<bool> acknowledged_;  // those from records_ on, a ring
  Random random_;
  Zipfian zipfian_;
};

}  // namespace annulus::bench
