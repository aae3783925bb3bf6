// A simulated disk under the production log of one acceptor: transfers end after a time drawn from
// the seed, in any order, and a crash leaves of the writes under way whatever sectors it likes.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "recovery/disk.h"
#include "tests/sim/rng.h"
#include "tests/sim/world.h"

namespace annulus::sim {

/// How long transfers take.
struct DiskQuality {
  Nanos latency_min = 20 * kMicrosecond;
  Nanos latency_max = 100 * kMicrosecond;
  std::uint32_t slow_ppm = 0;  // of transfers, taking up to a hundred times as long
};

/// What happened to transfers and blocks, over the life of a platter.
enum class DiskEvent : std::uint8_t {
  kWritten,
  kRead,
  kOvertaken,  // a write that was done before one begun earlier
  kLost,       // at a crash, with nothing of it on the platter
  kTorn,
  kFailed,
  kCorrupted,
  kMisdirected,
  kCount,
};
const char* to_string(DiskEvent event);

/// What outlives a crash: the blocks, and how the drive behaves.
class Platter {
 public:
  static constexpr std::uint32_t kSectorBytes = 512;

  Platter(std::uint64_t blocks, const DiskQuality& drive, Rng chance)
      : rng(chance), quality(drive), blocks_(blocks) {}

  std::uint64_t blocks() const { return blocks_.size(); }
  void read(std::uint64_t offset, std::span<std::byte> into) const;
  /// Whole sectors.
  void write(std::uint64_t offset, std::span<const std::byte> from);

  /// Spoils some of what no write under way can explain as torn: log blocks that the superblock
  /// says are durable, or one copy of the superblock if the other is whole.
  void damage(std::uint64_t choice);
  /// After so many writes one fails.
  void fail_writes(std::uint32_t after) { fail_after = after + 1; }
  /// None does any more.
  void mend() { fail_after = 0; }

  void add(DiskEvent event) { ++events_[static_cast<std::size_t>(event)]; }
  std::uint64_t count(DiskEvent event) const { return events_[static_cast<std::size_t>(event)]; }

  Rng rng;
  const DiskQuality quality;
  std::uint32_t fail_after = 0;  // counts down to the write that fails; 0: none does

 private:
  using Block = std::array<std::byte, recovery::kBlockBytes>;
  void damage_block(std::uint64_t block, Rng& choice, std::uint64_t log_blocks);

  std::vector<std::unique_ptr<Block>> blocks_;  // null: zeros
  std::array<std::uint64_t, static_cast<std::size_t>(DiskEvent::kCount)> events_{};
};

class SimDisk final : public recovery::Disk {
 public:
  /// `failed` is told when the log hears that a write failed.
  SimDisk(std::shared_ptr<Platter> platter, const World& world, Failure& failure,
          std::function<void()> failed)
      : platter_(std::move(platter)),
        world_(world),
        failure_(failure),
        failed_(std::move(failed)) {}

  std::uint64_t bytes() const override { return platter_->blocks() * recovery::kBlockBytes; }
  const std::string& name() const override { return name_; }
  Status read(std::uint64_t offset, std::span<std::byte> into) override;
  Status write(std::uint64_t offset, std::span<const std::byte> from) override;
  Status attach(std::span<std::byte> memory) override;
  void start(const recovery::Transfer& transfer) override;
  void submit() override {}
  std::uint32_t done(std::span<recovery::TransferDone> into) override;

  /// The machine crashed: mostly, some of the writes under way are lost or torn.
  void lose_power();

 private:
  struct Pending {
    recovery::Transfer transfer;
    std::vector<std::byte> data;  // of a write, as it was when it began
    Nanos due = 0;
  };
  void keep_part(const Pending& write);
  std::int64_t finish(const Pending& pending);

  std::shared_ptr<Platter> platter_;
  const World& world_;
  Failure& failure_;
  std::function<void()> failed_;
  std::string name_ = "simulated disk";
  std::span<std::byte> memory_;
  std::vector<Pending> pending_;  // in the order in which they began
};

}  // namespace annulus::sim
