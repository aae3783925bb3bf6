#include "dataplane/core_loop.h"

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <utility>

namespace annulus::dataplane {
namespace {

/// How long a loop keeps a core that nobody else seems to want. Yielding costs 0.6 us, so this is
/// 1 %.
constexpr Nanos kYieldQuantum = 50 * kMicrosecond;
/// A yield that took longer let somebody else run: 0.6 us is the system call alone, and the
/// shortest turn of another, with two switches, takes twice this.
constexpr Nanos kContendedYield = 1'500;
/// `sleep` rests only after this long without work where nothing wakes it: what came meanwhile
/// waits for the end of the rest.
constexpr Nanos kAwakeAfterWork = 200 * kMicrosecond;
/// Longest rest when some stage's input cannot be waited for.
constexpr Nanos kBlindSleepMax = kMillisecond;
/// Longest rest otherwise; bounds how late stop() is noticed.
constexpr Nanos kSleepMax = 10 * kMillisecond;
/// Stages of one core whose input is waited for; those beyond are treated as having none.
constexpr std::size_t kWaitMax = 64;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

}  // namespace

template <>
const std::array<const char*, static_cast<std::size_t>(LoopCounter::kCount)>
    CounterNames<LoopCounter>::names = {"turns",       "idle_turns", "yields",       "sleeps",
                                        "slept_nanos", "stalls",     "stalled_nanos"};

const char* to_string(IdlePolicy policy) {
  switch (policy) {
    case IdlePolicy::kSpin:
      return "spin";
    case IdlePolicy::kYield:
      return "yield";
    case IdlePolicy::kSleep:
      return "sleep";
  }
  return "unknown";
}

Result<IdlePolicy> parse_idle_policy(const std::string& text) {
  for (const IdlePolicy policy : {IdlePolicy::kSpin, IdlePolicy::kYield, IdlePolicy::kSleep}) {
    if (text == to_string(policy)) return policy;
  }
  return Error{"'" + text + "' is not an idle policy; write spin, yield or sleep"};
}

CoreLoop::CoreLoop(std::vector<Stage*> stages, const LoopOptions& options, Clock& clock)
    : stages_(std::move(stages)), options_(options), clock_(clock) {
  woken_ = std::any_of(stages_.begin(), stages_.end(),
                       [](const Stage* stage) { return stage->wait_descriptor() >= 0; });
  CHECK(!stages_.empty() && options.budget > 0 && options.stall_threshold > 0);
}

void CoreLoop::run() {
  // Timers of this thread may otherwise fire 50 us late.
  if (options_.idle == IdlePolicy::kSleep) prctl(PR_SET_TIMERSLACK, 1);
  Nanos last = clock_.now();
  Nanos last_work = last;
  last_yield_ = last;
  contended_ = true;  // until a yield shows otherwise
  const bool rests_at_once = options_.idle == IdlePolicy::kSleep && woken_;
  const bool yields = options_.idle != IdlePolicy::kSpin && !rests_at_once;
  const Nanos awake = rests_at_once ? 0 : kAwakeAfterWork;
  while (!stopped_.load(std::memory_order_relaxed)) {
    const Nanos now = clock_.now();
    note_gap(now - std::max(last, std::exchange(slept_until_, 0)));
    last = now;
    const Turn done = turn(now);
    counters_[LoopCounter::kTurns].add();
    if (done.work != 0) {
      last_work = now;
      if (yields && now - last_yield_ >= kYieldQuantum) yield(now);
      continue;
    }
    counters_[LoopCounter::kIdleTurns].add();
    if (options_.idle == IdlePolicy::kSleep && now - last_work >= awake && done.deadline > now) {
      sleep(now, done.deadline);
    } else if (!yields) {
      relax();
    } else if (contended_ || now - last_yield_ >= kYieldQuantum) {
      yield(now);
    } else {
      relax();
    }
  }
}

CoreLoop::Turn CoreLoop::turn(Nanos now) {
  Turn done;
  std::uint64_t before = cycles_now();
  for (Stage* stage : stages_) {
    const PollResult result = stage->poll(now, options_.budget);
    const std::uint64_t after = cycles_now();
    const std::uint64_t cycles = after - before;
    before = after;
    Counters<StageCounter>& counters = stage->stage_counters();
    counters[StageCounter::kTurns].add();
    if (result.work != 0) {
      counters[StageCounter::kUsefulTurns].add();
      counters[StageCounter::kItems].add(result.work);
      counters[StageCounter::kUsefulCycles].add(cycles);
    } else {
      counters[StageCounter::kIdleCycles].add(cycles);
    }
    if (cycles > counters[StageCounter::kLongestTurnCycles].get()) {
      counters[StageCounter::kLongestTurnCycles].set(cycles);
    }
    done.work += result.work;
    done.deadline = std::min(done.deadline, result.deadline);
  }
  return done;
}

void CoreLoop::note_gap(Nanos gap) {
  if (gap <= options_.stall_threshold) [[likely]]
    return;
  counters_[LoopCounter::kStalls].add();
  counters_[LoopCounter::kStalledNanos].add(static_cast<std::uint64_t>(gap));
  stalls_.record(static_cast<std::uint64_t>(gap));
}

void CoreLoop::yield(Nanos now) {
  const Nanos before = clock_.now();
  sched_yield();
  contended_ = clock_.now() - before > kContendedYield;
  last_yield_ = now;
  counters_[LoopCounter::kYields].add();
}

void CoreLoop::sleep(Nanos now, Nanos deadline) {
  std::array<pollfd, kWaitMax> waits;
  nfds_t count = 0;
  Nanos longest = kSleepMax;
  for (Stage* stage : stages_) {
    const int descriptor = stage->wait_descriptor();
    if (descriptor < 0 || count == kWaitMax) {
      longest = kBlindSleepMax;
    } else {
      waits[count++] = {descriptor, POLLIN, 0};
    }
  }
  longest = std::min(longest, deadline - now);
  const timespec timeout{longest / kSecond, longest % kSecond};
  ppoll(waits.data(), count, &timeout, nullptr);
  const Nanos woken = clock_.now();
  counters_[LoopCounter::kSleeps].add();
  counters_[LoopCounter::kSleptNanos].add(static_cast<std::uint64_t>(woken - now));
  slept_until_ = now + longest;
}

}  // namespace annulus::dataplane
