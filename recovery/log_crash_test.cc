// Crash consistency: whatever subset of the writes under way is on disk when the power goes, the
// log recovers to a state that contains all that was acknowledged, and takes nothing for damage.
#include <set>

#include "tests/support/log_fixture.h"

namespace annulus::recovery {
namespace {

using support::LogTest;
using support::MemoryDisk;

class LogCrashTest : public LogTest {
 protected:
  struct Kept {
    std::uint64_t number = 0;
    std::uint64_t instance = 0;  // 0: a promise
    std::uint64_t ballot = 0;
  };

  /// Keeps something at random, as an acceptor would: instances rise, some are accepted again at a
  /// higher ballot, chosen_below follows.
  void keep_something(std::mt19937_64& random) {
    if (random() % 16 == 0) {
      promise(++ballot_);
      kept_.push_back({number_, 0, ballot_});
      return;
    }
    const bool again = next_ > chosen_ && random() % 8 == 0;
    const std::uint64_t instance = again ? chosen_ + random() % (next_ - chosen_) : next_++;
    const std::uint32_t bytes = random() % 4 == 0 ? random() % 20'000 : random() % 300;
    if (again) ++ballot_;
    accept(instance, ballot_, chosen_, bytes);
    kept_.push_back({number_, instance, ballot_});
  }
  /// The others decide, also what is not durable here: of that the log must not know, when it is
  /// read back, that it was chosen, or there would be something missing.
  void choose(std::mt19937_64& random) {
    if (next_ > chosen_ && random() % 4 == 0) chosen_ += random() % (next_ - chosen_ + 1);
  }
  void check_recovered() {
    ASSERT_EQ(log_->findings(), "");
    ASSERT_TRUE(log_->recovered().missing.empty());
    ASSERT_TRUE(log_->recovered().unknown.empty());
    for (const Kept& each : kept_) {
      if (each.number > durable_) continue;
      if (each.instance == 0) {
        ASSERT_GE(raw(log_->recovered().promised), each.ballot);
      } else {
        must_have_[each.instance] = std::max(must_have_[each.instance], each.ballot);
      }
    }
    for (const auto& [instance, ballot] : must_have_) {
      const std::uint64_t found = read(instance);
      ASSERT_GE(found, ballot) << "instance " << instance;
      must_have_[instance] = found;  // what is read back is durable from now on
    }
    chosen_ = raw(log_->recovered().chosen_below);
    ASSERT_GE(chosen_, 1u);
    next_ = chosen_;
    for (const auto& accepted : log_->recovered().accepted) {
      next_ = std::max(next_, raw(accepted.instance) + 1);
      must_have_[raw(accepted.instance)] = raw(accepted.ballot);
    }
    if (!must_have_.empty()) next_ = std::max(next_, must_have_.rbegin()->first + 1);
    kept_.clear();
    durable_ = 0;
  }

  std::vector<Kept> kept_;
  std::map<std::uint64_t, std::uint64_t> must_have_;
  std::uint64_t ballot_ = 1;
  std::uint64_t next_ = 1;
  std::uint64_t chosen_ = 1;
  std::uint64_t durable_ = 0;
};

TEST_F(LogCrashTest, AnySubsetOfTheWritesUnderWayIsSurvived) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    format(4'096);
    kept_.clear();
    must_have_.clear();
    ballot_ = next_ = chosen_ = 1;
    durable_ = 0;
    for (int life = 0; life < 6; ++life) {
      ASSERT_EQ(open(static_cast<std::uint32_t>(1 + random() % 8)), "");
      check_recovered();
      if (HasFatalFailure()) return;
      disk_->hold = true;
      for (std::uint64_t turns = random() % 120; turns != 0; --turns) {
        for (std::uint64_t i = random() % 5; i != 0; --i) keep_something(random);
        log_->submit(now_);
        while (!disk_->writes().empty() && random() % 3 != 0) {
          disk_->complete(random() % disk_->writes().size());
        }
        durable_ =
            std::max(durable_, poll(random() % 2 == 0 ? kMicrosecond : kMillisecond).durable);
        choose(random);
      }
      disk_->lose_power(random);
    }
  }
}

TEST_F(LogCrashTest, NothingIsKnownChosenWhoseRecordIsNotDurable) {
  format(4'096);
  ASSERT_EQ(open(), "");
  disk_->hold = true;
  for (std::uint64_t instance = 1; instance <= 3; ++instance) {
    accept(instance, 1, instance, 100);  // those before are chosen
    log_->submit(now_);
  }
  promise(2);
  log_->submit(now_);
  ASSERT_EQ(disk_->writes().size(), 4u);
  disk_->complete(3);  // both copies of the superblock, and no record
  poll();
  disk_->complete(3);
  poll();
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->recovered().promised, consensus::Ballot{2});
  EXPECT_TRUE(log_->recovered().missing.empty());
}

TEST_F(LogCrashTest, TornGroupTellsNothingOfWhatItLost) {
  format(4'096);
  ASSERT_EQ(open(), "");
  accept(1, 1, 1, 100);
  rest();
  disk_->hold = true;
  accept(2, 2, 1, 3'900);
  accept(1, 2, 1, 3'000);  // proposed again
  accept(3, 2, 2, 3'000);  // and decided
  log_->submit(now_);
  ASSERT_EQ(disk_->writes().size(), 1u);
  const MemoryDisk::Write write = disk_->writes()[0];
  ASSERT_GT(write.data.size(), std::size_t{kBlockBytes});
  std::memcpy(platter_->bytes.data() + write.offset, write.data.data(), kBlockBytes);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(read(1), 1u);
  EXPECT_EQ(log_->recovered().chosen_below, Instance{1});
  EXPECT_TRUE(log_->recovered().missing.empty());
}

/// Every prefix of the blocks written, in order, the last one whole or torn at any sector.
TEST_F(LogCrashTest, EveryPrefixOfTheWritesIsSurvived) {
  format(128);
  ASSERT_EQ(open(), "");
  const auto begun = platter_->bytes;
  disk_->hold = true;
  struct Step {
    MemoryDisk::Write write;
    std::uint64_t durable;  // acknowledged before it
  };
  std::vector<Step> steps;
  std::vector<Kept> all;
  std::mt19937_64 random(5);
  for (int i = 0; i < 25; ++i) {
    keep_something(random);
    log_->submit(now_);
    while (!disk_->writes().empty()) {
      steps.push_back({disk_->writes()[0], durable_});
      disk_->complete(0);
      durable_ = poll().durable;
    }
  }
  all = kept_;
  std::uint64_t crashes = 0;
  auto written = begun;
  for (const Step& step : steps) {
    for (std::size_t sectors = 0; sectors * MemoryDisk::kSectorBytes <= step.write.data.size();
         ++sectors) {
      platter_->bytes = written;
      std::memcpy(platter_->bytes.data() + step.write.offset, step.write.data.data(),
                  sectors * MemoryDisk::kSectorBytes);
      kept_ = all;
      must_have_.clear();
      durable_ = step.durable;
      ASSERT_EQ(open(), "");
      check_recovered();
      if (HasFatalFailure()) return;
      ++crashes;
    }
    std::memcpy(written.data() + step.write.offset, step.write.data.data(), step.write.data.size());
  }
  EXPECT_GT(crashes, 300u);
}

}  // namespace
}  // namespace annulus::recovery
