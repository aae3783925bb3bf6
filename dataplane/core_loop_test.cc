// The core loop: polling order, counters, stalls, and what each idle policy does.
#include "dataplane/core_loop.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace annulus::dataplane {
namespace {

struct ScriptedStage final : Stage {
  explicit ScriptedStage(std::function<PollResult(Nanos, std::uint32_t)> script)
      : script_(std::move(script)) {}
  PollResult poll(Nanos now, std::uint32_t budget) override { return script_(now, budget); }
  const char* name() const override { return "scripted"; }
  int wait_descriptor() const override { return descriptor; }

  int descriptor = -1;

 private:
  std::function<PollResult(Nanos, std::uint32_t)> script_;
};

std::uint64_t count(const CoreLoop& loop, LoopCounter which) {
  return loop.counters()[which].get();
}

TEST(CoreLoop, PollsInOrderWithBudgetAndOneTimeATurn) {
  ManualClock clock;
  std::string order;
  CoreLoop* running = nullptr;
  int turns = 0;
  ScriptedStage first([&](Nanos now, std::uint32_t budget) {
    EXPECT_EQ(now, turns * kMicrosecond);
    EXPECT_EQ(budget, 7u);
    order += 'a';
    return PollResult{2, kNever};
  });
  ScriptedStage second([&](Nanos now, std::uint32_t) {
    EXPECT_EQ(now, turns * kMicrosecond);
    order += 'b';
    clock.advance(kMicrosecond);
    if (++turns == 3) running->stop();
    return PollResult{};
  });
  CoreLoop loop({&first, &second}, {.idle = IdlePolicy::kSpin, .budget = 7}, clock);
  running = &loop;
  loop.run();
  EXPECT_EQ(order, "ababab");
  EXPECT_EQ(first.stage_counters()[StageCounter::kTurns].get(), 3u);
  EXPECT_EQ(first.stage_counters()[StageCounter::kUsefulTurns].get(), 3u);
  EXPECT_EQ(first.stage_counters()[StageCounter::kItems].get(), 6u);
  EXPECT_GT(first.stage_counters()[StageCounter::kUsefulCycles].get(), 0u);
  EXPECT_EQ(first.stage_counters()[StageCounter::kIdleCycles].get(), 0u);
  EXPECT_EQ(second.stage_counters()[StageCounter::kUsefulTurns].get(), 0u);
  EXPECT_GT(second.stage_counters()[StageCounter::kIdleCycles].get(), 0u);
  EXPECT_GT(second.stage_counters()[StageCounter::kLongestTurnCycles].get(), 0u);
  EXPECT_EQ(count(loop, LoopCounter::kTurns), 3u);
  EXPECT_EQ(count(loop, LoopCounter::kIdleTurns), 0u);
  EXPECT_EQ(count(loop, LoopCounter::kStalls), 0u);
}

TEST(CoreLoop, CountsAStallAndItsLength) {
  ManualClock clock;
  CoreLoop* running = nullptr;
  int turns = 0;
  ScriptedStage stage([&](Nanos, std::uint32_t) {
    clock.advance(++turns == 2 ? 30 * kMillisecond : 900 * kMicrosecond);
    if (turns == 4) running->stop();
    return PollResult{};
  });
  CoreLoop loop({&stage}, {.idle = IdlePolicy::kSpin}, clock);
  running = &loop;
  loop.run();
  EXPECT_EQ(count(loop, LoopCounter::kStalls), 1u);
  EXPECT_EQ(count(loop, LoopCounter::kStalledNanos), 30'000'000u);
  EXPECT_EQ(loop.stalls().snapshot().count, 1u);
  EXPECT_EQ(loop.stalls().snapshot().max, 30'000'000u);
}

TEST(CoreLoop, SpinNeverLeavesTheCore) {
  TscClock clock;
  CoreLoop* running = nullptr;
  int turns = 0;
  ScriptedStage stage([&](Nanos, std::uint32_t) {
    if (++turns == 10'000) running->stop();
    return PollResult{};
  });
  CoreLoop loop({&stage}, {.idle = IdlePolicy::kSpin}, clock);
  running = &loop;
  loop.run();
  EXPECT_EQ(count(loop, LoopCounter::kIdleTurns), 10'000u);
  EXPECT_EQ(count(loop, LoopCounter::kYields), 0u);
  EXPECT_EQ(count(loop, LoopCounter::kSleeps), 0u);
}

TEST(CoreLoop, YieldOffersAnUncontendedCoreOnceAQuantum) {
  ManualClock clock;
  CoreLoop* running = nullptr;
  int turns = 0;
  for (const std::uint32_t work : {1u, 0u}) {
    turns = 0;
    ScriptedStage stage([&](Nanos, std::uint32_t) {
      clock.advance(kMicrosecond);
      if (++turns == 1'001) running->stop();
      return PollResult{work, kNever};
    });
    CoreLoop loop({&stage}, {.idle = IdlePolicy::kYield}, clock);
    running = &loop;
    loop.run();
    // The first idle turn cannot know yet that nobody else is there.
    EXPECT_EQ(count(loop, LoopCounter::kYields), work != 0 ? 20u : 21u);
    EXPECT_EQ(count(loop, LoopCounter::kSleeps), 0u);
  }
}

/// Every look at it takes a while, so a yield seems to have let somebody else run.
struct BusyCoreClock final : Clock {
  Nanos now() override { return now_ += 2 * kMicrosecond; }

 private:
  Nanos now_ = 0;
};

TEST(CoreLoop, YieldOffersAContendedCoreAtEveryIdleTurn) {
  BusyCoreClock clock;
  CoreLoop* running = nullptr;
  int turns = 0;
  ScriptedStage stage([&](Nanos, std::uint32_t) {
    if (++turns == 1'000) running->stop();
    return PollResult{};
  });
  CoreLoop loop({&stage}, {.idle = IdlePolicy::kYield}, clock);
  running = &loop;
  loop.run();
  EXPECT_EQ(count(loop, LoopCounter::kYields), 1'000u);
}

TEST(CoreLoop, SleepRestsUntilTheDeadline) {
  TscClock clock;
  CoreLoop* running = nullptr;
  const Nanos start = clock.now();
  const Nanos deadline = start + 30 * kMillisecond;
  std::uint64_t turns = 0;
  Nanos stopped_at = 0;
  ScriptedStage stage([&](Nanos now, std::uint32_t) {
    ++turns;
    if (now < deadline) return PollResult{0, deadline};
    stopped_at = now;
    running->stop();
    return PollResult{1, kNever};
  });
  CoreLoop loop({&stage}, {.idle = IdlePolicy::kSleep, .stall_threshold = kSecond}, clock);
  running = &loop;
  loop.run();
  EXPECT_GE(stopped_at, deadline);
  EXPECT_GE(count(loop, LoopCounter::kSleeps), 10u);  // 1 ms each without a descriptor
  EXPECT_GE(count(loop, LoopCounter::kSleptNanos), 15'000'000u);
  EXPECT_EQ(count(loop, LoopCounter::kStalls), 0u);
}

TEST(CoreLoop, SleepWakesForADescriptor) {
  TscClock clock;
  CoreLoop* running = nullptr;
  ScriptedStage stage([&](Nanos, std::uint32_t) {
    std::uint64_t value = 0;
    if (read(stage.descriptor, &value, sizeof value) != sizeof value) return PollResult{};
    running->stop();
    return PollResult{1, kNever};
  });
  stage.descriptor = eventfd(0, EFD_NONBLOCK);
  ASSERT_GE(stage.descriptor, 0);
  CoreLoop loop({&stage}, {.idle = IdlePolicy::kSleep}, clock);
  running = &loop;
  std::thread runner([&] { loop.run(); });
  while (count(loop, LoopCounter::kSleeps) < 3) std::this_thread::yield();
  const std::uint64_t one = 1;
  ASSERT_EQ(write(stage.descriptor, &one, sizeof one), 8);
  runner.join();
  // Long rests, because there is something to wait for: a blind loop would have made ten times as
  // many turns.
  EXPECT_GE(count(loop, LoopCounter::kSleptNanos) / count(loop, LoopCounter::kSleeps), 2'000'000u);
  close(stage.descriptor);
}

TEST(CoreLoop, SleepRestsAtOnceAndNeverYieldsWhereInputWakesIt) {
  BusyCoreClock clock;
  CoreLoop* running = nullptr;
  int turns = 0;
  ScriptedStage waited([&](Nanos, std::uint32_t) {
    if (++turns == 100) running->stop();
    return PollResult{turns % 2 == 0 ? 0u : 1u, kNever};
  });
  ScriptedStage blind([](Nanos, std::uint32_t) { return PollResult{}; });
  waited.descriptor = eventfd(1, EFD_NONBLOCK);
  ASSERT_GE(waited.descriptor, 0);
  CoreLoop loop({&waited, &blind}, {.idle = IdlePolicy::kSleep}, clock);
  running = &loop;
  loop.run();
  EXPECT_EQ(count(loop, LoopCounter::kSleeps), 50u);
  EXPECT_EQ(count(loop, LoopCounter::kYields), 0u);
  close(waited.descriptor);
}

TEST(CoreLoop, SleepNeverRestsPastADeadlineThatIsDue) {
  ManualClock clock;
  CoreLoop* running = nullptr;
  int turns = 0;
  ScriptedStage stage([&](Nanos now, std::uint32_t) {
    clock.advance(kMillisecond);
    if (++turns == 100) running->stop();
    return PollResult{0, now};
  });
  CoreLoop loop({&stage}, {.idle = IdlePolicy::kSleep, .stall_threshold = kSecond}, clock);
  running = &loop;
  loop.run();
  EXPECT_EQ(count(loop, LoopCounter::kSleeps), 0u);
}

TEST(CoreLoop, StopsFromAnotherThread) {
  TscClock clock;
  for (const IdlePolicy idle : {IdlePolicy::kSpin, IdlePolicy::kYield, IdlePolicy::kSleep}) {
    std::atomic<int> turns{0};
    ScriptedStage stage([&](Nanos, std::uint32_t) {
      turns.fetch_add(1, std::memory_order_relaxed);
      return PollResult{};
    });
    CoreLoop loop({&stage}, {.idle = idle}, clock);
    std::thread runner([&] { loop.run(); });
    while (turns.load(std::memory_order_relaxed) < 10) std::this_thread::yield();
    loop.stop();
    runner.join();
  }
}

TEST(IdlePolicy, ParsesWhatItPrints) {
  for (const IdlePolicy idle : {IdlePolicy::kSpin, IdlePolicy::kYield, IdlePolicy::kSleep}) {
    EXPECT_EQ(parse_idle_policy(to_string(idle)).value(), idle);
  }
  const Result<IdlePolicy> wrong = parse_idle_policy("Spin");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "'Spin' is not an idle policy; write spin, yield or sleep");
}

}  // namespace
}  // namespace annulus::dataplane
