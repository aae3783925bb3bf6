// What a worker answers a client that asks again.
#include "statemachine/worker.h"

#include <gtest/gtest.h>

#include "tests/support/worker_fixture.h"

namespace annulus::statemachine {
namespace {

class WorkerQueryTest : public WorkerFixture {};

TEST_F(WorkerQueryTest, LostFramesAreSentAgainAsTheyWere) {
  const auto value = decide({increment(1, "n"), read("n")});
  decide({increment(2, "n")});
  const auto before = first_.answers[{value, 1}];
  first_.answers.clear();
  first_.push(batch({increment(1, "n"), read("n")}, value), id(value), 0, DeliveryKind::kQuery);
  first_.poll();
  EXPECT_EQ((first_.answers[{value, 1}].bytes), before.bytes) << "not the later state";
  EXPECT_EQ(first_.count(WorkerCounter::kQueriesResent), 1u);
}

TEST_F(WorkerQueryTest, AnotherReplicaAnswersAQueryFromTheSessionTable) {
  const auto value = decide({increment(1, "n"), read("n")});
  second_.push(batch({increment(1, "n"), read("n")}, value), id(value), 0, DeliveryKind::kQuery);
  second_.poll();
  EXPECT_EQ((second_.answers[{value, 0}].bytes), (first_.answers[{value, 0}].bytes));
  EXPECT_EQ((second_.answers[{value, 1}].bytes), "1");
  expect_same_state();
}

/// T8: frames of one are not to be joined with frames of the other.
TEST_F(WorkerQueryTest, AnswersReadAtDifferentTimesHaveDifferentNames) {
  decide({put(1, "k", std::string(3'000, 'a'))});
  const auto value = decide({read("k")});
  const auto ask = [&] {
    second_.push(batch({read("k")}, value), id(value), 0, DeliveryKind::kQuery);
    second_.poll();
    return second_.answers[{value, 0}].bytes[0];
  };
  EXPECT_EQ(ask(), 'a');
  EXPECT_EQ(ask(), 'a');
  EXPECT_EQ(second_.names[value].size(), 1u) << "the same answer: its frames may be joined";
  decide({put(2, "k", std::string(3'000, 'b'))});
  EXPECT_EQ(ask(), 'b');
  EXPECT_EQ(second_.names[value].size(), 2u);
}

TEST_F(WorkerQueryTest, QueryForWhatWasNotExecutedIsMetWithSilence) {
  const auto before = second_.hashes();
  second_.push(batch({increment(1, "n"), read("n")}, 900), id(900), 0, DeliveryKind::kQuery);
  second_.poll();
  EXPECT_TRUE(second_.answers.empty());
  EXPECT_EQ(second_.count(WorkerCounter::kQueriesUnanswered), 1u);
  EXPECT_EQ(second_.hashes().recomputed, before.recomputed);
}

}  // namespace
}  // namespace annulus::statemachine
