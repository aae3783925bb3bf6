#include "consensus/election.h"

#include <algorithm>

namespace annulus::consensus {
namespace {

/// How long Phase 1 may take, and how long a node that starts waits to hear of a coordinator.
constexpr Nanos kPhase1Time = 10 * kMillisecond;
constexpr Nanos kSlackMin = kMillisecond;
constexpr Nanos kSlackMax = 500 * kMillisecond;
/// Before anything was measured.
constexpr Nanos kLatenessFirst = 5 * kMillisecond;
/// Before any takeover was measured; its clients find the new coordinator meanwhile.
constexpr Nanos kTakeoverFirst = 10 * kMillisecond;
constexpr Nanos kTakeoverMin = 250 * kMicrosecond;
/// The slack is at most so many takeovers. What coordinators taken for dead by mistake cost is then
/// at most a quarter of the silences that led to it.
constexpr Nanos kTakeoversWaited = 4;
/// A node that leads looks up this often, only to keep its idea of the time.
constexpr Nanos kLeadingStep = 10 * kMillisecond;

}  // namespace

Election::Election(const Configuration& configuration, std::uint32_t self, Ballot promised)
    : configuration_(configuration),
      self_(self),
      ballot_(promised),
      within_(kPhase1Time),
      lateness_(kLatenessFirst, kSlackMax),
      takeover_(kTakeoverFirst) {}

Nanos Election::slack() const {
  const Nanos most = std::clamp(kTakeoversWaited * takeover_, kSlackMin, kSlackMax);
  return std::clamp(2 * lateness_.get(), kSlackMin, most);
}

/// How many are to suspect the coordinator before this node does. It is itself the last.
std::uint32_t Election::rank() const {
  const auto count = static_cast<std::uint32_t>(configuration_.acceptors.size());
  const auto coordinator = configuration_.acceptor_index(coordinator_of(ballot_));
  return coordinator ? (self_ + count - *coordinator - 1) % count : self_;
}

void Election::expect(Nanos within, Nanos now) {
  heard_ = attention_.awake(now);
  within_ = within;
  questions_ = 0;
}

void Election::on_coordinator(NodeId sender, Ballot ballot, Nanos within, Nanos now) {
  if (coordinator_of(ballot) != sender || within == 0) return;
  lateness_.fade(now);
  if (ballot == ballot_) lateness_.note(attention_.awake(now) - heard_ - within_, now);
  if (ballot == deposed_) {
    lateness_.note(attention_.awake(now) - deposed_due_, now);
    counters_[ElectionCounter::kHeardAgain].add();
    deposed_ = kNoBallot;
  }
  if (ballot < ballot_) return;
  if (ballot == ballot_ && taking_over_) note_takeover(attention_.awake(now) - heard_);
  taking_over_ = false;
  ballot_ = ballot;
  expect(within, now);
}

/// One that took unusually long, for a reason of its own, counts for little.
void Election::note_takeover(Nanos took) {
  takeover_ += (std::min(took, 4 * takeover_) - takeover_) / 4;
  takeover_ = std::max(takeover_, kTakeoverMin);
}

void Election::on_promised(Ballot ballot, Nanos now) {
  if (ballot <= ballot_) return;
  // One that comes to nothing says that it takes longer than it was given.
  if (taking_over_) takeover_ = std::min(2 * takeover_, kSlackMax / kTakeoversWaited);
  taking_over_ = true;
  ballot_ = ballot;
  expect(kPhase1Time, now);
}

/// Its coordinator may have taken over long ago: nothing is measured by it.
void Election::on_told(Ballot ballot, Nanos now) {
  if (ballot <= ballot_) return;
  taking_over_ = false;
  ballot_ = ballot;
  expect(kPhase1Time, now);
}

bool Election::tick(bool leads, Nanos now, Effects& effects, bool able) {
  leads_ = leads;
  if (leads || !able) start_ = false;
  if (leads) taking_over_ = false;  // that of its own is for the others to measure
  if (std::exchange(start_, false)) {
    counters_[ElectionCounter::kStarted].add();
    deposed_ = ballot_;
    deposed_due_ = heard_ + within_;
    return true;
  }
  if (now < deadline_) return false;
  if (deadline_ == 0) {
    expect(kPhase1Time, now);
  } else if (attention_.on_timer(deadline_, now)) {
    counters_[ElectionCounter::kAbsences].add();
  }
  const Nanos awake = attention_.awake(now);
  if (leads) {
    expect(kPhase1Time, now);
    deadline_ = now + kLeadingStep;
    return false;
  }
  if (!able) {
    deadline_ = now + kLeadingStep;
    return false;
  }
  const Nanos turn = slack() * (1 + rank());
  const Nanos due = std::max(heard_ + within_ + turn, ask_from_);
  if (awake < due) {
    deadline_ = now + (due - awake);
    return false;
  }
  ask(effects);
  // Whoever is not believed asks again, but less and less often.
  const Nanos wait = turn << std::min(questions_++, 5u);
  ask_from_ = awake + wait;
  deadline_ = start_ ? now : now + wait;
  return false;
}

void Election::ask(Effects& effects) {
  counters_[ElectionCounter::kSuspected].add();
  ++question_;
  missed_by_ = just(self_);
  start_ = size(missed_by_) >= configuration_.majority();
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    if (i == self_) continue;
    effects.send_now(configuration_.acceptors[i].endpoint, MessageType::kPreVote,
                     PreVote{raw(ballot_), question_});
  }
}

void Election::on_configuration(std::uint32_t self) {
  self_ = self;
  ++question_;  // the answers to the last one name others
  missed_by_ = AcceptorSet{};
  start_ = false;
}

void Election::on_pre_vote(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<PreVote>(in.frame);
  if (!configuration_.acceptor_index(NodeId{in.frame.header->sender.get()})) {
    counters_[ElectionCounter::kDropPreVote].add();
    return;
  }
  const Nanos awake = attention_.awake(now);
  const bool missed = !leads_ && m.ballot >= raw(ballot_) && awake > heard_ + within_;
  if (missed) {
    counters_[ElectionCounter::kPreVotes].add();
    // Whoever asked first is let try first.
    ask_from_ = std::max(ask_from_, awake + slack() * (1 + rank()));
  }
  effects.send_now(
      in.from, MessageType::kPreVoteAnswer,
      PreVoteAnswer{raw(ballot_), m.question, static_cast<std::uint8_t>(missed ? 1 : 0), {}});
}

void Election::on_pre_vote_answer(const Received& in, Nanos now) {
  const auto& m = message<PreVoteAnswer>(in.frame);
  const auto sender = configuration_.acceptor_index(NodeId{in.frame.header->sender.get()});
  if (!sender || m.question != question_) {
    counters_[ElectionCounter::kDropPreVote].add();
    return;
  }
  if (m.missed == 0) {
    counters_[ElectionCounter::kRefused].add();
    on_told(Ballot{m.ballot.get()}, now);  // or a newer one is known there
    return;
  }
  missed_by_ = missed_by_ | just(*sender);
  // Not once it was heard after all.
  const bool overdue = attention_.awake(now) > heard_ + within_;
  if (size(missed_by_) >= configuration_.majority() && overdue) start_ = true;
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::ElectionCounter::kCount)>
    CounterNames<consensus::ElectionCounter>::names = {
        "suspected", "refused", "started", "pre_votes", "heard_again", "absences", "drop_pre_vote"};

}  // namespace annulus::dataplane
