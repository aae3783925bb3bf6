#include "tools/chaos/load.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace annulus::chaos {

using statemachine::SessionState;
using statemachine::SubmitOutcome;

Load::Load(const LoadOptions& options, const statemachine::ClientOptions& client,
           const consensus::Configuration& ring, dataplane::Transport& transport)
    : options_(options),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      mix_(options.seed),
      client_(client, ring, transport, *this),
      redis_(options.proxy, history_, epoll_) {
  CHECK(epoll_ >= 0);
  epoll_event event{.events = EPOLLIN, .data = {}};
  const int descriptor = client_.wait_descriptor();
  waits_ = descriptor >= 0 && epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

Load::~Load() { close(epoll_); }

bool Load::submit_native(const Waiting& waiting, Nanos now) {
  const std::string body = body_of(waiting.command);
  const std::uint64_t id = history_.entries().size() + 1;  // what begin() will give
  const auto flags = static_cast<std::uint8_t>(waiting.command.write ? 0 : statemachine::kReadOnly);
  for (std::uint32_t i = 0; i < sessions_.size(); ++i) {
    const std::uint32_t session = session_++ % kSessions;
    std::span<std::byte> into;
    const SubmitOutcome outcome =
        client_.submit(sessions_[session], service_of(waiting.command), flags,
                       static_cast<std::uint32_t>(body.size()), id, now, into);
    if (outcome == SubmitOutcome::kBusy) return false;
    if (outcome != SubmitOutcome::kAccepted) continue;
    std::memcpy(into.data(), body.data(), body.size());
    CHECK(history_.begin(waiting.command, true, waiting.intended, now) == id);
    return true;
  }
  return false;
}

void Load::arrive(Nanos now) {
  if (schedule_ == 0) schedule_ = now;
  for (; schedule_ <= now; schedule_ += mix_.gap(options_.rate)) {
    (through_proxy_ ? waiting_proxy_ : waiting_native_).push_back({mix_.draw(), schedule_});
    through_proxy_ = !through_proxy_;
  }
}

void Load::send_waiting(Nanos now) {
  while (!waiting_native_.empty() && submit_native(waiting_native_.front(), now)) {
    waiting_native_.pop_front();
  }
  while (!waiting_proxy_.empty()) {
    const Waiting& first = waiting_proxy_.front();
    if (!redis_.submit(first.command, first.intended, now)) break;
    waiting_proxy_.pop_front();
  }
}

/// Some reads at a time; one that is not answered is sent again.
void Load::read_all(Nanos now) {
  if (!std::exchange(reading_, true)) unread_[0] = unread_[1] = mix_.objects();
  for (int native = 0; native < 2; ++native) {
    auto& unread = unread_[native];
    auto& reads = reads_[native];
    for (const std::uint64_t id : std::exchange(reads, {})) {
      const Entry& entry = history_.entries()[id - 1];
      if (entry.end == End::kOpen) reads.push_back(id);
      if (entry.end == End::kOpen || entry.end == End::kAnswered) continue;
      unread.insert(entry.command.object);
    }
    while (!unread.empty() && reads.size() < kReadsAtOnce) {
      const Command read{*unread.begin(), false, 0};
      const bool sent =
          native != 0 ? submit_native({read, now}, now) : redis_.submit(read, now, now);
      if (!sent) break;
      reads.push_back(history_.entries().size());
      unread.erase(unread.begin());
    }
  }
}

dataplane::PollResult Load::poll(Nanos now, std::uint32_t budget) {
  if (now - kStallLeast >= wanted_) stalls_.push_back({wanted_, now - wanted_});
  while (sessions_.size() < kSessions) {
    const auto session = client_.open_session(kWindow);
    if (!session) break;
    sessions_.push_back(session.value());
  }
  // One that the cluster has forgotten is replaced, as its users must.
  for (statemachine::SessionHandle& session : sessions_) {
    const SessionState state = client_.session_state(session);
    if (state != SessionState::kExpired && state != SessionState::kRefused) continue;
    client_.close_session(session, now);
    if (const auto again = client_.open_session(kWindow)) session = again.value();
  }
  const Phase phase = phase_.load(std::memory_order_acquire);
  if (phase == Phase::kRunning) arrive(now);
  send_waiting(now);
  const std::uint64_t before = history_.entries().size();
  if (phase == Phase::kReading) read_all(now);
  const std::uint32_t answered = redis_.poll(now);
  proxy_answered_.add(answered);
  dataplane::PollResult result = client_.poll(now, budget);
  result.work += answered + static_cast<std::uint32_t>(history_.entries().size() - before);
  const bool idle = waiting_native_.empty() && waiting_proxy_.empty() &&
                    client_.outstanding() == 0 && redis_.outstanding() == 0;
  const bool all_read = reading_ && unread_[0].empty() && unread_[1].empty() && reads_[0].empty() &&
                        reads_[1].empty();
  const bool done = idle && (phase == Phase::kIdle || (phase == Phase::kReading && all_read));
  settled_.store(done ? phase : Phase::kNone, std::memory_order_release);
  result.deadline = std::min({result.deadline, redis_.deadline(), now + 2 * kMillisecond});
  if (phase == Phase::kRunning) result.deadline = std::min(result.deadline, schedule_);
  wanted_ = std::max(result.deadline, now);
  return result;
}

void Load::on_completions(std::span<const statemachine::Completion> completions, Nanos now) {
  for (const statemachine::Completion& completion : completions) {
    history::Outcome outcome;
    const End end = end_of(completion, outcome);
    history_.finish(completion.tag, end, std::move(outcome), now);
    native_answered_.add(end == End::kAnswered ? 1 : 0);
  }
}

}  // namespace annulus::chaos
