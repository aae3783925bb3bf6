#include "statemachine/batch.h"

#include <iterator>

namespace annulus::statemachine {

bool parse_batch(std::span<const std::byte> bytes, std::span<Command> commands,
                 std::uint32_t& count) {
  if (bytes.size() < sizeof(BatchHeader)) return false;
  const auto& header = *reinterpret_cast<const BatchHeader*>(bytes.data());
  if (header.version != kBatchVersion) return false;
  const std::uint32_t expected = header.count;
  if (expected > kCommandsPerBatchMax || expected > commands.size()) return false;
  std::size_t at = sizeof(BatchHeader);
  for (std::uint32_t i = 0; i < expected; ++i) {
    if (bytes.size() - at < sizeof(CommandHeader)) return false;
    const auto* command = reinterpret_cast<const CommandHeader*>(bytes.data() + at);
    const std::uint64_t body = command->bytes;
    const std::uint64_t extent = (body + 7) & ~std::uint64_t{7};
    at += sizeof(CommandHeader);
    if (extent > bytes.size() - at) return false;
    commands[i] = {command, bytes.subspan(at, body)};
    at += extent;
  }
  if (at != bytes.size()) return false;
  count = expected;
  return true;
}

bool parse_atomic(std::span<const std::byte> body, std::span<AtomicCommand> parts,
                  std::uint32_t& count) {
  if (body.size() < sizeof(AtomicHead)) return false;
  const auto& head = *reinterpret_cast<const AtomicHead*>(body.data());
  const std::uint32_t expected = head.count;
  if (expected > kAtomicPartsMax || expected > parts.size()) return false;
  std::size_t at = sizeof(AtomicHead);
  for (std::uint32_t i = 0; i < expected; ++i) {
    if (body.size() - at < sizeof(AtomicPart)) return false;
    const auto& part = *reinterpret_cast<const AtomicPart*>(body.data() + at);
    const std::uint64_t bytes = part.bytes;
    const std::uint64_t extent = (bytes + 7) & ~std::uint64_t{7};
    at += sizeof(AtomicPart);
    if (extent > body.size() - at) return false;
    parts[i] = {part.service, body.subspan(at, bytes)};
    at += extent;
  }
  if (at != body.size()) return false;
  count = expected;
  return true;
}

const char* to_string(CommandStatus status) {
  static constexpr const char* kNames[] = {
      "ok",       "not_found",       "refused",        "malformed",     "too_large",
      "no_space", "no_such_session", "stale_sequence", "reply_dropped", "sessions_full"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(CommandStatus::kSessionsFull) + 1);
  if (status == CommandStatus::kOutcomeUnknown) return "outcome_unknown";
  if (status == CommandStatus::kNotSent) return "not_sent";
  const auto index = static_cast<std::size_t>(status);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

}  // namespace annulus::statemachine
