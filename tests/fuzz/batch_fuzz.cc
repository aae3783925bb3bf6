// Arbitrary bytes into the parsers of batches and atomic groups: what they accept lies within the
// input.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/result.h"
#include "statemachine/batch.h"

using namespace annulus::statemachine;

namespace {

void check_within(std::span<const std::byte> part, std::span<const std::byte> whole) {
  CHECK(part.data() >= whole.data());
  CHECK(part.data() + part.size() <= whole.data() + whole.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static std::array<Command, kCommandsPerBatchMax> commands;
  static std::array<AtomicCommand, kAtomicPartsMax> parts;
  const auto bytes = std::as_bytes(std::span{data, size});
  std::uint32_t count = 0;
  if (parse_batch(bytes, commands, count)) {
    for (const Command& command : std::span{commands}.first(count)) {
      check_within(command.body, bytes);
    }
  }
  if (parse_atomic(bytes, parts, count)) {
    for (const AtomicCommand& part : std::span{parts}.first(count)) check_within(part.body, bytes);
  }
  return 0;
}
