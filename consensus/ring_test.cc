#include "consensus/ring.h"

#include <gtest/gtest.h>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

TEST(Ring, RouteIsAMajorityThatEndsAtTheCoordinator) {
  for (const std::uint32_t acceptors : {1u, 2u, 3u, 4u, 5u, 7u, 15u}) {
    const Configuration made = configuration(acceptors);
    for (std::uint32_t coordinator = 0; coordinator < acceptors; ++coordinator) {
      const Route route(made, coordinator);
      EXPECT_EQ(route.size(), acceptors / 2 + 1);
      EXPECT_EQ(route.coordinator(), coordinator);
      EXPECT_TRUE(route.fits(made));
      std::uint32_t members = 0;
      for (std::uint32_t i = 0; i < route.size(); ++i) members |= 1u << route.at(i);
      EXPECT_EQ(static_cast<std::uint32_t>(__builtin_popcount(members)), route.size());
      EXPECT_EQ(Route(route.wire()), route);
    }
  }
}

TEST(Ring, SuccessorsLeadFromTheFirstToTheCoordinatorAndPredecessorsBack) {
  const Configuration made = configuration(5);
  const Route route(made, 3);  // {4, 0, 3}
  EXPECT_TRUE(route.first(4));
  EXPECT_EQ(route.successor(4), 0u);
  EXPECT_EQ(route.successor(0), 3u);
  EXPECT_EQ(route.successor(3), std::nullopt);
  EXPECT_EQ(route.predecessor(3), 0u);
  EXPECT_EQ(route.predecessor(4), std::nullopt);
  EXPECT_FALSE(route.contains(1));
  EXPECT_EQ(route.successor(1), std::nullopt);
}

TEST(Ring, EmptyRouteAndStrangersDoNotFit) {
  const Configuration made = configuration(3);
  EXPECT_FALSE(Route().fits(made));
  EXPECT_FALSE(Route(configuration(7), 6).fits(made));
}

TEST(Ring, MembersAreFoundByTheirIds) {
  const Configuration made = configuration(3);
  EXPECT_EQ(made.acceptor_index(acceptor_id(2)), 2u);
  EXPECT_EQ(made.learner_index(learner_id(1)), 1u);
  EXPECT_EQ(made.acceptor_index(learner_id(1)), std::nullopt);
  EXPECT_EQ(made.learner_index(kNoNode), std::nullopt);
}

}  // namespace
}  // namespace annulus::consensus
