// What keeps an acceptor's node going rather than orders: the timers of its roles, and what nodes
// tell each other because something may be lost or dead. Its cycles are counted apart.
#include <algorithm>

#include "consensus/node.h"

namespace annulus::consensus {

/// Timers. What is sent anyway goes out with it.
void AcceptorNode::keep_up(bool heard, Nanos now) {
  const Upkeep upkeep(now >= deadline(), counters_);
  if (heard) {
    elect(now);
    acceptor_.tick(now, effects_);
    drain(now);
  }
  coordinator_.tick(now, effects_, heard);
}

Nanos AcceptorNode::deadline() const {
  return std::min(
      {acceptor_.deadline(), coordinator_.deadline(), election_.deadline(), change_at_});
}

/// What nodes tell each other only because something may be lost or dead.
bool AcceptorNode::is_upkeep(const Received& in) const {
  switch (in.type) {
    case MessageType::kPhase1A:
    case MessageType::kPhase1B:
    case MessageType::kReject:
    case MessageType::kPull:
    case MessageType::kValue:
    case MessageType::kTrimmed:
    case MessageType::kPreVote:
    case MessageType::kPreVoteAnswer:
      return true;
    case MessageType::kDecision:  // one without news is a heartbeat
      return Instance{message<Decision>(in.frame).decided.below.get()} <= acceptor_.chosen_below();
    default:
      return false;
  }
}

/// Who cannot accept cannot propose: a coordinator whose log is full leaves that to the others.
bool AcceptorNode::log_full() const {
  return log_ != nullptr && progress_.space < log_cost(options_.value_bytes_max);
}

void AcceptorNode::elect(Nanos now) {
  const bool able = !log_full() && acceptor_.settled();
  if (!able && !coordinator_.idle()) coordinator_.resign();
  const bool missed = election_.tick(!coordinator_.idle(), now, effects_, able);
  if ((!std::exchange(start_election_, false) && !missed) || !able) return;
  coordinator_.start(now, effects_);
  election_.on_promised(coordinator_.ballot(), now);
}

}  // namespace annulus::consensus
