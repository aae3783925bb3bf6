#include "dataplane/counters.h"

#include <algorithm>
#include <cmath>

namespace annulus::dataplane {

std::uint64_t Histogram::bucket_top(std::uint32_t bucket) {
  const std::uint32_t octave = bucket >> kSubBits;
  const std::uint64_t sub = bucket & ((1u << kSubBits) - 1);
  if (octave == 0) return sub;
  const std::uint64_t width = std::uint64_t{1} << (octave - 1);
  return (((std::uint64_t{1} << kSubBits) + sub) << (octave - 1)) + width - 1;
}

Histogram::Snapshot Histogram::snapshot() const {
  Snapshot snapshot;
  snapshot.buckets.reserve(kBuckets);
  for (const Counter& bucket : buckets_) {
    snapshot.buckets.push_back(bucket.get());
    snapshot.count += snapshot.buckets.back();
  }
  snapshot.max = max_.get();
  return snapshot;
}

std::uint64_t Histogram::Snapshot::at(double quantile) const {
  const auto rank = static_cast<std::uint64_t>(std::ceil(quantile * static_cast<double>(count)));
  std::uint64_t seen = 0;
  for (std::uint32_t i = 0; i < buckets.size(); ++i) {
    seen += buckets[i];
    if (seen >= rank && seen > 0) return std::min(bucket_top(i), max);
  }
  return 0;
}

Histogram::Snapshot Histogram::Snapshot::since(const Snapshot& earlier) const {
  Snapshot difference = *this;
  difference.count -= earlier.count;
  for (std::size_t i = 0; i < earlier.buckets.size(); ++i)
    difference.buckets[i] -= earlier.buckets[i];
  return difference;
}

void Histogram::Snapshot::merge(const Snapshot& other) {
  buckets.resize(kBuckets);
  for (std::size_t i = 0; i < other.buckets.size(); ++i) buckets[i] += other.buckets[i];
  count += other.count;
  max = std::max(max, other.max);
}

void Registry::remove(const std::string& node) {
  const std::lock_guard lock(mutex_);
  std::erase_if(groups_, [&](const Group& group) { return group.node == node; });
  std::erase_if(gauges_, [&](const Gauge& gauge) { return gauge.node == node; });
  std::erase_if(histograms_, [&](const NamedHistogram& named) { return named.node == node; });
}

std::vector<Registry::Group> Registry::groups() const {
  const std::lock_guard lock(mutex_);
  return groups_;
}

std::vector<Registry::Gauge> Registry::gauges() const {
  const std::lock_guard lock(mutex_);
  return gauges_;
}

std::vector<Registry::NamedHistogram> Registry::histograms() const {
  const std::lock_guard lock(mutex_);
  return histograms_;
}

}  // namespace annulus::dataplane
