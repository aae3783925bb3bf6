// An acceptor's part in changes of membership; see membership.h.
#include "consensus/acceptor.h"

namespace annulus::consensus {

void Acceptor::begin(Nanos now) {
  CHECK(promised_ == kNoBallot && seen_below_ == kFirstInstance);
  chosen_below_ = accepted_below_ = seen_below_ = configuration_.base;
  trimmed_below_ = held_from_ = configuration_.base;
  schedule(now);
}

void Acceptor::mark(Instance from) {
  const Slot& place = slot(chosen_below_);
  const bool before = chosen_below_ + 1 == from && place.instance == chosen_below_ &&
                      place.chosen;  // the configuration itself, not passed yet
  marked_ = number_;
  marked_below_ = before ? from : chosen_below_;
}

void Acceptor::keep_configuration(const Slice& bytes, Effects& effects) {
  promise_number_ = ++number_;
  effects.keep({.number = number_, .chosen_below = marked_below_, .bytes = bytes});
}

void Acceptor::on_configuration(const Configuration& before, std::uint32_t self, Nanos now) {
  self_ = self;
  votes_count_ = 0;
  promised_here_ = false;
  answer_ = Answer{};
  waiting_head_ = waiting_tail_;
  // Votes and routes name acceptors by their places in the earlier configuration.
  for (Slot& place : slots_) {
    place.votes_ballot = kNoBallot;
    place.votes = AcceptorSet{};
    place.route = Route{};
  }
  for (std::uint32_t i = 0; i < configuration_.learners.size(); ++i) {
    const bool same =
        i < before.learners.size() && before.learners[i].id == configuration_.learners[i].id;
    if (!same) learners_[i] = LearnerPlace{};
  }
  advance_chosen(now);
  if (chosen_below_ >= configuration_.from) {
    settled_at_ = marked_below_ >= configuration_.from ? marked_ : number_;
  }
  schedule(now);
}

}  // namespace annulus::consensus
