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
        answered_(std::size_t{sessions_max} * words_) {
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
    std::fill(answered, answered + words_, 0);
    session = ClientSession{};
    session.answered = answered;
    session.state = SessionState::kOpening;
    session.window = window;
    session.reply_bytes = static_cast<std::uint16_t>(reply_bytes);
    session.opener_sequence = ++opened_;
    ++changing_;
    return &session;
  }
  /// Gives the place back once nothing refers to it.
  void release_if_done(std::uint32_t index) {
    ClientSession& session = sessions_[index];
    if (session.state != SessionState::kClosed || session.requested || session.outstanding != 0 ||
        !session.closing) {
      return;
    }
    session.closing = false;
    free_.push_back(index);
  }

  ClientSession& operator[](std::uint32_t index) { return sessions_[index]; }
  const ClientSession& operator[](std::uint32_t index) const { return sessions_[index]; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(sessions_.size()); }
  /// Sessions that want an open or close command sent; kept by the client.
  std::uint32_t& changing() { return changing_; }

 private:
  std::vector<ClientSession> sessions_;
  std::size_t words_;
  std::vector<std::uint64_t> answered_;
  std::vector<std::uint32_t> free_;
  std::uint64_t opened_ = 0;
  std::uint32_t changing_ = 0;
};

}  // namespace annulus::statemachine
