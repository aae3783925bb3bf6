// Puts reply streams that came in several frames together. Only fragments of one stream are joined
// (T8). Its content names it, nothing less: a replica that is asked again reads anew, and one that
// was started again may cut what it answers elsewhere. Part of the client.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <vector>

#include "consensus/messages.h"
#include "dataplane/buffer.h"

namespace annulus::statemachine {

class ReplyAssembly {
 public:
  enum class Outcome : std::uint8_t { kPartial, kComplete, kRefused };

  /// Streams that may arrive at a time; when another begins, the one least lately added to goes.
  explicit ReplyAssembly(std::uint32_t streams)
      : pool_(streams + 1, consensus::kReplyStreamBytesMax), streams_(streams) {}

  /// Adds one validated frame. When that completes a stream, `stream` refers to all of it.
  Outcome add(const consensus::Reply& message, const dataplane::Slice& payload,
              dataplane::Slice& stream);

 private:
  static constexpr std::uint32_t kFragmentsMax = 1'024;
  struct Stream {
    consensus::ValueId value;
    std::uint64_t content_hash = 0;
    std::uint16_t number = 0;
    consensus::Fragment fragment;  // how it is cut
    std::uint32_t bytes = 0;
    std::uint32_t missing = 0;  // 0: not in use
    std::uint64_t added = 0;    // turn of the last frame
    std::bitset<kFragmentsMax> have;
    dataplane::Slice memory;

    bool is_of(const consensus::Reply& message, const consensus::Fragment& cut) const;
  };

  dataplane::BufferPool pool_;
  std::vector<Stream> streams_;
  std::uint64_t turn_ = 0;
};

}  // namespace annulus::statemachine
