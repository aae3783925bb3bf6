// A client's own view of its sessions: numbers commands, knows which were answered, and what may be
// told to the cluster as answered. Part of the client.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/defect.h"
#include "dataplane/result.h"
#include "statemachine/batch.h"
#include "statemachine/client.h"

namespace annulus::statemachine {

struct ClientSession {
  SessionState state = SessionState::kClosed;
  bool requested = false;  // an open or close is in flight
  bool queued = false;     // to be looked at for a command of its own; see ClientSessions::next()
  bool closing = false;    // its user let go of it
  std::uint16_t reply_bytes = 0;
  std::uint32_t window = 0;
  std::uint32_t outstanding = 0;
  std::uint64_t id = 0;  // in the cluster, once ready
  std::uint64_t opener_sequence = 0;
  std::uint64_t next = 1;         // sequence of the next command
  std::uint64_t acked_below = 1;  // every command below was answered or given up
  Nanos last_write = 0;
  std::uint64_t* answered = nullptr;  // bit by sequence modulo the window

  bool in_use() const { return state != SessionState::kClosed || closing || outstanding != 0; }
  bool window_full() const { return next - acked_below >= window; }

  std::uint64_t take_sequence() {
    ++outstanding;
    return next++;
  }
  /// What the command's header says of the ones before it (T9).
  std::uint16_t acked_distance(std::uint64_t sequence) const {
    return DEFECT(kFloorRaisedAtSubmission) ? 0
                                            : static_cast<std::uint16_t>(sequence - acked_below);
  }
  void on_answered(std::uint64_t sequence) {
    --outstanding;
    if (sequence != acked_below) {
      answered[(sequence & (window - 1)) / 64] |= bit(sequence);
      return;
    }
    for (++acked_below; acked_below < next; ++acked_below) {
      std::uint64_t& word = answered[(acked_below & (window - 1)) / 64];
      if ((word & bit(acked_below)) == 0) break;
      word &= ~bit(acked_below);
    }
  }

 private:
  std::uint64_t bit(std::uint64_t sequence) const {
    return std::uint64_t{1} << (sequence & (window - 1) & 63);
  }
};

class ClientSessions {
 public:
  ClientSessions(std::uint32_t sessions_max, std::uint32_t window_max)
      : sessions_(sessions_max),
        words_((window_max + 63) / 64),
        answered_(std::size_t{sessions_max} * words_),
        queue_(sessions_max) {
    CHECK(sessions_max > 0 && std::has_single_bit(window_max) && window_max <= kSessionWindowMax);
    for (std::uint32_t i = 0; i < sessions_max; ++i) {
      sessions_[i].answered = &answered_[std::size_t{i} * words_];
      free_.push_back(sessions_max - 1 - i);
    }
  }

  /// A session in state kOpening, or nothing when all are in use.
  ClientSession* open(std::uint32_t window, std::uint32_t reply_bytes, std::uint32_t& index) {
    if (free_.empty()) return nullptr;
    index = free_.back();
    free_.pop_back();
    ClientSession& session = sessions_[index];
    std::uint64_t* answered = session.answered;
    const bool queued = session.queued;
    std::fill(answered, answered + words_, 0);
    session = ClientSession{};
    session.answered = answered;
    session.queued = queued;
    session.state = SessionState::kOpening;
    session.window = window;
    session.reply_bytes = static_cast<std::uint16_t>(reply_bytes);
    session.opener_sequence = ++opened_;
    ask_for_command(index);
    return &session;
  }
  /// Gives the place back once nothing refers to it.
  void release_if_done(std::uint32_t index) {
    ClientSession& session = sessions_[index];
    const bool to_be_closed = session.id != 0;  // in the cluster; not sent yet
    if (session.state != SessionState::kClosed || session.requested || session.outstanding != 0 ||
        !session.closing || to_be_closed) {
      return;
    }
    session.closing = false;
    free_.push_back(index);
  }

  ClientSession& operator[](std::uint32_t index) { return sessions_[index]; }
  const ClientSession& operator[](std::uint32_t index) const { return sessions_[index]; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(sessions_.size()); }

  /// The session may want an open or close command sent: next() will name it.
  void ask_for_command(std::uint32_t index) {
    if (sessions_[index].queued) return;
    sessions_[index].queued = true;
    queue_[(queue_first_ + queued_++) % queue_.size()] = index;
  }
  bool any_asked() const { return queued_ != 0; }
  /// The first that asked; until drop_next().
  std::uint32_t next() const { return queue_[queue_first_]; }
  void drop_next() {
    sessions_[next()].queued = false;
    queue_first_ = (queue_first_ + 1) % static_cast<std::uint32_t>(queue_.size());
    --queued_;
  }

 private:
  std::vector<ClientSession> sessions_;
  std::size_t words_;
  std::vector<std::uint64_t> answered_;
  std::vector<std::uint32_t> free_;
  std::uint64_t opened_ = 0;
  // In a ring, each session once at most: many may open at a time.
  std::vector<std::uint32_t> queue_;
  std::uint32_t queue_first_ = 0;
  std::uint32_t queued_ = 0;
};

}  // namespace annulus::statemachine
