// Results, statuses and checks.
#include "dataplane/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace annulus {
namespace {

Result<std::unique_ptr<int>> half(int number) {
  if (number % 2 != 0) return Error{std::to_string(number) + " is odd"};
  return std::make_unique<int>(number / 2);
}

TEST(Result, HoldsAValueOrAnError) {
  Result<std::unique_ptr<int>> good = half(8);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(**good, 4);
  const std::unique_ptr<int> taken = std::move(good).value();
  EXPECT_EQ(*taken, 4);

  const Result<std::unique_ptr<int>> bad = half(7);
  EXPECT_FALSE(bad);
  EXPECT_EQ(bad.error().message, "7 is odd");
}

TEST(Status, IsFineOrAnError) {
  EXPECT_TRUE(Status{}.ok());
  const Status failed = Error{"no"};
  EXPECT_FALSE(failed);
  EXPECT_EQ(failed.error().message, "no");
}

TEST(CheckDeathTest, NamesTheConditionAndThePlace) {
  EXPECT_DEATH(CHECK(1 + 1 == 3), "1 \\+ 1 == 3 at .*result_test.cc:[0-9]+");
  CHECK(1 + 1 == 2);
}

}  // namespace
}  // namespace annulus
