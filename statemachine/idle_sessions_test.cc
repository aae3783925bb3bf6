// Which sessions are proposed to be expired, and when. What comes of it is the order's business.
#include "statemachine/idle_sessions.h"

#include <gtest/gtest.h>

#include <vector>

namespace annulus::statemachine {
namespace {

using consensus::Instance;
using consensus::NodeId;

constexpr Nanos kIdle = 8 * kSecond;

class IdleSessionsTest : public ::testing::Test {
 protected:
  void open(std::uint32_t count) {
    std::uint64_t id = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      ASSERT_EQ(table_.open({NodeId{1}, 1, ++opened_}, 1, 8, Instance{opened_}, id),
                CommandStatus::kOk);
    }
  }
  /// Polls until `end`, a millisecond a turn. What is proposed is decided `delay` turns later.
  void run(Nanos end, int delay) {
    for (int left = 0; now_ < end; now_ += kMillisecond) {
      idle_.poll(now_);
      consensus::Proposal proposal;
      if (proposals_.pop(proposal)) {
        ++proposed_;
        left = delay;
        decided_ = std::move(proposal);
      } else if (decided_.payload && --left <= 0) {
        decide();
      }
    }
  }
  void decide() {
    std::vector<Command> commands(kCommandsPerBatchMax);
    std::uint32_t count = 0;
    ASSERT_TRUE(parse_batch(decided_.payload.bytes(), commands, count));
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto& body = *reinterpret_cast<const CloseSession*>(commands[i].body.data());
      EXPECT_TRUE(table_.expire(body.session, Instance{body.last_activity.get()}));
    }
    idle_.on_delivered(consensus::from_wire(decided_.message.value).id);
    decided_.payload.reset();
  }

  SessionTable table_{{}};
  dataplane::SpscRing<consensus::Proposal> proposals_{8};
  IdleSessions idle_{{NodeId{9}, 1, kIdle}, table_, proposals_};
  std::uint64_t opened_ = 0;
  Nanos now_ = 0;
  std::uint64_t proposed_ = 0;
  consensus::Proposal decided_;
};

TEST_F(IdleSessionsTest, NoneIsProposedBeforeItsTime) {
  open(100);
  run(kIdle, 1);
  EXPECT_EQ(table_.count(), 100u);
  run(kIdle + kIdle / 4, 1);
  EXPECT_EQ(table_.count(), 0u);
}

// A hundred thousand clients that vanish at once must not keep others waiting for minutes.
TEST_F(IdleSessionsTest, ManyAreExpiredAsFastAsTheirExpiriesAreDecided) {
  open(100'000);
  run(kIdle + kIdle / 4, 1);
  const std::uint32_t before = table_.count();
  const std::uint64_t proposed = proposed_;
  run(now_ + kSecond, 1);
  EXPECT_GE(proposed_ - proposed, 300u) << "of 500 that fit into a second here";
  EXPECT_LE(table_.count() + 16 * 300, before);
  run(now_ + 20 * kSecond, 1);
  EXPECT_EQ(table_.count(), 0u);
}

TEST_F(IdleSessionsTest, OneProposalIsUndecidedAtATimeAndNoSessionIsMissedMeanwhile) {
  open(100);
  run(kIdle + kIdle / 4, 100);
  EXPECT_LE(proposed_, static_cast<std::uint64_t>(kIdle / 4 / (100 * kMillisecond)) + 1);
  run(now_ + kSecond, 100);
  EXPECT_EQ(table_.count(), 0u);
  EXPECT_EQ(proposed_, 7u);
}

}  // namespace
}  // namespace annulus::statemachine
