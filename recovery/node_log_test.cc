// Whole rings whose acceptors are durable: what a node says and does not say while its log writes.
#include <gtest/gtest.h>

#include <cerrno>

#include "recovery/acceptor_log.h"
#include "tests/support/memory_disk.h"
#include "tests/support/ring_fixture.h"

namespace annulus::recovery {
namespace {

using consensus::Dissemination;
using support::LocalRing;
using support::up_to;

class DurableRingTest : public support::RingTest {
 protected:
  DurableRingTest() {
    start(Dissemination::kMulticast);
    for (std::uint32_t i = 0; i < LocalRing::kAcceptors; ++i) {
      const LogIdentity identity{LocalRing::kCluster, LocalRing::identity(i).node, 7};
      // The first coordinator's is full soon.
      auto disk = std::make_unique<support::MemoryDisk>(
          std::make_shared<support::Platter>(kLogBlocksAt + (i == 0 ? 100 : 4'096)));
      EXPECT_TRUE(AcceptorLog::format(*disk, identity).ok());
      disks_.push_back(disk.get());
      auto opened =
          AcceptorLog::open(std::move(disk), identity, {.tell = [](const std::string&) {}});
      EXPECT_TRUE(opened.ok());
      logs_.push_back(std::move(opened).value());
      ring_->acceptors[i] = ring_->make_acceptor(i, {.coordinate = i == 0}, 1, logs_[i].get());
    }
    run(50);
    EXPECT_TRUE(ring_->acceptors[0]->coordinator().active());
  }
  ~DurableRingTest() override {
    ring_->fabric.clear();
    ring_->acceptors.clear();  // before their logs
  }

  std::uint64_t frames_sent(std::uint32_t acceptor) {
    return ring_->fabric.transport(acceptor)
        .counters()[dataplane::TransportCounter::kTxFrames]
        .get();
  }
  void write_all(std::uint32_t acceptor) {
    while (!disks_[acceptor]->writes().empty()) disks_[acceptor]->complete(0);
  }

  std::vector<support::MemoryDisk*> disks_;
  std::vector<std::unique_ptr<AcceptorLog>> logs_;
};

TEST_F(DurableRingTest, DecidesOnceAMajorityHasWritten) {
  for (support::MemoryDisk* disk : disks_) disk->hold = true;
  submit(1, 100);
  submit(2, 20'000);
  run(2'000);
  const auto before = ring_->acceptors[0]->coordinator().decided_below();
  const auto expect_nothing_decided = [&] {
    EXPECT_EQ(ring_->acceptors[0]->coordinator().decided_below(), before);
    EXPECT_TRUE(delivered_[0].empty() && delivered_[1].empty());
  };
  expect_nothing_decided();
  for (support::MemoryDisk* disk : disks_) EXPECT_FALSE(disk->writes().empty());

  write_all(1);
  run(2'000);
  expect_nothing_decided();

  for (int i = 0; i < 2'000; ++i) {
    write_all(0);
    write_all(1);
    run(1);
  }
  EXPECT_EQ(delivered_[0], up_to(2));
  EXPECT_EQ(delivered_[1], up_to(2));
  EXPECT_FALSE(disks_[2]->writes().empty());
}

TEST_F(DurableRingTest, ACoordinatorDoesNotCountItsOwnVoteBeforeItIsWritten) {
  disks_[0]->hold = true;
  disks_[2]->hold = true;
  submit(1, 100);
  run(2'000);
  EXPECT_TRUE(delivered_[0].empty());
  disks_[2]->hold = false;
  write_all(2);
  run(2'000);
  EXPECT_EQ(delivered_[0], up_to(1));
  EXPECT_FALSE(disks_[0]->writes().empty());
}

TEST_F(DurableRingTest, AFailedWriteStopsTheAcceptor) {
  for (std::uint64_t s = 1; s <= 10; ++s) submit(s, 100);
  run(500);
  ASSERT_EQ(delivered_[0], up_to(10));
  disks_[1]->hold = true;
  submit(11, 100);
  run(20);
  ASSERT_FALSE(disks_[1]->writes().empty());
  const std::uint64_t sent = frames_sent(1);
  disks_[1]->complete(0, -EIO);
  for (std::uint64_t s = 12; s <= 20; ++s) submit(s, 100);
  submit(100, 100, 1);
  run(3'000);
  EXPECT_TRUE(ring_->acceptors[1]->failed());
  EXPECT_NE(logs_[1]->failure().find("Input/output error"), std::string::npos);
  EXPECT_EQ(frames_sent(1), sent);
  // The others are a majority.
  EXPECT_EQ(delivered_[0], up_to(20));

  // Nor when it is asked for a promise.
  ring_->acceptors[2]->start_election();
  run(2'000);
  EXPECT_TRUE(ring_->acceptors[2]->coordinator().active());
  ring_->acceptors[1]->start_election();
  run(2'000);
  EXPECT_EQ(frames_sent(1), sent);
}

TEST_F(DurableRingTest, ACoordinatorWhoseLogIsFullGivesUpAndDoesNotTryAgain) {
  std::uint64_t sequence = 0;
  const auto submit_some = [&](std::uint32_t to) {
    for (int i = 0; i < 5; ++i) submit(++sequence, 10'000, to);
    run(20'000);
  };
  for (int round = 0; round < 8; ++round) submit_some(0);
  EXPECT_TRUE(ring_->acceptors[0]->coordinator().idle());
  EXPECT_EQ(delivered_[0], up_to(delivered_[0].size()));
  std::uint32_t now_leads = 0;
  for (std::uint32_t i = 1; i < LocalRing::kAcceptors; ++i) {
    if (ring_->acceptors[i]->coordinator().active()) now_leads = i;
  }
  ASSERT_NE(now_leads, 0u);
  for (std::uint64_t s = 1; s <= sequence; ++s) {  // a new one has not heard of the first
    submit(s, 10'000, now_leads);
    run(100);
  }
  run(2'000);
  EXPECT_EQ(delivered_[0].back(), sequence);
  ring_->acceptors[0]->start_election();
  run(2'000);
  EXPECT_TRUE(ring_->acceptors[now_leads]->coordinator().active());
}

TEST_F(DurableRingTest, APromiseIsToldOnceItIsWritten) {
  disks_[1]->hold = disks_[2]->hold = true;
  stopped_[0] = true;
  ring_->acceptors[2]->start_election();
  run(1'000);
  EXPECT_FALSE(ring_->acceptors[2]->coordinator().active());
  disks_[2]->hold = false;
  write_all(2);
  run(1'000);
  EXPECT_FALSE(ring_->acceptors[2]->coordinator().active());
  disks_[1]->hold = false;
  write_all(1);
  run(1'000);
  EXPECT_TRUE(ring_->acceptors[2]->coordinator().active());
}

}  // namespace
}  // namespace annulus::recovery
