#include "tools/chaos/redis_load.h"

#include <gtest/gtest.h>

namespace annulus::chaos {
namespace {

TEST(ReplyBytes, OfEveryKindOfReply) {
  for (const std::string reply : {"+OK\r\n", "-ERR no\r\n", ":17\r\n", "$-1\r\n", "$0\r\n\r\n",
                                  "$3\r\nabc\r\n", "*0\r\n", "*2\r\n$1\r\n1\r\n$2\r\nv1\r\n"}) {
    EXPECT_EQ(reply_bytes(reply), reply.size()) << reply;
    EXPECT_EQ(reply_bytes(reply + "+OK\r\n"), reply.size()) << reply;
    for (std::size_t cut = 0; cut < reply.size(); ++cut) {
      EXPECT_EQ(reply_bytes(std::string_view(reply).substr(0, cut)), 0u) << reply << cut;
    }
  }
}

/// Whatever a command answers, natively or through the proxy, is the same outcome.
TEST(EndOf, BothClientsGiveOneOutcome) {
  const Object counter{ObjectType::kCounter, 1};
  history::Outcome outcome;
  EXPECT_EQ(end_of(Command{counter, true, 1}, ":258\r\n", outcome), End::kAnswered);
  EXPECT_EQ(outcome.reply, std::string("\2\1\0\0\0\0\0\0", 8));
  outcome = {};
  EXPECT_EQ(end_of(Command{counter, false, 0}, "$-1\r\n", outcome), End::kAnswered);
  EXPECT_EQ(outcome.status, statemachine::CommandStatus::kNotFound);
  outcome = {};
  EXPECT_EQ(end_of(Command{counter, false, 0}, "$2\r\n17\r\n", outcome), End::kAnswered);
  EXPECT_EQ(outcome.reply, "17");
  EXPECT_EQ(end_of(Command{counter, true, 1}, "-ERR outcome unknown: no\r\n", outcome),
            End::kUnknown);
  EXPECT_EQ(end_of(Command{counter, true, 1}, "-ERR not executed: no\r\n", outcome),
            End::kNotExecuted);
  EXPECT_EQ(end_of(Command{counter, true, 1}, "-ERR executed, but\r\n", outcome), End::kExecuted);
  EXPECT_EQ(end_of(Command{counter, true, 1}, "-OOM\r\n", outcome), End::kRefused);
  EXPECT_EQ(end_of(Command{counter, true, 1}, "+OK\r\n", outcome), End::kRefused);
}

}  // namespace
}  // namespace annulus::chaos
