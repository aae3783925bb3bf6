// A disk in memory whose writes are under way until the test says so, and which can lose power in
// the midst of them.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "recovery/disk.h"

namespace annulus::support {

using recovery::kBlockBytes;

/// What is left when the power goes.
struct Platter {
  explicit Platter(std::uint64_t blocks) : bytes(blocks * kBlockBytes) {}
  std::vector<std::byte> bytes;
  std::byte* block(std::uint64_t index) { return bytes.data() + index * kBlockBytes; }
};

class MemoryDisk final : public recovery::Disk {
 public:
  static constexpr std::uint32_t kSectorBytes = 512;

  struct Write {
    std::uint64_t offset = 0;
    std::vector<std::byte> data;
    std::uint32_t token = 0;
  };

  explicit MemoryDisk(std::shared_ptr<Platter> platter) : platter_(std::move(platter)) {}

  std::uint64_t bytes() const override { return platter_->bytes.size(); }
  const std::string& name() const override { return name_; }
  Status read(std::uint64_t offset, std::span<std::byte> into) override {
    CHECK(offset + into.size() <= platter_->bytes.size());
    std::memcpy(into.data(), platter_->bytes.data() + offset, into.size());
    return {};
  }
  Status write(std::uint64_t offset, std::span<const std::byte> from) override {
    std::memcpy(platter_->bytes.data() + offset, from.data(), from.size());
    return {};
  }
  Status attach(std::span<std::byte>) override { return {}; }
  void start(const recovery::Transfer& transfer) override {
    CHECK(transfer.offset % kBlockBytes == 0 && transfer.bytes % kBlockBytes == 0);
    CHECK(transfer.bytes != 0 && transfer.offset + transfer.bytes <= bytes());
    if (!transfer.write) {
      std::memcpy(transfer.data, platter_->bytes.data() + transfer.offset, transfer.bytes);
      done_.push_back({transfer.token, transfer.bytes});
      return;
    }
    writes_.push_back(
        {transfer.offset, {transfer.data, transfer.data + transfer.bytes}, transfer.token});
    if (!hold) complete(writes_.size() - 1);
  }
  void submit() override {}
  std::uint32_t done(std::span<recovery::TransferDone> into) override {
    const auto count = std::min(into.size(), done_.size());
    std::copy_n(done_.begin(), count, into.begin());
    done_.erase(done_.begin(), done_.begin() + static_cast<std::ptrdiff_t>(count));
    return static_cast<std::uint32_t>(count);
  }

  /// Ends one of the writes under way, with success or with `result`.
  void complete(std::size_t index, std::int64_t result = 0) {
    const Write write = std::move(writes_[index]);
    writes_.erase(writes_.begin() + static_cast<std::ptrdiff_t>(index));
    const auto size = static_cast<std::int64_t>(write.data.size());
    if (result == 0) std::memcpy(platter_->bytes.data() + write.offset, write.data.data(), size);
    done_.push_back({write.token, result == 0 ? size : result});
  }
  const std::vector<Write>& writes() const { return writes_; }

  /// Of each write under way any set of sectors is on the platter.
  void lose_power(std::mt19937_64& random) {
    for (const Write& write : writes_) {
      const auto kind = random() % 3;  // nothing, everything, or torn
      for (std::size_t at = 0; kind != 0 && at < write.data.size(); at += kSectorBytes) {
        if (kind == 2 && random() % 2 == 0) continue;
        std::memcpy(platter_->bytes.data() + write.offset + at, write.data.data() + at,
                    kSectorBytes);
      }
    }
    writes_.clear();
  }

  bool hold = false;  // writes stay under way until complete()

 private:
  std::shared_ptr<Platter> platter_;
  std::string name_ = "disk";
  std::vector<Write> writes_;
  std::vector<recovery::TransferDone> done_;
};

}  // namespace annulus::support
