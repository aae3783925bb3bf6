// An acceptor node's part in changes of membership: how it gets a place, adopts a configuration,
// and has others admitted. See membership.h.
#include <algorithm>

#include "consensus/node.h"
#include "dataplane/defect.h"

namespace annulus::consensus {
namespace {

constexpr Nanos kJoinInterval = 5 * kMillisecond;
/// A member that asked to be admitted anew this long ago is taken to wait still.
constexpr Nanos kLostFor = 2 * kSecond;
constexpr Nanos kChangeInterval = 20 * kMillisecond;
/// A candidate that has not asked for this long is not admitted: it would be a member that is dead.
constexpr Nanos kCandidateFor = 100 * kJoinInterval;

template <typename Predicate>
bool any_member(const Configuration& configuration, Predicate predicate) {
  return std::any_of(configuration.acceptors.begin(), configuration.acceptors.end(), predicate) ||
         std::any_of(configuration.learners.begin(), configuration.learners.end(), predicate);
}
bool has(const Configuration& configuration, std::uint64_t incarnation) {
  return any_member(configuration,
                    [&](const auto& each) { return each.incarnation == incarnation; });
}
bool has(const Configuration& configuration, const Endpoint& endpoint) {
  return any_member(configuration, [&](const auto& each) { return each.endpoint == endpoint; });
}

}  // namespace

bool AcceptorNode::concerns_votes(MessageType type) {
  switch (type) {
    case MessageType::kPhase1A:
    case MessageType::kPhase1B:
    case MessageType::kPhase2A:
    case MessageType::kPhase2B:
    case MessageType::kReject:
    case MessageType::kTrimmed:
    case MessageType::kPreVote:
    case MessageType::kPreVoteAnswer:
      return true;
    default:
      return false;
  }
}

/// Whether a frame of Phase 1, of Phase 2, or before an election counts for this node.
bool AcceptorNode::may_vote(const Received& in, Nanos now) {
  if (in.frame.header->config_epoch > configuration_.epoch) {
    adopt_chosen(now);
    if (in.type == MessageType::kTrimmed && passes_over(in, now)) return true;
    if (!member()) return false;  // it has just learned that it was taken out
  } else if (in.type == MessageType::kTrimmed && !acceptor_.settled()) {
    return true;  // of before the configuration that it waits to take part in
  }
  if (in.frame.header->config_epoch != configuration_.epoch && !DEFECT(kOtherEpochVotes)) {
    counters_[NodeCounter::kDropOtherEpoch].add();
    return false;
  }
  if (acceptor_.settled() || DEFECT(kUnsettledVotes) || in.type == MessageType::kTrimmed) {
    return true;
  }
  counters_[NodeCounter::kDropUnsettled].add();
  return false;
}

/// Whether what is trimmed elsewhere under a configuration that this node only heard of is passed
/// over. Not past a change of members that it does not know: it would go on as if there were none.
bool AcceptorNode::passes_over(const Received& in, Nanos now) {
  if (!newer_ || in.frame.header->config_epoch != newer_->epoch) return false;
  const Instance below{message<Trimmed>(in.frame).trimmed_below.get()};
  if (below < newer_->from && newer_->epoch == configuration_.epoch + 1) return true;
  adopt(*newer_, now);
  return false;
}

/// One that takes part goes on under the configuration it has until it knows what was decided
/// before the next. Else all could have heard of a configuration in which none may vote, and the
/// only one that knew what had been decided be gone.
void AcceptorNode::on_configuration_news(const Received& in, Nanos now) {
  const Configuration heard = decode(in.frame.message, configuration_);
  if (heard.epoch <= configuration_.epoch) return;
  const bool takes_part = member() && acceptor_.settled();
  if (!takes_part || acceptor_.chosen_below() >= heard.from) return adopt(heard, now);
  // An older one than was heard of before may be that of those who are left.
  newer_ = heard;
  acceptor_.set_newer(&*newer_);
}

void AcceptorNode::adopt_chosen(Nanos now) {
  if (newer_ && acceptor_.chosen_below() >= newer_->from) adopt(*newer_, now);
  const Slice* bytes = acceptor_.chosen_configuration();
  if (bytes == nullptr) return;
  CHECK(valid_configuration(bytes->bytes()));
  adopt(decode(bytes->bytes(), configuration_), now);
}

/// With a log, the configuration is on disk before this node acts under it: else it could come back
/// under an earlier one, whose majorities no longer count.
void AcceptorNode::adopt(const Configuration& next, Nanos now) {
  if (next.epoch <= configuration_.epoch || (adopting_ && next.epoch <= adopting_->epoch)) return;
  if (log_ == nullptr || DEFECT(kConfigurationNotKept)) return carry_out(next, now);
  adopting_ = next;
  kept_ = false;
  acceptor_.mark(next.from);
  keep_adopted(now);
}

/// What was decided before it comes first: who says that it is chosen is asked for it.
void AcceptorNode::keep_adopted(Nanos now) {
  if (!adopting_) return;
  if (kept_) {
    if (acceptor_.promise_durable()) carry_out(*std::exchange(adopting_, std::nullopt), now);
    return;
  }
  if (!acceptor_.marked_durable()) return;
  Slice bytes = pool_.allocate();
  if (!bytes) return;
  const std::size_t size = encode(*adopting_, {bytes.mutable_data(), bytes.size()});
  bytes.truncate(static_cast<std::uint32_t>(size));
  drain(now);
  acceptor_.keep_configuration(bytes, effects_);
  kept_ = true;
}

void AcceptorNode::carry_out(const Configuration& next, Nanos now) {
  drain(now);
  const Configuration before = std::exchange(configuration_, next);
  if (newer_ && newer_->epoch <= configuration_.epoch) {
    acceptor_.set_newer(nullptr);
    newer_.reset();
  }
  counters_[NodeCounter::kConfigurations].add();
  board_.publish(configuration_);
  if (standing() == Standing::kJoining) return begin_membership(now);
  if (!member()) return;
  lost_ = {};  // a majority has decided
  // Who came has what it asked for, and who went is to ask anew, if it still runs.
  for (Candidate& each : candidates_) {
    if (has(before, each.endpoint) || has(configuration_, each.endpoint)) each = {};
  }
  standing_.store(Standing::kMember, std::memory_order_relaxed);
  const auto place = configuration_.acceptor_index(port_.identity().node);
  if (place || !DEFECT(kRemovedVotes)) self_ = place.value_or(kAcceptorsMax);
  if (coordinator_.active()) {
    for (const Member& each : before.acceptors) {
      ConfigurationNews::tell(each.endpoint, configuration_, effects_);
    }
    // Who is new may stand in another's place, and hear it twice.
    for (const Member& each : configuration_.acceptors) {
      if (each.incarnation != 0) ConfigurationNews::tell(each.endpoint, configuration_, effects_);
    }
    drain(now);
  }
  if (self_ != kAcceptorsMax) {
    acceptor_.on_configuration(before, self_, now);
    election_.on_configuration(self_);
  } else {
    standing_.store(Standing::kRemoved, std::memory_order_relaxed);
  }
  coordinator_.on_configuration(before, self_, now, effects_);
  drain(now);
}

/// Where a node stands that starts: it goes on as the member it was, or asks to become one.
void AcceptorNode::take_place() {
  incarnation_ = log_ != nullptr ? log_->recovered().incarnation : options_.incarnation;
  if (DEFECT(kAmnesiacVotes)) incarnation_ = 0;
  const auto& members = configuration_.acceptors;
  const auto self = std::find_if(members.begin(), members.end(), [&](const Member& each) {
    return incarnation_ != 0 ? each.incarnation == incarnation_ : each.id == options_.identity.node;
  });
  if (self != members.end()) {
    self_ = static_cast<std::uint32_t>(self - members.begin());
    port_.set_node(self->id);
  } else {
    // Who has said anything was a member once, and nobody is one twice.
    const bool spoke =
        acceptor_.promised() != kNoBallot || acceptor_.accepted_below() != kFirstInstance;
    standing_.store(incarnation_ != 0 && !spoke ? Standing::kJoining : Standing::kRemoved,
                    std::memory_order_relaxed);
    port_.set_node(kNoNode);
  }
  acceptor_.set_self(self_);
  coordinator_.set_self(self_);
  election_.on_configuration(self_);
}

/// This node's own incarnation is among the members: now it has an identity, and nothing else.
void AcceptorNode::begin_membership(Nanos now) {
  const auto& members = configuration_.acceptors;
  const auto self = std::find_if(members.begin(), members.end(), [&](const Member& each) {
    return each.incarnation == incarnation_;
  });
  if (self == members.end()) {
    join_at_ = now;  // asks again, now that it knows whom
    return;
  }
  self_ = static_cast<std::uint32_t>(self - members.begin());
  port_.set_node(self->id);
  acceptor_.begin(now);
  acceptor_.on_configuration(configuration_, self_, now);
  coordinator_.on_configuration(configuration_, self_, now, effects_);
  election_.on_configuration(self_);
  standing_.store(Standing::kMember, std::memory_order_relaxed);
}

/// What a node without a place does; returns when next.
Nanos AcceptorNode::poll_stranger(Nanos now) {
  if (standing() == Standing::kRemoved) {
    if (named()) drain(now);
    effects_.clear();
    return kNever;
  }
  if (now >= join_at_) {
    join_at_ = now + kJoinInterval;
    counters_[NodeCounter::kJoinsAsked].add();
    const Join join{
        incarnation_, configuration_.epoch, static_cast<std::uint8_t>(JoinKind::kAcceptor), {}};
    for (const Member& each : configuration_.acceptors) {
      effects_.send_now(each.endpoint, MessageType::kJoin, join);
    }
  }
  drain(now);
  return join_at_;
}

void AcceptorNode::on_join(const Received& in, Nanos now) {
  counters_[NodeCounter::kJoinsSeen].add();
  const auto& m = message<Join>(in.frame);
  if (m.config_epoch != configuration_.epoch || has(configuration_, m.incarnation)) {
    ConfigurationNews::tell(in.from, configuration_, effects_);
    return;
  }
  const auto& members = configuration_.acceptors;
  const auto before = std::find_if(members.begin(), members.end(),
                                   [&](const Member& each) { return each.endpoint == in.from; });
  if (m.kind != static_cast<std::uint8_t>(JoinKind::kAcceptor) || before == members.end()) {
    return note_candidate(in, now);
  }
  // Whoever speaks from a member's address has taken its place: that member is dead.
  note_lost(in.from, now);
  const Change change{.operation = m.incarnation,
                      .verb = ChangeVerb::kReplace,
                      .kind = JoinKind::kAcceptor,
                      .member = before->id,
                      .comes = {kNoNode, in.from, m.incarnation}};
  if (coordinator_.active()) coordinator_.change(change, now);
}

void AcceptorNode::note_lost(const Endpoint& endpoint, Nanos now) {
  std::size_t lost = 0;
  Lost* place = nullptr;
  for (Lost& each : lost_) {
    const bool waits = each.heard != 0 && now - each.heard < kLostFor;
    if (each.endpoint == endpoint || (place == nullptr && !waits)) place = &each;
    lost += waits && each.endpoint != endpoint;
  }
  if (place != nullptr) *place = {endpoint, now};
  const std::size_t left =
      configuration_.acceptors.size() - std::min(lost + 1, configuration_.acceptors.size());
  const bool enough = left >= static_cast<std::size_t>(configuration_.majority());
  standing_.store(enough ? Standing::kMember : Standing::kMajorityLost, std::memory_order_relaxed);
}

void AcceptorNode::note_candidate(const Received& in, Nanos now) {
  const auto& m = message<Join>(in.frame);
  Candidate* place = &candidates_[0];
  for (Candidate& each : candidates_) {
    if (each.endpoint == in.from) {
      place = &each;
      break;
    }
    if (each.heard < place->heard) place = &each;
  }
  *place = {in.from, m.incarnation, static_cast<JoinKind>(m.kind), now};
}

void AcceptorNode::on_change(Change change, Nanos now) {
  if (!coordinator_.active()) return;  // it will be asked for again, of whoever is
  if (change.verb != ChangeVerb::kRemove) {
    const auto found =
        std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& each) {
          return each.endpoint == change.comes.endpoint && each.kind == change.kind &&
                 each.heard != 0 && now - each.heard < kCandidateFor;
        });
    if (found == candidates_.end()) return;  // until it asks to be admitted
    change.comes.incarnation = found->incarnation;
  }
  const ChangeVerdict verdict = coordinator_.change(change, now);
  if (verdict != ChangeVerdict::kAllowed) counters_[NodeCounter::kChangesRefused].add();
}

bool AcceptorNode::ask_change(const Change& change) {
  Change copy = change;
  return changes_.push(std::move(copy));
}

/// Passes on what this node was asked for until its configuration has it, or forbids it.
void AcceptorNode::forward_change(Nanos now) {
  const Change* change = changes_.front();
  if (change == nullptr || (change_at_ != kNever && now < change_at_)) return;
  const ChangeVerdict verdict = judge(configuration_, *change);
  if (verdict != ChangeVerdict::kAllowed) {
    changes_.pop();
    change_at_ = kNever;
    return;
  }
  change_at_ = now + kChangeInterval;
  if (coordinator_.active()) return on_change(*change, now);
  const Ballot highest = std::max(acceptor_.promised(), coordinator_.highest_seen());
  const auto coordinator = configuration_.acceptor_index(coordinator_of(highest));
  if (!coordinator || *coordinator == self_) return;
  effects_.send_now(configuration_.acceptors[*coordinator].endpoint, MessageType::kChange,
                    to_wire(*change));
}

}  // namespace annulus::consensus
