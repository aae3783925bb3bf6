// The key-value service. Commands and replies: kv_codec.h. State: kv_table.h.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "statemachine/kv/kv_command.h"
#include "statemachine/kv/kv_table.h"
#include "statemachine/service.h"

namespace annulus::statemachine::kv {

struct KvOptions {
  std::uint8_t service = 1;
  /// What all entries may weigh: each its bytes, rounded up to 16, and 24 more. Every key class (a
  /// 256th of the keys, by hash) may use its share, so hash luck refuses a command (kNoSpace) a
  /// little before the whole is used: by about four standard deviations of a class.
  std::uint64_t limit_bytes = std::uint64_t{4} << 30;
};

class KvService final : public Service {
 public:
  explicit KvService(const KvOptions& options);

  const char* name() const override { return "kv"; }
  /// Footprint keys are key hashes; their top 8 bits are the key class.
  void footprint(std::span<const std::byte> body, Footprint& footprint) const override;
  void execute(std::span<const Command> commands, Replies& replies) override;

  SegmentStore& segments() override { return table_.segments(); }
  Status on_segment_installed(SegmentId id) override { return table_.check(id); }
  Status on_segments_installed() override { return table_.rebuild(); }
  std::uint32_t key_classes() const override { return kKeyClasses; }
  void hashes(std::span<ContentHash> per_class) const override { table_.hashes(per_class); }
  void recompute_hashes(std::span<ContentHash> per_class) const override {
    table_.recompute_hashes(per_class);
  }

 private:
  /// How many commands (or items of one) are looked up together, so that their cache misses
  /// overlap.
  static constexpr std::uint32_t kStaged = 64;
  struct Staged {
    KvCommand command;
    CommandStatus status{};
    KvTable::Probe probe;
  };
  static bool single_key(const Staged& staged) {
    return staged.status == CommandStatus::kOk && !staged.command.key.empty();
  }

  void run(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void put(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void read(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void read_range(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void remove(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void compare_and_set(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void increment(const KvCommand& command, const KvTable::Probe& probe, Replies& replies);
  void write_range(const KvCommand& command, const KvTable::Probe& probe, std::uint64_t offset,
                   Replies& replies);
  void exist(const KvCommand& command, Replies& replies);
  void read_many(const KvCommand& command, Replies& replies);
  void put_many(const KvCommand& command, Replies& replies);
  void remove_many(const KvCommand& command, Replies& replies);
  bool room_for_items(const KvCommand& command);

  template <typename Visit>
  void for_each_item(const KvCommand& command, Visit&& visit);

  KvTable table_;
  std::array<Staged, kStaged> staged_;
  std::array<std::uint64_t, kKeyClasses> wanted_{};  // of put_many: weight by class
  std::unique_ptr<std::byte[]> scratch_;             // one value
};

}  // namespace annulus::statemachine::kv
