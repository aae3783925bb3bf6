#include "tools/bench/key_chooser.h"

#include <cmath>

namespace annulus::bench {

Zipfian::Zipfian(std::uint64_t n) : n_(0), zeta_(0), zeta2_(1 + std::pow(0.5, kTheta)) { grow(n); }

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

KeyChooser::KeyChooser(Distribution distribution, std::uint64_t records, std::uint64_t seed)
    : distribution_(distribution),
      records_(records),
      random_(seed),
      zipfian_(distribution == Distribution::kUniform ? 2 : records) {}

std::uint64_t KeyChooser::next() {
  switch (distribution_) {
    case Distribution::kUniform:
      return random_.below(records_);
    // Scrambled: the popular records lie all over the key space.
    case Distribution::kZipfian:
      return Random::mix(zipfian_.next(random_)) % records_;
    case Distribution::kLatest:
      return records_ - 1 - zipfian_.next(random_);
  }
  return 0;
}

std::uint64_t KeyChooser::insert() {
  if (distribution_ == Distribution::kLatest) zipfian_.grow(records_ + 1);
  return records_++;
}

}  // namespace annulus::bench
