// What a step of a role wants done: frames to send, and promises and accepts to be kept on stable
// storage. A frame that depends on one of these is not among the effects of the same step: the
// acceptor makes it once the log says that what it depends on is durable. Fixed capacity; the node
// drains it.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>

#include "consensus/log.h"
#include "consensus/messages.h"
#include "dataplane/buffer.h"
#include "dataplane/frame.h"

namespace annulus::consensus {

using dataplane::Slice;

/// A message with room for its frame header in front, so that sealing copies nothing.
struct Outgoing {
  Endpoint to;
  bool to_all = false;  // every acceptor and learner, by the configured dissemination
  bool direct = false;  // to_all, but not from one to the next: somebody may have failed
  MessageType type{};
  std::uint16_t message_bytes = 0;
  Slice payload;
  std::uint64_t payload_hash = 0;
  alignas(
      8) std::array<std::byte, sizeof(dataplane::FrameHeader) + dataplane::kMessageBytesMax> head;

  std::byte* message() { return head.data() + sizeof(dataplane::FrameHeader); }
};

class Effects {
 public:
  static constexpr std::uint32_t kCapacity = 256;
  /// A handler of one message sends at most this many frames; callers make room first. Covers a
  /// whole value in fragments.
  static constexpr std::uint32_t kPerStepMax = kFragmentsMax + 16;

  Effects()
      : out_(new std::array<Outgoing, kCapacity>),
        keeps_(new std::array<Keep, kCapacity>),
        reads_(new std::array<LogRead, kCapacity>) {}

  /// Starts a frame to one node; the caller then writes the message in place.
  Outgoing& send_now(const Endpoint& to, MessageType type, std::size_t message_bytes) {
    CHECK(size_ < kCapacity);
    Outgoing& out = (*out_)[size_++];
    out.to = to;
    out.to_all = false;
    out.direct = false;
    out.type = type;
    out.message_bytes = static_cast<std::uint16_t>(message_bytes);
    return out;
  }
  template <typename M>
  Outgoing& send_now(const Endpoint& to, MessageType type, const M& message) {
    static_assert(alignof(M) == 1, "messages are made of wire_int fields");
    Outgoing& out = send_now(to, type, sizeof(M));
    std::memcpy(out.message(), &message, sizeof(M));
    return out;
  }
  template <typename M>
  Outgoing& send_to_all_now(MessageType type, const M& message) {
    Outgoing& out = send_now({}, type, message);
    out.to_all = true;
    return out;
  }
  /// To be kept on stable storage. Durable nodes only.
  void keep(Keep keep) {
    CHECK(kept_ < kCapacity);
    (*keeps_)[kept_++] = std::move(keep);
  }
  /// To be read from there and sent; not taken if there are too many.
  void read(const LogRead& wanted) {
    if (read_ < kCapacity) (*reads_)[read_++] = wanted;
  }

  std::span<Outgoing> frames() { return {out_->data(), size_}; }
  std::span<Keep> keeps() { return {keeps_->data(), kept_}; }
  std::span<const LogRead> reads() const { return {reads_->data(), read_}; }
  std::uint32_t size() const { return size_; }
  std::uint32_t room() const { return kCapacity - std::max(size_, kept_); }
  void clear() {
    for (Outgoing& out : frames()) {
      out.payload.reset();
      out.payload_hash = 0;
    }
    for (Keep& kept : keeps()) kept.bytes.reset();
    size_ = kept_ = read_ = 0;
  }

 private:
  std::unique_ptr<std::array<Outgoing, kCapacity>> out_;
  std::unique_ptr<std::array<Keep, kCapacity>> keeps_;
  std::unique_ptr<std::array<LogRead, kCapacity>> reads_;
  std::uint32_t size_ = 0;
  std::uint32_t kept_ = 0;
  std::uint32_t read_ = 0;
};

/// Fragments that a node has asked others for, and lacks yet: as many as fit a kernel's receive
/// buffer of usual size (208 KiB, frames of 1,500 bytes), and as another sends in one step.
constexpr std::uint32_t kAskedMax = 128;
// Beside them, one turn of a learner reports to every acceptor, and answers one frame.
static_assert(kAskedMax + kFragmentsMax + kAcceptorsMax + 1 <= Effects::kCapacity);

}  // namespace annulus::consensus
