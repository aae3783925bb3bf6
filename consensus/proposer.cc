#include "consensus/proposer.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace annulus::consensus {
namespace {

// Below this, a late answer says more about the hosts' schedulers than about the network.
constexpr Nanos kPatienceFloor = kMillisecond / 2;
// At least so long an overtaken value waits: several times what it takes a replica to reply.
constexpr Nanos kOvertakenFloor = 200 * kMicrosecond;
constexpr Nanos kPatienceCeiling = 500 * kMillisecond;
// Bounds the time between two attempts, unless replies take longer than this anyway: when a cluster
// comes back after an outage of any length, it is found within a few of these.
constexpr Nanos kBackoffMax = 250 * kMillisecond;
// How long a replica that was late is not asked to reply, and by how much longer when it is still
// silent: one value tries it in between. At first for so many times what it may take.
constexpr Nanos kSuspicionMax = 200 * kMillisecond;
constexpr Nanos kSuspicionGrowth = 4;
constexpr Nanos kSuspicionFirst = 8;
// How often the time that an overtaken value waits is doubled because values take long, and when
// that is undone, one doubling at a time.
constexpr std::uint32_t kSlowValuesMax = 5;
constexpr Nanos kSlowValuesFor = kSecond;
constexpr std::uint16_t kNobody = 0xffff;  // no learner's index
// Timeouts in a row without a word from anybody before a single value goes on trying.
constexpr std::uint32_t kSilentMax = 8;
/// After so many without an answer of the target, others may name one of a lower ballot.
constexpr std::uint32_t kUnheardMax = 3;
// As often a value is tried before the time between two attempts grows: a new coordinator is there
// within milliseconds, and wants to be found as soon.
constexpr int kPatientTries = 8;

/// For a value that finds out whether a late replica answers again. The window is held up by it,
/// and after an outage `patience` is long: what is usual now is the measure, not what was late
/// lately.
Nanos trial_patience(Nanos patience, Nanos usual) {
  return std::min(patience, 2 * std::max(usual, kPatienceFloor));
}

}  // namespace

Proposer::Proposer(const ProposerOptions& options, const Configuration& configuration)
    : options_(options),
      configuration_(configuration),
      fragment_bytes_(fragment_bytes(options.frame_bytes_max)),
      mask_(options.window - 1),
      values_(options.window),
      reply_delay_(options.retransmit_after / 2, kPatienceFloor, kPatienceCeiling),
      reply_mean_(options.retransmit_after / 2) {
  CHECK(std::has_single_bit(options.window) && options.credit_first > 0);
  CHECK(!configuration.learners.empty());
  CHECK(options.client_server || !configuration.acceptors.empty());
  find_answerers();
  CHECK(!answerers_.empty());
}

void Proposer::find_answerers() {
  const std::uint64_t wanted = raw(options_.partitions);
  const std::vector<std::uint16_t> before = std::move(answerers_);
  answerers_.clear();
  for (std::uint16_t i = 0; i < configuration_.learners.size(); ++i) {
    const LearnerMember& learner = configuration_.learners[i];
    const bool holds = (raw(learner.partitions) & wanted) == wanted;
    if (learner.id != kNoNode && holds) answerers_.push_back(i);
  }
  // Nobody holds all of them any more: replies come when somebody does.
  if (answerers_.empty()) answerers_ = before;
  replier_ = 0;
}

void Proposer::on_configuration(const Configuration& before, Nanos now) {
  find_answerers();
  if (options_.client_server) return;
  const auto same = configuration_.acceptor_index(before.acceptors[target_].id);
  if (same) {
    target_ = *same;
    return;
  }
  switch_target(configuration_.acceptor_index(coordinator_of(ballot_)).value_or(0), now);
}

NodeId Proposer::target() const {
  return options_.client_server ? configuration_.learners[0].id
                                : configuration_.acceptors[target_].id;
}

Endpoint Proposer::target_endpoint() const {
  return options_.client_server ? configuration_.learners[0].endpoint
                                : configuration_.acceptors[target_].endpoint;
}

std::uint16_t Proposer::next_replier(Nanos now) {
  const auto count = static_cast<std::uint32_t>(answerers_.size());
  if (options_.client_server) return 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    replier_ = replier_ + 1 == count ? 0 : replier_ + 1;
    const std::uint16_t replica = answerers_[replier_];
    if (suspected_until_[replica] > now) continue;
    // One value finds out whether it answers again; the others go on avoiding it.
    if (suspected_until_[replica] != 0) {
      suspected_for_[replica] = std::min(kSuspicionGrowth * suspected_for_[replica], kSuspicionMax);
      suspected_until_[replica] = now + suspected_for_[replica];
    }
    return replica;
  }
  return last_heard(kNobody);
}

std::uint16_t Proposer::last_heard(std::uint16_t but) const {
  const auto heard = [&](std::uint16_t replica) {
    return replica == but ? Nanos{-1} : heard_at_[replica];
  };
  return *std::ranges::max_element(answerers_, {}, heard);
}

void Proposer::propose(const Value& value, Slice bytes, std::uint16_t replier, Nanos now,
                       Effects& effects) {
  CHECK(can_propose() && value.id.sequence == next_ && value.bytes == bytes.size());
  Outstanding& slot = at(next_);
  slot.value = value;
  slot.bytes = std::move(bytes);
  slot.first_sent = now;
  slot.replier = replier;
  slot.queries = 0;
  slot.timeouts = 0;
  slot.done = false;
  slot.own_reply = false;
  slot.repeated = false;
  slot.unsent = false;
  ++next_;
  counters_[ProposerCounter::kProposed].add();
  send_submit(slot, now, effects);
  const bool trial = !options_.client_server && suspected_until_[replier] != 0;
  schedule(slot,
           now + (trial ? trial_patience(patience(), reply_mean_ + lag_[replier]) : patience()));
}

template <typename M>
void Proposer::send_fragments(const Endpoint& to, MessageType type, M message,
                              const Outstanding& value, Effects& effects) {
  message.value = to_wire(value.value);
  const std::uint32_t count = cut(value.value.bytes, fragment_bytes_, 0).count;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Fragment fragment = cut(value.value.bytes, fragment_bytes_, i);
    message.fragment = to_wire(fragment);
    Outgoing& out = effects.send_now(to, type, message);
    const std::uint32_t offset = fragment.offset();
    out.payload = value.bytes.part(offset, std::min(fragment.bytes, value.value.bytes - offset));
    // A value in one piece was hashed when it was made.
    if (count == 1) out.payload_hash = value.value.content_hash;
  }
}

void Proposer::send_submit(Outstanding& value, Nanos now, Effects& effects) {
  Submit message{};
  message.oldest = oldest_;
  send_fragments(target_endpoint(), MessageType::kSubmit, message, value, effects);
  value.last_sent = now;
  value.overtaken_at = kNever;
  value.unsent = false;
}

void Proposer::send_query(Outstanding& value, Nanos now, Effects& effects) {
  // In turn, starting after the one that should have replied; it is asked again as the last.
  if (value.queries == 0 && !options_.client_server) suspect(value.replier, now);
  ++value.queries;
  std::uint32_t asked = 0;
  if (!options_.client_server) {
    const auto first = std::find(answerers_.begin(), answerers_.end(), value.replier);
    const auto count = static_cast<std::uint32_t>(answerers_.size());
    const auto turn = static_cast<std::uint32_t>(first - answerers_.begin()) + value.queries;
    asked = answerers_[turn % count];
    // The first query is to have an answer: those that are silent have their turn later.
    if (value.queries == 1 && suspected_until_[asked] != 0) asked = last_heard(value.replier);
  }
  value.asked = now;
  value.answer_by = now + std::max(reply_mean_ + 2 * lag_[asked], kPatienceFloor / 2);
  send_fragments(configuration_.learners[asked].endpoint, MessageType::kQuery, Query{}, value,
                 effects);
  counters_[ProposerCounter::kQueries].add();
}

void Proposer::suspect(std::uint16_t replica, Nanos now) {
  if (suspected_until_[replica] != 0) return;
  counters_[ProposerCounter::kSuspected].add();
  suspected_for_[replica] = std::min(kSuspicionFirst * overtaken_patience(replica), kSuspicionMax);
  suspected_until_[replica] = now + suspected_for_[replica];
}

void Proposer::schedule(Outstanding& value, Nanos due) {
  value.due = due;
  next_due_ = std::min(next_due_, due);
}

void Proposer::on_submit_ack(NodeId from, const SubmitAck& ack, Nanos now, Effects& effects) {
  const Ballot ballot{ack.ballot.get()};
  const NodeId coordinator = coordinator_of(ballot);
  const bool news = ballot > highest_;
  // Who is not asked at present is heard with news only: it may have missed the last change. But
  // whoever told of the present ballot may have died before any other heard of it, or have lost its
  // memory: then the one asked names another, again and again, or others do while it is silent.
  const bool forgotten = ballot != ballot_ && unheard_ > (from == target() ? 0 : kUnheardMax);
  const bool known = ballot == ballot_ && from == target();
  if (ack.epoch != options_.epoch || (!news && !forgotten && !known)) {
    counters_[ProposerCounter::kDropAckStale].add();
    return;
  }
  if (coordinator != target() || (!known && ballot_ != kNoBallot)) {
    const auto index = configuration_.acceptor_index(coordinator);
    if (options_.client_server || !index) return;
    ballot_ = ballot;
    highest_ = std::max(highest_, ballot);
    counters_[ProposerCounter::kRedirected].add();
    // The one named may be dead: in an outage that was noticed, a single value finds out. One that
    // was named before is no sign of life at all.
    if (news && !target_silent()) silent_ = 0;
    switch_target(*index, now);
  }
  if (coordinator != from) return;
  ballot_ = ballot;
  highest_ = std::max(highest_, ballot);
  unheard_ = 0;
  on_heard();
  const std::uint64_t told = std::min<std::uint64_t>(ack.received_below, next_);
  limit_ = std::max<std::uint64_t>(limit_, ack.limit);
  if (told > received_below_) received_below_ = told;
  // What the coordinator waits for is resent at once, unless it may still be on its way.
  if (told >= next_ || told < oldest_ || now - at(told).last_sent < reply_mean_) return;
  counters_[ProposerCounter::kGapResent].add();
  forget_received(told, now);
  Outstanding& gap = at(told);
  gap.repeated = true;
  send_submit(gap, now, effects);
  schedule(gap, now + patience());
}

/// Replies have shown that values up to `received_below_` were ordered: some may have been by an
/// earlier coordinator. The present one lacks those from `sequence` on, and orders without gaps.
void Proposer::forget_received(std::uint64_t sequence, Nanos now) {
  for (std::uint64_t lacked = sequence; lacked < received_below_; ++lacked) {
    at(lacked).unsent = true;
    schedule(at(lacked), std::max(now, at(lacked).last_sent + reply_mean_));
  }
  received_below_ = sequence;
}

bool Proposer::target_silent() const { return silent_ > kSilentMax; }

void Proposer::on_heard() {
  resume_ |= target_silent();
  if (resume_) next_due_ = 0;
  silent_ = 0;
}

void Proposer::switch_target(std::uint32_t acceptor, Nanos now) {
  target_ = acceptor;
  unheard_ = 0;
  limit_ = 0;
  // What another coordinator received is unknown to this one.
  received_below_ = overtaken_below_ = hastened_ = oldest_;
  for (std::uint64_t sequence = oldest_; sequence < next_; ++sequence) {
    // Answered ones too: it orders without gaps, and starts from the oldest.
    Outstanding& slot = at(sequence);
    slot.unsent = true;
    if (!target_silent()) slot.timeouts = 0;
    schedule(slot, now);
  }
}

void Proposer::on_reply(std::uint64_t sequence, std::uint16_t replica, Nanos now) {
  const bool known = sequence != 0 && sequence < next_ && next_ - sequence <= values_.size();
  if (!known || replica >= suspected_until_.size()) return;
  Outstanding& slot = at(sequence);
  heard_at_[replica] = now;
  if (replica == slot.replier) on_own_reply(slot, now);
  if (slot.done) return;
  suspected_until_[replica] = 0;
  received_below_ = std::max(received_below_, sequence + 1);
  // One sent twice may have been answered the first time.
  if (!slot.repeated && !options_.client_server) {
    overtaken_below_ = std::max(overtaken_below_, sequence);
    hasten_overtaken(now);
  }
  on_heard();
}

/// Of whoever was to reply; it may come after that of another, who was asked.
void Proposer::on_own_reply(Outstanding& slot, Nanos now) {
  if (std::exchange(slot.own_reply, true)) return;
  Nanos& lag = lag_[slot.replier];
  const bool overtaken = slot.overtaken_at != kNever;
  // One that was away for long was not behind for so long.
  const Nanos behind = overtaken ? std::min(now - slot.overtaken_at, patience()) : 0;
  if (overtaken || slot.queries == 0) lag += (behind - lag) / 16;
  // Nor did another answer in the time that this usually takes: the value takes long.
  const bool slow = !slot.done && slot.queries != 0 && now >= slot.answer_by;
  if (!slow || slot.asked < std::max(slot.overtaken_at, slow_values_at_)) return;
  counters_[ProposerCounter::kSlow].add();
  slow_values_ = std::min(slow_values_ + 1, kSlowValuesMax);
  slow_values_at_ = now;
}

void Proposer::on_replied(std::uint64_t sequence, Nanos now) {
  CHECK(outstanding(sequence));
  Outstanding& slot = at(sequence);
  counters_[ProposerCounter::kReplied].add();
  // A value that waited behind a late one is late as well, though it was not repeated itself: what
  // it took was decided by the timeout of the other.
  // One that a dead replica was to answer says nothing of the others.
  const bool replier_dead = !options_.client_server && suspected_until_[slot.replier] != 0;
  if (slot.timeouts > 0) {
    if (!replier_dead) reply_delay_.record_late();
  } else if (!slot.repeated) {
    const Nanos delay = now - slot.first_sent;
    // Those that were out together are late for one reason: that counts once, or a single stall
    // would make the client wait as long for whoever dies after it.
    const bool late = delay > reply_delay_.p99();
    // What another replied when asked took as long as this client waited for the first.
    const bool measured = slot.queries == 0 || slot.own_reply;
    if (measured && (!late || slot.first_sent >= late_at_)) {
      reply_delay_.record(delay);
      if (late) late_at_ = now;
    }
    if (measured) reply_mean_ += (delay - reply_mean_) / 16;
  }
  slot.done = true;
  slot.due = kNever;
  while (oldest_ < next_ && at(oldest_).done) release(at(oldest_++));
}

void Proposer::abandon(std::uint64_t sequence) {
  CHECK(outstanding(sequence));
  counters_[ProposerCounter::kAbandoned].add();
  at(sequence).done = true;
  while (oldest_ < next_ && at(oldest_).done) release(at(oldest_++));
}

void Proposer::release(Outstanding& value) {
  value.bytes.reset();
  value.due = kNever;
}

/// The value whose repetition shows whether the target lives: the first that it is not known to
/// have. It orders without gaps, so those behind are late because this one is.
std::uint64_t Proposer::speaker() const {
  return received_below_ < next_ ? std::max(oldest_, received_below_) : oldest_;
}

Nanos Proposer::backoff(const Outstanding& value) const {
  const Nanos longest = std::max(patience(), kBackoffMax);
  const int doubled = std::clamp(value.timeouts - kPatientTries, 0, 4);
  return std::min(patience() << doubled, longest);
}

/// Values are ordered as they were sent. One whose reply has not come though one sent later was
/// answered does not wait for the order, however slow that was lately, but for its replier: the
/// idea of RACK (RFC 8985). So long it is left in peace then: twice what it usually takes more than
/// others, and more while values take long wherever they are executed, for whoever is asked for one
/// executes it again.
Nanos Proposer::overtaken_patience(std::uint16_t replier) const {
  const Nanos usual = std::max({2 * lag_[replier], reply_mean_, kOvertakenFloor});
  return std::min(usual << slow_values_, patience());
}

void Proposer::hasten_overtaken(Nanos now) {
  if (slow_values_ != 0 && now >= slow_values_at_ + kSlowValuesFor) {
    --slow_values_;
    slow_values_at_ = now;
  }
  for (hastened_ = std::max(hastened_, oldest_); hastened_ < overtaken_below_; ++hastened_) {
    Outstanding& slot = at(hastened_);
    if (slot.done) continue;
    if (slot.unsent) return;
    slot.overtaken_at = now;
    schedule(slot, std::min(slot.due, now + overtaken_patience(slot.replier)));
  }
}

Nanos Proposer::poll(Nanos now, Effects& effects) {
  if (now < next_due_) return next_due_;
  next_due_ = kNever;
  const bool resume = std::exchange(resume_, false);
  for (std::uint64_t sequence = oldest_; sequence < next_; ++sequence) {
    Outstanding& slot = at(sequence);
    if (slot.due == kNever) continue;
    if (slot.done && received(sequence)) {
      slot.due = kNever;  // kept, for another coordinator may lack it
      continue;
    }
    if (resume) {
      slot.timeouts = 0;
      slot.repeated = true;  // what it takes from here on says nothing of the delay
      slot.due = std::min(slot.due, slot.unsent ? now : now + patience());
    }
    if (slot.due <= now) {
      if (effects.room() < 3 * kFragmentsMax) {
        resume_ = resume;
        return next_due_ = now;
      }
      on_time_up(slot, now, effects);
    }
    next_due_ = std::min(next_due_, slot.due);
  }
  return next_due_;
}

void Proposer::on_time_up(Outstanding& slot, Nanos now, Effects& effects) {
  const bool speaks = slot.value.id.sequence == speaker();
  // Nobody listens: as long as that is so, the others are not sent in vain.
  if (target_silent() && !speaks) return schedule(slot, now + kBackoffMax);
  if (slot.unsent) {
    slot.repeated = true;
    send_submit(slot, now, effects);
    schedule(slot, now + backoff(slot));
    return;
  }
  // A coordinator that took over may have filled its place with nothing, though: once it has waited
  // for as long as any, it is tried again like any.
  const Nanos usual = slot.last_sent + patience();
  if (slot.overtaken_at != kNever && slot.queries == 0 && now < usual) {
    counters_[ProposerCounter::kOvertaken].add();
    send_query(slot, now, effects);
    return schedule(slot, usual);
  }
  const bool missing = !received(slot.value.id.sequence);
  // Repeating those behind the speaker as well would only add load. Every fourth time each is
  // repeated anyway: what was received may have been lost with a coordinator, and a new one grants
  // credit in answer only.
  const bool repeat = speaks ? missing || slot.timeouts >= 3 : slot.timeouts % 4 == 3;
  if (repeat) {
    counters_[ProposerCounter::kRetransmitted].add();
    slot.repeated = true;
    send_submit(slot, now, effects);
  }
  if (speaks && !options_.client_server) probe(slot, effects);
  // A value that was perhaps not even received is asked for only when that is cheap.
  const bool in_one_piece = slot.value.bytes <= fragment_bytes_;
  if (!slot.done && (!missing || (speaks && in_one_piece) || slot.timeouts > 1)) {
    send_query(slot, now, effects);
  }
  ++slot.timeouts;
  schedule(slot, now + backoff(slot));
}

/// The coordinator may be dead. Another acceptor, each in turn, says who coordinates; if it does so
/// itself, it has the value already.
void Proposer::probe(Outstanding& slot, Effects& effects) {
  ++unheard_;
  if (++silent_ == kSilentMax + 1) counters_[ProposerCounter::kTargetSilent].add();
  const auto count = static_cast<std::uint32_t>(configuration_.acceptors.size());
  if (count == 1) return;
  // Whatever became of the target meanwhile: each has its turn.
  if (probes_ % count == target_) ++probes_;
  const std::uint32_t asked = probes_++ % count;
  counters_[ProposerCounter::kProbes].add();
  slot.repeated = true;
  Submit message{};
  message.oldest = oldest_;
  send_fragments(configuration_.acceptors[asked].endpoint, MessageType::kSubmit, message, slot,
                 effects);
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::ProposerCounter::kCount)>
    CounterNames<consensus::ProposerCounter>::names = {
        "proposed",   "replied",       "abandoned",     "retransmitted", "gap_resent",
        "redirected", "target_silent", "probes",        "queries",       "overtaken",
        "slow",       "suspected",     "drop_ack_stale"};

}  // namespace annulus::dataplane
