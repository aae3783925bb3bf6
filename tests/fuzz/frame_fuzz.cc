// Arbitrary bytes as received frames: nothing is read outside of them, whatever they say, and a
// frame that opens and validates holds exactly the lists that its counts promise.
//
// The first byte chooses how the rest arrives: as one datagram, cut in two, or sealed correctly
// before it is cut, so that message validation is reached behind the checksums.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "consensus/messages.h"
#include "dataplane/frame.h"
#include "dataplane/hash.h"
#include "dataplane/result.h"

using namespace annulus;
using namespace annulus::consensus;
using dataplane::Buffer;
using dataplane::Frame;
using dataplane::FrameFault;
using dataplane::FrameHeader;
using dataplane::Slice;

namespace {

constexpr std::uint32_t kValueBytesMax = 65'536;
constexpr dataplane::FrameFilter kFilter{.cluster = 0, .ring = 0};

/// Bytes in a heap block of exactly their size, so that the sanitizer sees any step outside.
struct Exact {
  explicit Exact(std::span<const std::byte> bytes) : memory(new std::byte[bytes.size()]) {
    std::copy(bytes.begin(), bytes.end(), memory.get());
    buffer.capacity = static_cast<std::uint32_t>(bytes.size());
    buffer.data = memory.get();
    buffer.release = [](Buffer*) {};
    buffer.references = 1;
  }
  Slice slice() { return Slice::adopt(&buffer, 0, buffer.capacity); }

  std::unique_ptr<std::byte[]> memory;
  Buffer buffer;
};

template <typename Entry, typename Head>
void read_entries(const Frame& frame, const Head& head, std::size_t count) {
  const auto list = std::as_bytes(entries<Entry>(head, count));
  CHECK(list.data() >= frame.message.data());
  CHECK(list.data() + list.size() <= frame.message.data() + frame.message.size());
}

void read_as_a_role_would(const Frame& frame) {
  switch (static_cast<MessageType>(frame.header->type)) {
    case MessageType::kPhase1B:
      return read_entries<Phase1BEntry>(frame, message<Phase1B>(frame),
                                        message<Phase1B>(frame).count);
    case MessageType::kPhase2B: {
      const auto& m = message<Phase2B>(frame);
      CHECK(frame.message.size() ==
            sizeof m + m.count * sizeof(Phase2BEntry) + m.credits * sizeof(LearnerCredit));
      return read_entries<Phase2BEntry>(frame, m, m.count);
    }
    case MessageType::kPull:
      return read_entries<PullEntry>(frame, message<Pull>(frame), message<Pull>(frame).count);
    case MessageType::kStatePull:
      return read_entries<u32le>(frame, message<StatePull>(frame), message<StatePull>(frame).count);
    case MessageType::kStateChunk:
      CHECK(frame.payload.size() == message<StateChunk>(frame).bytes);
      return;
    case MessageType::kPhase2A: {
      const Fragment fragment = from_wire(message<Phase2A>(frame).fragment);
      const Value value = from_wire(message<Phase2A>(frame).value);
      CHECK(value.bytes <= kValueBytesMax);
      CHECK(std::uint64_t{fragment.offset()} + frame.payload.size() <= value.bytes);
      return;
    }
    default:
      return;
  }
}

bool open(const Slice& head, const Slice& payload) {
  Frame frame;
  if (dataplane::open_frame(head, payload, kFilter, frame) != FrameFault::kNone) return false;
  if (validate(frame, kValueBytesMax)) read_as_a_role_would(frame);
  return true;
}

/// Type, message length and place of the cut from the input; the rest is message, then payload.
/// Sealed correctly, it opens exactly when the payload is in one piece.
void open_sealed(std::span<const std::byte> bytes) {
  if (bytes.size() < 3) return;
  const auto type = std::to_integer<std::uint8_t>(bytes[0]);
  const std::size_t message_bytes =
      std::min(std::to_integer<std::size_t>(bytes[1]), bytes.size() - 3);
  const std::size_t cut = std::to_integer<std::size_t>(bytes[2]);
  bytes = bytes.subspan(3);
  const std::span<const std::byte> payload = bytes.subspan(message_bytes);
  std::vector<std::byte> frame(sizeof(FrameHeader));
  frame.insert(frame.end(), bytes.begin(), bytes.end());
  dataplane::seal_frame(*reinterpret_cast<FrameHeader*>(frame.data()), type,
                        static_cast<std::uint32_t>(message_bytes),
                        static_cast<std::uint32_t>(payload.size()),
                        payload.empty() ? 0 : dataplane::hash_bytes(payload), {});
  const std::size_t head_bytes = std::min(sizeof(FrameHeader) + message_bytes + cut, frame.size());
  Exact head(std::span(frame).first(head_bytes));
  Exact rest(std::span(frame).subspan(head_bytes));
  const bool whole = head_bytes == frame.size();
  CHECK(open(head.slice(), whole ? Slice{} : rest.slice()) == (whole || cut == 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span{data + 1, size - 1});
  switch (data[0] % 3) {
    case 0: {
      Exact whole(bytes);
      open(whole.slice(), {});
      break;
    }
    case 1: {
      const std::size_t cut = bytes.empty() ? 0 : data[0] * bytes.size() / 256;
      Exact head(bytes.first(cut));
      Exact payload(bytes.subspan(cut));
      open(head.slice(), payload.slice());
      break;
    }
    default:
      open_sealed(bytes);
  }
  return 0;
}
