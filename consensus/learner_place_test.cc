#include "consensus/learner_place.h"

#include <gtest/gtest.h>

namespace annulus::consensus {
namespace {

constexpr std::uint64_t kOne = 11;
constexpr std::uint64_t kTwo = 12;
constexpr std::uint64_t kThree = 13;
constexpr Instance at(std::uint64_t instance) { return Instance{instance}; }

TEST(LearnerPlaceTest, OnlyGoesForthWithinOneStart) {
  LearnerPlace place;
  EXPECT_FALSE(place.known());
  EXPECT_TRUE(place.tell(kOne, at(1), 0));
  EXPECT_TRUE(place.known());
  EXPECT_TRUE(place.tell(kOne, at(9), 0));
  EXPECT_FALSE(place.tell(kOne, at(4), 0));
  EXPECT_FALSE(place.pass_on(kOne, at(4), 0));
  EXPECT_TRUE(place.pass_on(kOne, at(12), 0));
  EXPECT_EQ(place.below(), at(12));
}

TEST(LearnerPlaceTest, GoesBackWhenTheLearnerStartsAgain) {
  for (const bool own : {true, false}) {
    LearnerPlace place;
    place.tell(kOne, at(100), 0);
    EXPECT_TRUE(own ? place.tell(kTwo, at(1), 5) : place.pass_on(kTwo, at(1), 5));
    EXPECT_EQ(place.below(), at(1));
    EXPECT_EQ(place.epoch(), kTwo);
  }
}

TEST(LearnerPlaceTest, EarlierStartsThatComeLateAreNotHeeded) {
  LearnerPlace place;
  place.tell(kOne, at(100), 0);
  place.pass_on(kTwo, at(50), 1);
  place.tell(kThree, at(1), 2);
  for (const std::uint64_t earlier : {kOne, kTwo}) {
    EXPECT_FALSE(place.heeds(earlier, 3));
    EXPECT_FALSE(place.tell(earlier, at(101), 3));
    EXPECT_FALSE(place.pass_on(earlier, at(101), 3));
  }
  EXPECT_EQ(place.below(), at(1));
}

// Not even the same news all the time, of an acceptor that hears no other.
TEST(LearnerPlaceTest, EarlierStartIsNeverHeededOfAnAcceptor) {
  LearnerPlace place;
  place.tell(kTwo, at(1), 0);
  EXPECT_FALSE(place.pass_on(kOne, at(100), 10 * kSecond));
  EXPECT_EQ(place.below(), at(1));
}

TEST(LearnerPlaceTest, StartIsHeededInTheEndThoughTheClockWasSetBack) {
  LearnerPlace place;
  place.tell(kTwo, at(100), 0);
  EXPECT_FALSE(place.tell(kOne, at(1), kSecond - 1));
  place.pass_on(kTwo, at(100), kSecond - 1);  // which is only repeated
  EXPECT_TRUE(place.tell(kOne, at(2), kSecond));
  EXPECT_EQ(place.below(), at(2));
  EXPECT_FALSE(place.pass_on(kTwo, at(100), 10 * kSecond));  // by one that does not know
  EXPECT_TRUE(place.tell(kOne, at(3), 10 * kSecond));
  EXPECT_TRUE(place.tell(kThree, at(1), 10 * kSecond));
}

TEST(LearnerPlaceTest, ClockMayBeSetBackTwice) {
  LearnerPlace place;
  place.tell(kThree, at(500), 0);
  place.tell(kTwo, at(1), 2 * kSecond);
  place.tell(kOne, at(1), 4 * kSecond);
  EXPECT_FALSE(place.pass_on(kThree, at(500), 4 * kSecond + 1));
  EXPECT_TRUE(place.heeds(kOne, 4 * kSecond + 2));
}

TEST(LearnerPlaceTest, StartThatIsHeardOfIsNotGivenUpForAnEarlierOne) {
  LearnerPlace place;
  place.tell(kTwo, at(1), 0);
  for (Nanos now = 0; now < 5 * kSecond; now += kSecond / 2) {
    place.tell(kTwo, at(1), now);
    EXPECT_FALSE(place.tell(kOne, at(100), now + 1));
  }
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
