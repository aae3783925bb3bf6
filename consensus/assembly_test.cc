#include "consensus/assembly.h"

#include <gtest/gtest.h>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

class AssemblyTest : public testing::Test {
 protected:
  AssemblyOutcome add(const Content& content, std::uint32_t index) {
    const Received in = frames_.submit(content, 1, index);
    return assembly_.add(content.value, cut(content.value.bytes, Frames::kFragment, index),
                         in.frame.payload, in.frame.header->payload_hash, pool_);
  }
  dataplane::BufferPool pool_{1, kValueBytesMax};
  Frames frames_;
  Assembly assembly_;
};

TEST_F(AssemblyTest, ValueOfOneFrameIsKeptByReference) {
  const Content content = frames_.content(1);
  EXPECT_EQ(add(content, 0), AssemblyOutcome::kComplete);
  EXPECT_FALSE(assembly_.copied());
  EXPECT_TRUE(pool_.allocate());
}

TEST_F(AssemblyTest, AsManyFragmentsAsThereMayBeInAnyOrder) {
  const Content content = frames_.content(1, 65'536);
  const std::uint32_t count = Frames::fragments(content);
  ASSERT_LE(count, kFragmentsMax);
  ASSERT_NE(count % 7, 0u);
  for (std::uint32_t n = 0; n < count; ++n) {
    const std::uint32_t i = n * 7 % count;  // each once: 7 does not divide the count
    const AssemblyOutcome outcome = add(content, i);
    EXPECT_EQ(outcome, n + 1 == count ? AssemblyOutcome::kComplete : AssemblyOutcome::kPartial);
    EXPECT_EQ(add(content, i), AssemblyOutcome::kDuplicate);
  }
  EXPECT_EQ(dataplane::hash_bytes(assembly_.bytes().bytes()), content.value.content_hash);
}

TEST_F(AssemblyTest, SixtyFourFragmentsAreCountedRight) {
  const Content content = frames_.content(1, 6'400);
  for (std::uint32_t i = 0; i < 64; ++i) {
    EXPECT_EQ(assembly_.missing() >> i & 1, 1u);
    const Slice part = content.bytes.part(i * 100, 100);
    EXPECT_EQ(assembly_.add(content.value, {static_cast<std::uint16_t>(i), 64, 100}, part,
                            dataplane::hash_bytes(part.bytes()), pool_),
              i == 63 ? AssemblyOutcome::kComplete : AssemblyOutcome::kPartial);
  }
  EXPECT_EQ(assembly_.missing(), 0u);
}

TEST_F(AssemblyTest, OtherValueOrOtherCutIsAMismatch) {
  const Content content = frames_.content(1, 3'000);
  EXPECT_EQ(add(content, 0), AssemblyOutcome::kPartial);
  EXPECT_EQ(add(frames_.content(2, 3'000), 1), AssemblyOutcome::kMismatch);
  const Slice part = content.bytes.part(1'000, 1'000);
  EXPECT_EQ(
      assembly_.add(content.value, {1, 3, 1'000}, part, dataplane::hash_bytes(part.bytes()), pool_),
      AssemblyOutcome::kMismatch);
  EXPECT_EQ(assembly_.missing(), 0b110u);
}

TEST_F(AssemblyTest, WrongContentIsDiscardedAndMayComeAgain) {
  Content content = frames_.content(1, 2'000);
  Content lying = content;
  lying.bytes = frames_.content(2, 2'000).bytes;
  EXPECT_EQ(add(content, 0), AssemblyOutcome::kPartial);
  EXPECT_EQ(add(lying, 1), AssemblyOutcome::kBadContent);
  EXPECT_FALSE(assembly_.partial());
  EXPECT_EQ(add(content, 0), AssemblyOutcome::kPartial);
  EXPECT_EQ(add(content, 1), AssemblyOutcome::kComplete);
}

TEST_F(AssemblyTest, ExhaustedPoolIsLossAndResetGivesMemoryBack) {
  Assembly other;
  const Content content = frames_.content(1, 2'000);
  EXPECT_EQ(add(content, 0), AssemblyOutcome::kPartial);
  const Received in = frames_.submit(content, 1, 0);
  const auto again = [&] {
    return other.add(content.value, cut(2'000, Frames::kFragment, 0), in.frame.payload,
                     in.frame.header->payload_hash, pool_);
  };
  EXPECT_EQ(again(), AssemblyOutcome::kNoMemory);
  assembly_.reset();
  EXPECT_EQ(again(), AssemblyOutcome::kPartial);
}

}  // namespace
}  // namespace annulus::consensus
