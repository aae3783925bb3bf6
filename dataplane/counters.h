// The registry: every figure Annulus reports about itself. One writer each, always on, read by any
// thread at any time. Telemetry socket, `annulus top` and benchmark files all read this registry.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/result.h"

namespace annulus::dataplane {

/// A 64-bit figure with one writing thread; a relaxed load and store, no locked instruction.
class Counter {
 public:
  void add(std::uint64_t by = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }
  void set(std::uint64_t value) { value_.store(value, std::memory_order_relaxed); }
  std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// The labels of an enum of counters; specialise beside the enum. The array's size ties the two.
template <typename Enum>
struct CounterNames {
  static const std::array<const char*, static_cast<std::size_t>(Enum::kCount)> names;
};

/// One group of counters: an enum's worth, cache-line aligned so that two writers never share a
/// line.
template <typename Enum>
class alignas(64) Counters {
 public:
  static constexpr std::size_t kSize = static_cast<std::size_t>(Enum::kCount);
  Counter& operator[](Enum which) { return values_[static_cast<std::size_t>(which)]; }
  const Counter& operator[](Enum which) const { return values_[static_cast<std::size_t>(which)]; }
  std::span<const Counter> values() const { return values_; }
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wundefined-var-template"  // defined in the .cc beside the enum
#endif
  static std::span<const char* const> names() { return CounterNames<Enum>::names; }
#if defined(__clang__)
#pragma clang diagnostic pop
#endif

 private:
  std::array<Counter, kSize> values_;
};

/// Log-linear histogram of nanoseconds (or any count): 32 buckets an octave, so a quantile is off
/// by at most 3 %. Single writer; snapshot() from any thread.
class Histogram {
 public:
  static constexpr std::uint32_t kSubBits = 5;
  static constexpr std::uint32_t kBuckets = (64 - kSubBits + 1) << kSubBits;

  void record(std::uint64_t value) {
    buckets_[bucket_of(value)].add();
    if (value > max_.get()) max_.set(value);
  }

  struct Snapshot {
    std::vector<std::uint64_t> buckets;
    std::uint64_t count = 0;
    std::uint64_t max = 0;
    /// The value at or below which `quantile` (0..1) of the records lie; 0 without records.
    std::uint64_t at(double quantile) const;
    /// This snapshot less an earlier one of the same histogram (max stays that of the whole).
    Snapshot since(const Snapshot& earlier) const;
    void merge(const Snapshot& other);
  };
  Snapshot snapshot() const;

  static std::uint32_t bucket_of(std::uint64_t value) {
    if (value < (1u << kSubBits)) return static_cast<std::uint32_t>(value);
    const std::uint32_t octave = 63 - static_cast<std::uint32_t>(std::countl_zero(value));
    const auto sub =
        static_cast<std::uint32_t>(value >> (octave - kSubBits)) & ((1u << kSubBits) - 1);
    return ((octave - kSubBits + 1) << kSubBits) + sub;
  }
  /// Largest value that falls into the bucket.
  static std::uint64_t bucket_top(std::uint32_t bucket);

 private:
  std::array<Counter, kBuckets> buckets_;
  Counter max_;
};

/// Every group, gauge and histogram of a process, by name. Groups register at start-up and must
/// outlive the registry's readers, or be removed first. Registration and reading take a lock;
/// counting does not.
class Registry {
 public:
  struct Group {
    std::string node;   // "acceptor1"
    std::string stage;  // "network"
    std::span<const char* const> names;
    std::span<const Counter> values;
  };
  /// A figure read when it is asked for, such as the occupancy of a ring.
  struct Gauge {
    std::string node;
    std::string stage;
    std::string name;                     // "deliveries_waiting"
    std::function<std::uint64_t()> read;  // called by any thread
  };
  struct NamedHistogram {
    std::string node;
    std::string name;  // "ordered_ns"
    const Histogram* histogram;
  };

  template <typename Enum>
  void add(std::string node, std::string stage, const Counters<Enum>& counters) {
    CHECK(Counters<Enum>::names().back() != nullptr);  // a name for each: short lists end in null
    const std::lock_guard lock(mutex_);
    groups_.push_back(
        {std::move(node), std::move(stage), Counters<Enum>::names(), counters.values()});
  }
  void add(std::string node, std::string name, const Histogram& histogram) {
    const std::lock_guard lock(mutex_);
    histograms_.push_back({std::move(node), std::move(name), &histogram});
  }
  void add(Gauge gauge) {
    const std::lock_guard lock(mutex_);
    gauges_.push_back(std::move(gauge));
  }
  /// Forgets everything of a node that is about to be destroyed.
  void remove(const std::string& node);

  /// Copies, so that a reader never holds the lock.
  std::vector<Group> groups() const;
  std::vector<Gauge> gauges() const;
  std::vector<NamedHistogram> histograms() const;

 private:
  mutable std::mutex mutex_;
  std::vector<Group> groups_;
  std::vector<Gauge> gauges_;
  std::vector<NamedHistogram> histograms_;
};

}  // namespace annulus::dataplane
