#include "statemachine/blocking_client.h"

#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <cstring>

namespace annulus::statemachine {

void BlockingClient::Sink::on_completions(std::span<const Completion> completions, Nanos) {
  for (const Completion& completion : completions) {
    reply.status = completion.status;
    reply.bytes.assign(completion.reply.begin(), completion.reply.end());
    done = true;
  }
}

BlockingClient::BlockingClient(const ClientOptions& options,
                               const consensus::Configuration& configuration,
                               dataplane::Transport& transport, dataplane::Clock& clock)
    : deadline_(options.deadline),
      clock_(clock),
      client_(options, configuration, transport, sink_) {}

/// Works, or rests until something may have arrived.
void BlockingClient::turn() {
  const Nanos now = clock_.now();
  const dataplane::PollResult result = client_.poll(now, 64);
  if (result.work != 0 || result.deadline <= now) return;
  const int descriptor = client_.wait_descriptor();
  if (descriptor < 0) {
    sched_yield();
    return;
  }
  pollfd wait{descriptor, POLLIN, 0};
  const Nanos rest = std::min<Nanos>(result.deadline - now, 10 * kMillisecond);
  const timespec timeout{0, static_cast<long>(rest)};
  ppoll(&wait, 1, &timeout, nullptr);
}

Status BlockingClient::ready_session(Nanos until) {
  for (; clock_.now() < until; turn()) {
    const SessionState state =
        have_session_ ? client_.session_state(session_) : SessionState::kClosed;
    if (state == SessionState::kReady) return {};
    if (state == SessionState::kOpening) continue;
    if (state == SessionState::kRefused) {
      client_.close_session(session_, clock_.now());
      have_session_ = false;
      return Error{"the cluster's session table is full; close sessions, or raise its limit"};
    }
    if (have_session_) client_.close_session(session_, clock_.now());
    auto opened = client_.open_session(1);
    if (!opened) return opened.error();
    session_ = *opened;
    have_session_ = true;
  }
  return Error{
      "no session could be opened before the deadline: no coordinator or replica answers; "
      "check that the cluster runs and that its addresses are reachable from here"};
}

Result<BlockingClient::Reply> BlockingClient::call(std::uint8_t service, std::uint8_t flags,
                                                   std::span<const std::byte> body,
                                                   Nanos deadline) {
  const Nanos until = clock_.now() + (deadline != 0 ? deadline : deadline_);
  for (;;) {
    if (Status status = ready_session(until); !status.ok()) return status.error();
    const Nanos now = clock_.now();
    std::span<std::byte> place;
    const SubmitOutcome outcome =
        client_.submit(session_, service, flags, static_cast<std::uint32_t>(body.size()), 0, now,
                       place, std::max<Nanos>(until - now, 1));
    if (outcome == SubmitOutcome::kTooLarge) return Reply{CommandStatus::kTooLarge, {}};
    if (outcome == SubmitOutcome::kAccepted) {
      if (!body.empty()) std::memcpy(place.data(), body.data(), body.size());
      sink_.done = false;
      while (!sink_.done) turn();
      // An expired session executed nothing: the command may go out again under a new one.
      if (sink_.reply.status != CommandStatus::kNoSuchSession || clock_.now() >= until) {
        return sink_.reply;
      }
    } else {
      turn();
    }
  }
}

}  // namespace annulus::statemachine
