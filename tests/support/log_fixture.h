// One acceptor's log over a disk in memory, and what a test keeps in it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>

#include "dataplane/hash.h"
#include "recovery/acceptor_log.h"
#include "tests/support/memory_disk.h"

namespace annulus::support {

using namespace annulus::recovery;
using consensus::Ballot;
using consensus::Keep;
using consensus::NodeId;

class LogTest : public testing::Test {
 protected:
  static constexpr LogIdentity kIdentity{77, NodeId{3}, 5};
  static constexpr std::uint32_t kValueMax = 65'536;

  void format(std::uint64_t blocks) {
    platter_ = std::make_shared<Platter>(kLogBlocksAt + blocks);
    MemoryDisk disk(platter_);
    ASSERT_TRUE(AcceptorLog::format(disk, kIdentity).ok());
  }
  /// Opens what is on the platter; the error, if that fails.
  std::string open(std::uint32_t depth = 4) {
    log_.reset();
    auto disk = std::make_unique<MemoryDisk>(platter_);
    disk_ = disk.get();
    auto opened =
        AcceptorLog::open(std::move(disk), kIdentity,
                          {.value_bytes_max = kValueMax, .keeps_max = 2'048, .depth = depth});
    if (!opened) return opened.error().message;
    log_ = std::move(opened).value();
    number_ = 0;
    return "";
  }

  /// Bytes that differ between any two (instance, ballot, size).
  static std::vector<std::byte> content(std::uint64_t instance, std::uint64_t ballot,
                                        std::uint32_t bytes) {
    std::vector<std::byte> made(bytes);
    std::mt19937_64 random(instance * 1'000 + ballot);
    for (std::size_t i = 0; i < made.size(); i += 8) {
      const std::uint64_t word = random();
      std::memcpy(made.data() + i, &word, std::min<std::size_t>(8, made.size() - i));
    }
    return made;
  }
  static consensus::Value value_of(std::span<const std::byte> bytes) {
    return {{NodeId{9}, 1, 1},
            dataplane::hash_bytes(bytes),
            consensus::kAllPartitions,
            static_cast<std::uint32_t>(bytes.size())};
  }
  void accept(std::uint64_t instance, std::uint64_t ballot, std::uint64_t chosen_below,
              std::uint32_t bytes) {
    const auto made = content(instance, ballot, bytes);
    Keep keep{++number_, Instance{instance}, Ballot{ballot}, Instance{chosen_below}, value_of(made),
              {}};
    if (bytes != 0) {
      keep.bytes = pool_.allocate();
      std::memcpy(keep.bytes.mutable_data(), made.data(), bytes);
      keep.bytes.truncate(bytes);
    }
    log_->append({&keep, 1});
  }
  void promise(std::uint64_t ballot) {
    Keep keep{.number = ++number_, .ballot = Ballot{ballot}};
    log_->append({&keep, 1});
  }
  consensus::LogProgress poll(Nanos later = kMicrosecond) {
    now_ += later;
    return log_->poll(now_);
  }
  /// Writes what was kept, and lets the superblock cover it.
  void rest() {
    for (int i = 0; i < 20; ++i) poll(kMillisecond);
    ASSERT_FALSE(poll().busy);
  }
  /// The ballot at which the log has an instance, its content checked; 0 if it has none.
  std::uint64_t read(std::uint64_t instance) {
    consensus::LogValue value;
    log_->read({Instance{instance}, 1, {}});
    for (int i = 0; i < 4; ++i) {
      poll();
      if (!log_->next_read(value)) continue;
      EXPECT_EQ(value.wanted.instance, Instance{instance});
      if (value.ballot == consensus::kNoBallot) return 0;
      const auto made = content(instance, raw(value.ballot), value.value.bytes);
      EXPECT_EQ(value.value, value_of(made));
      EXPECT_TRUE(std::ranges::equal(value.bytes.bytes(), made));
      return raw(value.ballot);
    }
    return 0;
  }
  std::byte* log_block(std::uint64_t position) { return platter_->block(kLogBlocksAt + position); }
  void corrupt(std::uint64_t position) { log_block(position)[1'000] ^= std::byte{1}; }

  std::shared_ptr<Platter> platter_;
  MemoryDisk* disk_ = nullptr;
  std::unique_ptr<AcceptorLog> log_;
  dataplane::BufferPool pool_{4'096, kValueMax};
  std::uint64_t number_ = 0;
  Nanos now_ = kSecond;
};

}  // namespace annulus::support
