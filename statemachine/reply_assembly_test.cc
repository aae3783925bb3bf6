// Tests of reply_assembly.h: which frames are put together, and which are not.
#include "statemachine/reply_assembly.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>

namespace annulus::statemachine {
namespace {

using consensus::Fragment;
using Outcome = ReplyAssembly::Outcome;

constexpr std::uint32_t kFragmentBytes = 100;

class ReplyAssemblyTest : public testing::Test {
 protected:
  /// Hands over one frame of a stream that consists of `fill`, and is named by it.
  Outcome add(char fill, std::uint32_t index, std::uint32_t bytes = 250,
              std::uint16_t replica = 0) {
    const Fragment fragment = consensus::cut(bytes, kFragmentBytes, index);
    consensus::Reply message{};
    message.value = consensus::to_wire(consensus::ValueId{consensus::NodeId{9}, 1, 7});
    message.content_hash = static_cast<std::uint64_t>(fill);
    message.replica = replica;
    message.bytes = bytes;
    message.fragment = consensus::to_wire(fragment);
    dataplane::Slice payload = pool_.allocate();
    payload.truncate(std::min(kFragmentBytes, bytes - fragment.offset()));
    std::memset(payload.mutable_data(), fill, payload.size());
    return assembly_.add(message, payload, stream_);
  }
  std::string taken() {
    const dataplane::Slice stream = std::exchange(stream_, {});
    return {reinterpret_cast<const char*>(stream.data()), stream.size()};
  }

  dataplane::BufferPool pool_{4, kFragmentBytes};
  ReplyAssembly assembly_{2};
  dataplane::Slice stream_;
};

TEST_F(ReplyAssemblyTest, FramesInAnyOrderMakeAStream) {
  EXPECT_EQ(add('a', 2), Outcome::kPartial);
  EXPECT_EQ(add('a', 0), Outcome::kPartial);
  EXPECT_EQ(add('a', 0), Outcome::kPartial) << "twice";
  EXPECT_EQ(add('a', 1), Outcome::kComplete);
  EXPECT_EQ(taken(), std::string(250, 'a'));
}

TEST_F(ReplyAssemblyTest, T8_AnswersOfOneReplicaThatWereReadAtDifferentTimesAreNotJoined) {
  EXPECT_EQ(add('a', 0), Outcome::kPartial);
  EXPECT_EQ(add('b', 1), Outcome::kPartial);
  EXPECT_EQ(add('b', 2), Outcome::kPartial);
  EXPECT_EQ(add('a', 1), Outcome::kPartial);
  EXPECT_EQ(add('b', 0), Outcome::kComplete);
  EXPECT_EQ(taken(), std::string(250, 'b'));
  EXPECT_EQ(add('a', 2), Outcome::kComplete);
  EXPECT_EQ(taken(), std::string(250, 'a'));
}

TEST_F(ReplyAssemblyTest, TheSameAnswerOfTwoReplicasIsOne) {
  EXPECT_EQ(add('a', 0, 250, 0), Outcome::kPartial);
  EXPECT_EQ(add('a', 1, 250, 1), Outcome::kPartial);
  EXPECT_EQ(add('a', 2, 250, 1), Outcome::kComplete);
  EXPECT_EQ(taken(), std::string(250, 'a'));
}

TEST_F(ReplyAssemblyTest, TheStreamLeastLatelyAddedToMakesRoom) {
  add('a', 0);
  add('b', 0);
  add('c', 0);
  EXPECT_EQ(add('b', 1), Outcome::kPartial);
  EXPECT_EQ(add('b', 2), Outcome::kComplete);
  taken();
  EXPECT_EQ(add('a', 1), Outcome::kPartial) << "begun anew";
  EXPECT_EQ(add('a', 2), Outcome::kPartial);
}

}  // namespace
}  // namespace annulus::statemachine
