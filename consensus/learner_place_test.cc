#include "consensus/learner_place.h"

#include <gtest/gtest.h>

namespace annulus::consensus {
namespace {

constexpr std::uint64_t kOne = 11;
constexpr std::uint64_t kTwo = 7;  // epochs have no order
constexpr Instance at(std::uint64_t instance) { return Instance{instance}; }

TEST(LearnerPlaceTest, OnlyGoesForthWithinOneStart) {
  LearnerPlace place;
  EXPECT_FALSE(place.known());
  EXPECT_TRUE(place.tell(kOne, at(1), 0));
  EXPECT_TRUE(place.known());
  EXPECT_TRUE(place.tell(kOne, at(9), 0));
  EXPECT_FALSE(place.tell(kOne, at(4), 0));
  EXPECT_FALSE(place.pass_on(kOne, at(4)));
  EXPECT_TRUE(place.pass_on(kOne, at(12)));
  EXPECT_EQ(place.below(), at(12));
}

TEST(LearnerPlaceTest, GoesBackWhenTheLearnerStartsAgain) {
  LearnerPlace place;
  place.tell(kOne, at(100), 0);
  EXPECT_TRUE(place.tell(kTwo, at(1), 5));
  EXPECT_EQ(place.below(), at(1));
  EXPECT_EQ(place.epoch(), kTwo);
}

TEST(LearnerPlaceTest, EarlierStartThatComesLateIsNotHeeded) {
  LearnerPlace place;
  place.tell(kOne, at(100), 0);
  place.tell(kTwo, at(1), 5);
  EXPECT_FALSE(place.tell(kOne, at(101), 6));
  EXPECT_FALSE(place.pass_on(kOne, at(101)));
  EXPECT_EQ(place.below(), at(1));
}

// What came late was taken for the later start.
TEST(LearnerPlaceTest, StartTakenForEarlierIsHeededAfterAWhile) {
  LearnerPlace place;
  place.tell(kTwo, at(1), 0);
  place.tell(kOne, at(100), 1);
  EXPECT_FALSE(place.tell(kTwo, at(2), 2));
  EXPECT_TRUE(place.tell(kTwo, at(3), 1 + kSecond));
  EXPECT_EQ(place.below(), at(3));
}

TEST(LearnerPlaceTest, OwnWordGoesBeforeWhatIsPassedOn) {
  LearnerPlace place;
  EXPECT_TRUE(place.pass_on(kOne, at(100)));
  EXPECT_TRUE(place.tell(kTwo, at(1), 0));
  EXPECT_FALSE(place.pass_on(kOne, at(200)));
  EXPECT_EQ(place.below(), at(1));
}

TEST(LearnerPlaceTest, OwnWordThatWasPassedOnBeforeMovesNothingBack) {
  LearnerPlace place;
  place.pass_on(kOne, at(100));
  EXPECT_FALSE(place.tell(kOne, at(90), 0));
  EXPECT_EQ(place.below(), at(100));
}

TEST(LearnerPlaceTest, OfTwoStartsThatAreOnlyPassedOnTheLowerCounts) {
  LearnerPlace place;
  place.pass_on(kOne, at(100));
  EXPECT_TRUE(place.pass_on(kTwo, at(3)));
  EXPECT_FALSE(place.pass_on(kOne, at(100)));
  EXPECT_EQ(place.below(), at(3));
}

TEST(LearnerPlaceTest, PresumedPlaceGivesWayToTheFirstWord) {
  LearnerPlace place;
  place.presume(at(50));
  EXPECT_FALSE(place.known());
  EXPECT_TRUE(place.tell(kOne, at(7), 0));
  EXPECT_EQ(place.below(), at(7));
}

}  // namespace
}  // namespace annulus::consensus
