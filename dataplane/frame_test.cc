// Frames: what is sealed opens, everything else is refused with the right fault.
#include "dataplane/frame.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "dataplane/hash.h"

namespace annulus::dataplane {
namespace {

const FrameSeal kSeal{.cluster = 0x1122334455667788,
                      .sender = 7,
                      .ring = 3,
                      .config_epoch = 9,
                      .sender_epoch = 11,
                      .sequence = 13};
const FrameFilter kFilter{.cluster = kSeal.cluster, .ring = kSeal.ring};

/// Bytes of a sealed frame: header, message and payload.
struct Sealed {
  std::vector<std::byte> head;
  std::vector<std::byte> payload;
};

Sealed seal(const std::string& message, const std::string& payload, std::uint16_t flags = 0) {
  Sealed sealed;
  sealed.head.resize(sizeof(FrameHeader) + message.size());
  std::memcpy(sealed.head.data() + sizeof(FrameHeader), message.data(), message.size());
  const auto bytes = std::as_bytes(std::span(payload));
  sealed.payload.assign(bytes.begin(), bytes.end());
  auto& header = *reinterpret_cast<FrameHeader*>(sealed.head.data());
  seal_frame(header, 5, static_cast<std::uint32_t>(message.size()),
             static_cast<std::uint32_t>(payload.size()),
             payload.empty() ? 0 : hash_bytes(sealed.payload), kSeal, flags);
  return sealed;
}

class FrameTest : public testing::Test {
 protected:
  /// A slice of exactly these bytes. Behind them lies what a careless reader would trip over.
  Slice slice(const std::vector<std::byte>& bytes) {
    Slice made = pool_.allocate();
    std::memset(made.mutable_data(), 0xaa, made.size());
    if (!bytes.empty()) std::memcpy(made.mutable_data(), bytes.data(), bytes.size());
    made.truncate(static_cast<std::uint32_t>(bytes.size()));
    return made;
  }
  FrameFault open_apart(const Sealed& sealed, const FrameFilter& filter = kFilter) {
    frame_ = {};
    const Slice payload = sealed.payload.empty() ? Slice{} : slice(sealed.payload);
    return open_frame(head_ = slice(sealed.head), payload, filter, frame_);
  }
  FrameFault open_joined(const Sealed& sealed, const FrameFilter& filter = kFilter) {
    frame_ = {};
    std::vector<std::byte> all = sealed.head;
    all.insert(all.end(), sealed.payload.begin(), sealed.payload.end());
    return open_frame(head_ = slice(all), {}, filter, frame_);
  }
  std::string message() const {
    return {reinterpret_cast<const char*>(frame_.message.data()), frame_.message.size()};
  }
  std::string payload() const {
    const auto bytes = frame_.payload.bytes();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  BufferPool pool_{8, 4096};
  Slice head_;
  Frame frame_;
};

FrameHeader& header(Sealed& sealed) { return *reinterpret_cast<FrameHeader*>(sealed.head.data()); }

TEST_F(FrameTest, OpensWhatWasSealed) {
  const Sealed sealed = seal("message", "payload bytes", kRelay);
  for (const bool joined : {false, true}) {
    ASSERT_EQ(joined ? open_joined(sealed) : open_apart(sealed), FrameFault::kNone);
    EXPECT_EQ(message(), "message");
    EXPECT_EQ(payload(), "payload bytes");
    EXPECT_EQ(frame_.header->type, 5);
    EXPECT_EQ(frame_.header->flags, kRelay);
    EXPECT_EQ(frame_.header->sender, 7u);
    EXPECT_EQ(frame_.header->sender_epoch, 11u);
    EXPECT_EQ(frame_.header->sequence, 13u);
    EXPECT_EQ(frame_.header->config_epoch, 9u);
  }
}

TEST_F(FrameTest, OpensWithoutPayloadAndWithoutMessage) {
  EXPECT_EQ(open_apart(seal("message", "")), FrameFault::kNone);
  EXPECT_FALSE(frame_.payload);
  EXPECT_EQ(open_joined(seal("", "payload")), FrameFault::kNone);
  EXPECT_EQ(payload(), "payload");
  EXPECT_EQ(open_apart(seal("", "")), FrameFault::kNone);
  EXPECT_EQ(open_apart(seal(std::string(kMessageBytesMax, 'm'), "p")), FrameFault::kNone);
}

TEST_F(FrameTest, ThePayloadKeepsItsMemoryAlive) {
  ASSERT_EQ(open_joined(seal("message", "payload")), FrameFault::kNone);
  const Slice kept = frame_.payload;
  frame_ = {};
  head_.reset();
  EXPECT_EQ(std::memcmp(kept.data(), "payload", 7), 0);
  EXPECT_EQ(kept.buffer()->references.load(), 1u);
}

TEST_F(FrameTest, EveryLengthShortOfTheWholeIsTruncated) {
  const Sealed sealed = seal("message", "payload");
  std::vector<std::byte> all = sealed.head;
  all.insert(all.end(), sealed.payload.begin(), sealed.payload.end());
  for (std::size_t length = 0; length < all.size(); ++length) {
    const std::vector<std::byte> cut(all.begin(), all.begin() + static_cast<long>(length));
    ASSERT_EQ(open_frame(slice(cut), {}, kFilter, frame_), FrameFault::kTruncated) << length;
  }
  for (std::size_t length = 0; length < sealed.head.size(); ++length) {
    const std::vector<std::byte> cut(sealed.head.begin(),
                                     sealed.head.begin() + static_cast<long>(length));
    ASSERT_EQ(open_frame(slice(cut), slice(sealed.payload), kFilter, frame_),
              FrameFault::kTruncated)
        << length;
  }
  for (std::size_t length = 0; length < sealed.payload.size(); ++length) {
    const std::vector<std::byte> cut(sealed.payload.begin(),
                                     sealed.payload.begin() + static_cast<long>(length));
    ASSERT_EQ(open_frame(slice(sealed.head), slice(cut), kFilter, frame_), FrameFault::kTruncated)
        << length;
  }
}

TEST_F(FrameTest, NamesEachFault) {
  Sealed sealed = seal("message", "payload");
  header(sealed).magic = kFrameMagic + 1;
  EXPECT_EQ(open_joined(sealed), FrameFault::kBadMagic);

  sealed = seal("message", "payload");
  header(sealed).version = kWireVersion + 1;
  EXPECT_EQ(open_joined(sealed), FrameFault::kBadVersion);

  EXPECT_EQ(open_joined(seal("message", "payload", 2)), FrameFault::kBadFlags);
  sealed = seal("message", "payload");
  EXPECT_EQ(open_joined(sealed, {kFilter.cluster + 1, kFilter.ring}), FrameFault::kForeignCluster);
  EXPECT_EQ(open_joined(sealed, {kFilter.cluster, 4}), FrameFault::kForeignRing);

  sealed.payload.push_back(std::byte{0});
  EXPECT_EQ(open_joined(sealed), FrameFault::kTrailingBytes);
  EXPECT_EQ(open_apart(sealed), FrameFault::kTrailingBytes);

  sealed = seal("message", "payload");
  sealed.head.back() ^= std::byte{1};
  EXPECT_EQ(open_joined(sealed), FrameFault::kBadChecksum);

  sealed = seal("message", "payload");
  sealed.payload.back() ^= std::byte{1};
  EXPECT_EQ(open_joined(sealed), FrameFault::kBadPayloadHash);
  EXPECT_EQ(open_apart(sealed), FrameFault::kBadPayloadHash);
}

TEST_F(FrameTest, LyingLengthsAreFaultsWhateverTheySay) {
  for (const std::uint32_t lie : {0u, 1u, 6u, 8u, 4095u, 65'535u}) {
    Sealed sealed = seal("message", "payload");
    header(sealed).message_bytes = static_cast<std::uint16_t>(lie);
    EXPECT_NE(open_joined(sealed), FrameFault::kNone) << lie;
    EXPECT_NE(open_apart(sealed), FrameFault::kNone) << lie;
  }
  for (const std::uint32_t lie : {0u, 1u, 6u, 8u, 65'535u, 0x7fffffffu, 0xfffffff0u, 0xffffffffu}) {
    Sealed sealed = seal("message", "payload");
    header(sealed).payload_bytes = lie;
    EXPECT_NE(open_joined(sealed), FrameFault::kNone) << lie;
    EXPECT_NE(open_apart(sealed), FrameFault::kNone) << lie;
  }
}

// A sender may seal any lengths consistently; a head that swallows the payload's place, or a
// payload split between both slices, must not open.
TEST_F(FrameTest, APayloadSplitOverBothSlicesIsRefused) {
  Sealed sealed = seal("message", "payload");
  sealed.head.push_back(sealed.payload.front());
  sealed.payload.erase(sealed.payload.begin());
  EXPECT_NE(open_apart(sealed), FrameFault::kNone);
}

TEST_F(FrameTest, EverySingleBitFlipIsFound) {
  const Sealed sealed = seal("message", "payload");
  std::vector<std::byte> all = sealed.head;
  all.insert(all.end(), sealed.payload.begin(), sealed.payload.end());
  std::set<FrameFault> seen;
  for (std::size_t bit = 0; bit < all.size() * 8; ++bit) {
    std::vector<std::byte> flipped = all;
    flipped[bit / 8] ^= std::byte(1 << bit % 8);
    const FrameFault fault = open_frame(slice(flipped), {}, kFilter, frame_);
    ASSERT_NE(fault, FrameFault::kNone) << bit;
    seen.insert(fault);
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(FrameFault::kCount) - 1);  // all but kNone
}

TEST_F(FrameTest, RandomBytesNeverOpen) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20'000; ++i) {
    Sealed sealed = seal("message", "payload");
    const auto changes = 1 + random() % 8;
    for (std::uint64_t change = 0; change < changes; ++change) {
      const std::size_t at = random() % sealed.head.size();
      sealed.head[at] = std::byte(static_cast<std::uint8_t>(random()));
    }
    if (sealed.head == seal("message", "payload").head) continue;
    ASSERT_NE(open_joined(sealed), FrameFault::kNone);
  }
}

TEST(FrameFault, EachHasAName) {
  std::set<std::string> names;
  for (int i = 0; i < static_cast<int>(FrameFault::kCount); ++i) {
    names.insert(to_string(static_cast<FrameFault>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(FrameFault::kCount));
}

}  // namespace
}  // namespace annulus::dataplane
