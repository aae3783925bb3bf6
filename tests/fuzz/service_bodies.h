// Feeds a service the bodies of commands that anyone may have written: each after a byte that gives
// its length, several at once, so that one finds what another left.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "statemachine/service.h"

namespace annulus::fuzz {

inline void execute_bodies(statemachine::Service& service, const std::uint8_t* data,
                           std::size_t size) {
  using namespace statemachine;
  constexpr std::size_t kCommandsMax = 8;
  constexpr std::uint32_t kReplyBytes = 65'536;
  static const std::unique_ptr<std::byte[]> memory(new std::byte[kCommandsMax * kReplyBytes]);
  Command commands[kCommandsMax];
  CommandHeader header{};
  std::size_t count = 0;
  for (std::size_t at = 0; at < size && count < kCommandsMax; ++count) {
    const std::size_t bytes = std::min<std::size_t>(data[at], size - at - 1);
    commands[count] = {&header, std::as_bytes(std::span{data + at + 1, bytes})};
    at += 1 + bytes;
  }
  for (std::size_t i = 0; i < count; ++i) {
    Footprint footprint;
    service.footprint(commands[i].body, footprint);
  }
  Replies::Entry entries[kCommandsMax];
  Replies replies({memory.get(), kCommandsMax * kReplyBytes}, entries, kReplyBytes);
  service.execute({commands, count}, replies);
  if (replies.count() != count) __builtin_trap();
}

}  // namespace annulus::fuzz
