#include "tools/bench/key_chooser.h"

#include <bit>
#include <cmath>

#include "dataplane/result.h"

namespace annulus::bench {
namespace {

// YCSB draws the rank of its scrambled distribution from so many items, whatever the number of
// records, and knows their sum of 1/rank^theta.
constexpr std::uint64_t kScrambledItems = 10'000'000'000;
constexpr double kScrambledZeta = 26.46902820178302;

Zipfian make_zipfian(Distribution distribution, std::uint64_t records) {
  return distribution == Distribution::kLatest ? Zipfian(records)
                                               : Zipfian(kScrambledItems, kScrambledZeta);
}

}  // namespace

Zipfian::Zipfian(std::uint64_t n) : n_(0), zeta_(0), zeta2_(1 + std::pow(0.5, kTheta)) { grow(n); }

Zipfian::Zipfian(std::uint64_t n, double zeta)
    : n_(n), zeta_(zeta), zeta2_(1 + std::pow(0.5, kTheta)) {
  derive();
}

void Zipfian::grow(std::uint64_t n) {
  for (std::uint64_t i = n_ + 1; i <= n; ++i)
    zeta_ += std::pow(1.0 / static_cast<double>(i), kTheta);
  n_ = n;
  derive();
}

void Zipfian::derive() {
  alpha_ = 1 / (1 - kTheta);
  eta_ = (1 - std::pow(2.0 / static_cast<double>(n_), 1 - kTheta)) / (1 - zeta2_ / zeta_);
}

std::uint64_t Zipfian::next(Random& random) {
  const double u = random.unit();
  const double scaled = u * zeta_;
  if (scaled < 1) return 0;
  if (scaled < zeta2_) return 1;
  const double rank = static_cast<double>(n_) * std::pow(eta_ * u - eta_ + 1, alpha_);
  const auto chosen = static_cast<std::uint64_t>(rank);
  return chosen < n_ ? chosen : n_ - 1;
}

KeyChooser::KeyChooser(Distribution distribution, std::uint64_t records, std::uint64_t seed,
                       std::uint32_t inserts_max)
    : distribution_(distribution),
      records_(records),
      inserted_(records),
      range_(records + records / 10),
      acknowledged_(std::bit_ceil(inserts_max)),
      random_(seed),
      zipfian_(make_zipfian(distribution, records)) {}

std::uint64_t KeyChooser::next() {
  switch (distribution_) {
    case Distribution::kUniform:
      return random_.below(records_);
    // Scrambled: the popular records lie all over the key space. The range includes records yet to
    // be inserted, so that an insert does not change which ones are popular.
    case Distribution::kZipfian:
      while (true) {
        const std::uint64_t record = Random::mix(zipfian_.next(random_)) % range_;
        if (record < records_) return record;
      }
    case Distribution::kLatest:
      return records_ - 1 - zipfian_.next(random_);
  }
  return 0;
}

void KeyChooser::acknowledge(std::uint64_t record) {
  const std::uint64_t mask = acknowledged_.size() - 1;
  DCHECK(record >= records_ && record - records_ <= mask);
  acknowledged_[record & mask] = true;
  while (acknowledged_[records_ & mask]) {
    acknowledged_[records_ & mask] = false;
    ++records_;
  }
  if (distribution_ == Distribution::kLatest) zipfian_.grow(records_);
}

}  // namespace annulus::bench
