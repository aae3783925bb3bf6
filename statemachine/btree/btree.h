// The B-tree service. Commands and replies: btree_codec.h. State: btree_tree.h.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/btree/btree_tree.h"
#include "statemachine/service.h"

namespace annulus::statemachine::btree {

struct BtreeOptions {
  std::uint8_t service = 2;
  /// What all entries may weigh: each 32 bytes, and those with values of more than 8 bytes 16 and
  /// the value, rounded up to 16, on top.
  std::uint64_t limit_bytes = std::uint64_t{4} << 30;
};

class BtreeService final : public Service {
 public:
  explicit BtreeService(const BtreeOptions& options)
      : tree_(options.service, options.limit_bytes) {}

  const char* name() const override { return "btree"; }
  /// Footprint keys are the keys; see class_of() for their classes.
  void footprint(std::span<const std::byte> body, Footprint& footprint) const override;
  void execute(std::span<const Command> commands, Replies& replies) override;

  SegmentStore& segments() override { return tree_.segments(); }
  Status on_segments_installed() override { return tree_.rebuild(); }
  std::uint32_t key_classes() const override { return kKeyClasses; }
  void hashes(std::span<ContentHash> per_class) const override { tree_.hashes(per_class); }
  void recompute_hashes(std::span<ContentHash> per_class) const override {
    tree_.recompute_hashes(per_class);
  }

 private:
  /// How many commands are looked up together, so that their cache misses overlap.
  static constexpr std::uint32_t kStaged = 64;
  struct Staged {
    BtreeRequest request;
    CommandStatus status{};
    BtreeTree::Cursor cursor;
  };

  void run(const Staged& staged, Replies& replies);
  void range(const Staged& staged, Replies& replies);

  BtreeTree tree_;
  std::array<Staged, kStaged> staged_;
};

}  // namespace annulus::statemachine::btree
