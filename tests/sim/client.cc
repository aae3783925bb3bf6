#include "tests/sim/client.h"

#include <algorithm>
#include <cstring>

namespace annulus::sim {

using statemachine::Completion;
using statemachine::SessionState;
using statemachine::SubmitOutcome;

namespace {

std::uint32_t sessions_of(ClientKind kind) { return kind == ClientKind::kPipelined ? 3 : 1; }
std::uint32_t window_of(ClientKind kind) { return kind == ClientKind::kSingle ? 1 : 32; }

}  // namespace

SimClient::SimClient(const SimClientOptions& options, const consensus::Configuration& configuration,
                     dataplane::Transport& transport, Rng rng, History& history, Trace& trace)
    : options_(options),
      rng_(rng),
      workload_(rng_.fork(), options.workload),
      history_(history),
      trace_(trace),
      client_(options.client, configuration, transport, *this),
      sessions_(sessions_of(options.kind)) {
  open_sessions();
}

void SimClient::open_sessions() {
  for (Session& session : sessions_) {
    const bool open = client_.session_state(session.handle) != SessionState::kClosed;
    if (session.left != 0 && open) continue;
    // Some keep replies of any size, so that a lost one is answered from the cache; others do not.
    const std::uint32_t reply_bytes = rng_.coin() ? 64 : 30'000;
    const auto handle = client_.open_session(window_of(options_.kind), reply_bytes);
    if (!handle) return;
    session.handle = handle.value();
    session.log = history_.sessions.size();
    session.used = false;
    session.left = options_.kind == ClientKind::kChurning
                       ? static_cast<std::uint32_t>(rng_.between(20, 200))
                       : ~std::uint32_t{0};
    history_.sessions.push_back({options_.index, {}});
  }
}

void SimClient::retire(Session& session, Nanos now) {
  client_.close_session(session.handle, now);
  session.left = 0;
  open_sessions();
}

void SimClient::draw_next() {
  history_.writers.push_back(0);
  next_writer_ = history_.writers.size();
  const std::string writer =
      "<" + std::to_string(options_.index) + "." + std::to_string(next_writer_) + ">";
  next_session_ = rng_.below(sessions_.size());
  // A session's first command writes its writer's name, so that the session can be told.
  do {
    next_ =
        options_.across ? workload_.draw_across(writer) : workload_.draw(options_.space, writer);
  } while (!sessions_[next_session_].used &&
           (next_.read_only || next_.body.find(writer) == std::string::npos));
  has_next_ = true;
}

bool SimClient::submit_one(Nanos now) {
  if (!has_next_) draw_next();
  Session& session = sessions_[next_session_];
  const SessionState state = client_.session_state(session.handle);
  if (state == SessionState::kExpired || state == SessionState::kRefused) {
    retire(session, now);
    return false;
  }
  const auto flags = static_cast<std::uint8_t>(next_.read_only ? statemachine::kReadOnly : 0);
  const bool impatient = options_.kind == ClientKind::kImpatient && rng_.chance(300'000);
  const Nanos deadline = impatient ? rng_.between(20, 3'000) * kMicrosecond : 0;
  const std::uint64_t id = history_.operations.size() + 1;
  std::span<std::byte> body;
  const SubmitOutcome outcome =
      client_.submit(session.handle, next_.service, flags,
                     static_cast<std::uint32_t>(next_.body.size()), id, now, body, deadline);
  if (outcome != SubmitOutcome::kAccepted) {
    if (outcome == SubmitOutcome::kTooLarge) has_next_ = false;  // several large values at once
    return false;
  }
  std::memcpy(body.data(), next_.body.data(), body.size());
  Recorded recorded;
  recorded.operation = {id, now, kNever, next_.service, next_.body, {}};
  recorded.client = options_.index;
  recorded.read_only = next_.read_only;
  recorded.log = session.log;
  history_.writers[next_writer_ - 1] = id;
  history_.operations.push_back(std::move(recorded));
  history_.sessions[session.log].operations.push_back(id);
  session.used = true;
  has_next_ = false;
  ++submitted_;
  ++outstanding_;
  if (--session.left == 0) retire(session, now);
  return true;
}

dataplane::PollResult SimClient::poll(Nanos now, std::uint32_t budget) {
  std::uint32_t work = 0;
  while (submitted_ < options_.commands && submit_at_ <= now && work < budget) {
    if (!submit_one(now)) {
      submit_at_ = now + rng_.between(1, 50) * kMicrosecond;
      break;
    }
    ++work;
    if (burst_left_ > 0) {
      --burst_left_;
      continue;
    }
    burst_left_ = rng_.chance(400'000) ? static_cast<std::uint32_t>(rng_.below(30)) : 0;
    submit_at_ = now + rng_.between(0, options_.think_max * (burst_left_ + 1));
  }
  const dataplane::PollResult result = client_.poll(now, budget);
  const bool more = submitted_ < options_.commands;
  return {work + result.work, more ? std::min(result.deadline, submit_at_) : result.deadline};
}

void SimClient::on_completions(std::span<const Completion> completions, Nanos now) {
  for (const Completion& completion : completions) {
    CHECK(completion.tag >= 1 && completion.tag <= history_.operations.size());
    Recorded& recorded = history_.operations[completion.tag - 1];
    CHECK(recorded.client == options_.index && recorded.operation.returned == kNever);
    --outstanding_;
    ++history_.completed;
    trace_.mix(TraceEvent::kCompletion, static_cast<std::uint64_t>(now), completion.tag,
               static_cast<std::uint64_t>(completion.status));
    switch (completion.status) {
      case CommandStatus::kOutcomeUnknown:
      case CommandStatus::kNotSent:
        ++history_.unknown;
        continue;  // as far as the checkers go, it never returned
      case CommandStatus::kReplyDropped:
        ++history_.replies_dropped;
        recorded.operation.reply_known = false;
        break;
      case CommandStatus::kNoSuchSession:
      case CommandStatus::kStaleSequence:
        ++history_.refused_by_session;
        break;
      default:
        break;
    }
    recorded.operation.returned = now;
    recorded.operation.outcome = {completion.status, as_string(completion.reply)};
  }
}

std::string SimClient::describe() const {
  static constexpr const char* kKinds[] = {"pipelined", "single", "impatient", "churning"};
  std::string text = "client " + std::to_string(options_.index) + " (" +
                     kKinds[static_cast<std::size_t>(options_.kind)] +
                     "): " + std::to_string(submitted_) + " of " +
                     std::to_string(options_.commands) + " submitted, " +
                     std::to_string(outstanding_) + " outstanding";
  if (done()) return text;
  text += "; sessions";
  for (const Session& session : sessions_) {
    text += " " + std::to_string(static_cast<int>(client_.session_state(session.handle)));
  }
  const auto& counters = client_.proposer_counters();
  for (std::size_t i = 0; i < counters.values().size(); ++i) {
    text += std::string(i == 0 ? "; " : ", ") + counters.names()[i] + " " +
            std::to_string(counters.values()[i].get());
  }
  return text;
}

}  // namespace annulus::sim
