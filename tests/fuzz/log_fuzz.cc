// The reader of an acceptor's log, over files that were changed at will: bytes, and blocks whose
// checksum was then made right. Whatever it makes of them, it reads nothing past their ends, and
// what it recovers is what an acceptor can start from.
#include <cstring>

#include "dataplane/hash.h"
#include "recovery/acceptor_log.h"
#include "tests/support/memory_disk.h"

using namespace annulus;
using namespace annulus::recovery;
using support::MemoryDisk;
using support::Platter;

namespace {

constexpr LogIdentity kIdentity{77, consensus::NodeId{3}, 5};
constexpr std::uint64_t kBlocks = 40;

/// A log with small and large records, some of them accepted twice.
std::vector<std::byte> make_log() {
  auto platter = std::make_shared<Platter>(kLogBlocksAt + kBlocks);
  auto disk = std::make_unique<MemoryDisk>(platter);
  CHECK(AcceptorLog::format(*disk, kIdentity).ok());
  auto log = AcceptorLog::open(std::move(disk), kIdentity, {});
  CHECK(log.ok());
  dataplane::BufferPool pool(64, 65'536);
  for (std::uint64_t i = 1; i <= 30; ++i) {
    const std::uint32_t bytes = i % 5 == 0 ? 9'000 : 50 * static_cast<std::uint32_t>(i);
    consensus::Keep keep{.number = i,
                         .instance = Instance{1 + i % 25},
                         .ballot = consensus::Ballot{5 + i},
                         .chosen_below = Instance{1 + i / 2},
                         .value = {{}, 0, consensus::kAllPartitions, bytes},
                         .bytes = pool.allocate()};
    (*log)->append({&keep, 1});
    if (i % 3 == 0) (*log)->poll(static_cast<Nanos>(i) * kMillisecond);
  }
  for (std::uint64_t i = 31; i < 60; ++i) (*log)->poll(static_cast<Nanos>(i) * kMillisecond);
  return platter->bytes;
}

struct Edit {
  std::uint16_t block;
  std::uint16_t offset;
  std::uint8_t flags;  // 1: the checksum is made right; 2: the block becomes zeros
  std::uint8_t bytes[8];
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<std::byte> original = make_log();
  auto platter = std::make_shared<Platter>(kLogBlocksAt + kBlocks);
  platter->bytes = original;
  for (; size >= sizeof(Edit); data += sizeof(Edit), size -= sizeof(Edit)) {
    Edit edit;
    std::memcpy(&edit, data, sizeof edit);
    std::byte* block = platter->block(edit.block % (kLogBlocksAt + kBlocks));
    if ((edit.flags & 2) != 0) std::memset(block, 0, kBlockBytes);
    std::memcpy(block + edit.offset % (kBlockBytes - sizeof edit.bytes), edit.bytes,
                sizeof edit.bytes);
    if ((edit.flags & 1) != 0) {
      reinterpret_cast<BlockHeader*>(block)->checksum =
          dataplane::hash_bytes({block + 8, kBlockBytes - 8});
    }
  }
  auto log = AcceptorLog::open(std::make_unique<MemoryDisk>(platter), kIdentity, {});
  if (!log) return 0;
  const consensus::RecoveredAcceptor& recovered = (*log)->recovered();
  Instance last{};
  for (const auto& accepted : recovered.accepted) {
    CHECK(accepted.instance > last);
    CHECK(accepted.instance + consensus::kUndecidedMax >= recovered.chosen_below);
    CHECK(accepted.bytes.size() == accepted.value.bytes);
    last = accepted.instance;
  }
  for (std::uint64_t i = 0; i <= 30; ++i) (*log)->read({Instance{i}, 1, {}});
  consensus::LogValue value;
  for (int i = 0; i < 10; ++i) {
    (*log)->poll(i);
    while ((*log)->next_read(value)) {
    }
  }
  return 0;
}
