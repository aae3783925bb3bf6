// The B-tree service reads the bodies of commands that anyone may have written.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "statemachine/btree/btree.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace annulus::statemachine;
  static btree::BtreeService service(btree::BtreeOptions{.limit_bytes = 1 << 20});
  static const std::unique_ptr<std::byte[]> memory(new std::byte[8 * 65'536]);
  // Several bodies, so that one finds what another left: each after a byte that gives its length.
  Command commands[8];
  CommandHeader header{};
  std::size_t count = 0;
  for (std::size_t at = 0; at < size && count < 8; ++count) {
    const std::size_t bytes = std::min<std::size_t>(data[at], size - at - 1);
    commands[count] = {&header, std::as_bytes(std::span{data + at + 1, bytes})};
    at += 1 + bytes;
  }
  Replies::Entry entries[8];
  Replies replies({memory.get(), 8 * 65'536}, entries, 65'536);
  for (std::size_t i = 0; i < count; ++i) {
    Footprint footprint;
    service.footprint(commands[i].body, footprint);
  }
  service.execute({commands, count}, replies);
  if (replies.count() != count) __builtin_trap();
  return 0;
}
