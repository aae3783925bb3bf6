#include "consensus/state_receiver.h"

#include <algorithm>
#include <cstring>

#include "dataplane/defect.h"

namespace annulus::consensus {
namespace {

/// What others were asked for may still come: only then is a value gone.
constexpr Nanos kBehindFor = 5 * kMillisecond;
constexpr Nanos kAskAgain = 20 * kMillisecond;
constexpr Nanos kAskSoon = 2 * kMillisecond;  // who said to wait
constexpr Nanos kAskLater = 50 * kMillisecond;
/// Asks in a row that nobody answered, before another peer is asked.
constexpr std::uint32_t kAsksMax = 5;
/// For so long an answer that asks for patience is good, and at most so long others are made wait.
constexpr Nanos kPromise = 50 * kMillisecond;
constexpr Nanos kBlockMax = 500 * kMillisecond;
constexpr Nanos kPeerSilent = 500 * kMillisecond;
constexpr std::uint64_t kOnTheirWayMax = 512 * 1'024;
constexpr std::uint32_t kWindowMin = 4;
/// Of the values executed from the log, this share comes off what the log may hold.
constexpr std::uint64_t kShrinkShare = 10;

}  // namespace

StateReceiver::StateReceiver(const Configuration& configuration, std::uint32_t self,
                             const StateReceiverOptions& options, Learner& learner,
                             StateExchange& exchange)
    : configuration_(configuration),
      options_(options),
      learner_(learner),
      exchange_(exchange),
      log_(options.log_bytes, options.value_bytes_max),
      self_(configuration.learners[self].id),
      partitions_(configuration.learners[self].partitions),
      piece_delay_(5 * kMillisecond, kMillisecond, 100 * kMillisecond) {
  peers_.reserve(kLearnersMax);
  find_peers();
}

void StateReceiver::find_peers() {
  peers_epoch_ = configuration_.epoch;
  peers_.clear();
  peer_ = 0;
  const auto& learners = configuration_.learners;
  for (std::uint32_t i = 0; i < learners.size(); ++i) {
    const bool vacant = learners[i].id == kNoNode;
    if (vacant || learners[i].id == self_ || learners[i].partitions != partitions_) continue;
    peers_.push_back(i);
  }
  if (stage_ == Stage::kFetching) stage_ = Stage::kAsking;  // whoever it was may be gone
}

// --- When, and from where on

void StateReceiver::watch(Nanos now) {
  if (stage_ == Stage::kFetched || stage_ == Stage::kInstalling) return;
  if (!learner_.behind_log() || learner_.delivered_below() != stuck_at_) {
    stuck_at_ = learner_.delivered_below();
    stuck_since_ = now;
  }
  if (!learner_.behind_log()) return;
  if (now - stuck_since_ < kBehindFor) return schedule(stuck_since_ + kBehindFor);
  if (stage_ != Stage::kCurrent) counters_[StateReceiverCounter::kOutrun].add();
  begin(now);
}

void StateReceiver::begin(Nanos now) {
  counters_[StateReceiverCounter::kBegun].add();
  if (stage_ == Stage::kCurrent) begun_at_ = now;
  stage_ = Stage::kAsking;
  image_ = 0;
  asks_ = 0;
  ask_at_ = now;
  reposition(std::max(learner_.decided_below(), learner_.trimmed_below()));
}

void StateReceiver::reposition(Instance next) {
  log_.clear();
  log_from_ = next;
  stuck_at_ = Instance{};
  learner_.restart_at(next);
}

std::uint64_t StateReceiver::allowed() const {
  const std::uint64_t half = log_.capacity() / 2;
  if (stage_ == Stage::kAsking) return half;
  if (stage_ == Stage::kFetching) return half + half * base_ / count_;
  if (stage_ != Stage::kReplaying) return log_.capacity();
  const std::uint64_t shrunk = replayed_ / kShrinkShare;
  return replayed_from_ - std::min(replayed_from_, shrunk);
}

// --- Asking

/// Whether the log is full, and what is not in it is waited for in vain.
bool StateReceiver::blocks_in_vain(Nanos now) {
  if (room()) {
    full_since_ = kNever;
    return false;
  }
  full_since_ = std::min(full_since_, now);
  schedule(now + kAskSoon);
  return now - promised_at_ > kPromise || now - full_since_ > kBlockMax;
}

void StateReceiver::ask(Nanos now, Effects& effects) {
  if (blocks_in_vain(now)) {
    counters_[StateReceiverCounter::kLogsDropped].add();
    reposition(std::max(learner_.decided_below(), learner_.delivered_below()));
  }
  if (now < ask_at_) return schedule(ask_at_);
  if (asks_ == kAsksMax) next_peer(now, 0);
  ++asks_;
  counters_[StateReceiverCounter::kAsked].add();
  effects.send_now(peer(), MessageType::kStateAsk, StateAsk{raw(log_from_) - 1});
  ask_at_ = now + kAskAgain;
  schedule(ask_at_);
}

void StateReceiver::next_peer(Nanos now, Nanos pause) {
  if (peers_.empty()) return;
  counters_[StateReceiverCounter::kPeersChanged].add();
  if (image_ != 0 && base_ != 0 && base_ != count_ && peers_.size() > 1) {
    counters_[StateReceiverCounter::kChangedMidway].add();
  }
  stage_ = Stage::kAsking;
  peer_ = (peer_ + 1) % peers_.size();
  asks_ = 0;
  ask_at_ = now + pause;
  schedule(ask_at_);
}

bool StateReceiver::from_peer(const Received& in) const {
  return peers_epoch_ == configuration_.epoch && !peers_.empty() &&
         configuration_.learners[peers_[peer_]].id == NodeId{in.frame.header->sender.get()};
}

void StateReceiver::on_manifest(const Received& in, Nanos now) {
  if ((stage_ != Stage::kAsking && stage_ != Stage::kFetching) || !from_peer(in)) return;
  const auto& m = message<StateManifest>(in.frame);
  asks_ = 0;
  switch (static_cast<StateOffer>(m.offer)) {
    case StateOffer::kNone:
      return next_peer(now, peer_ + 1 == peers_.size() ? kAskLater : 0);
    case StateOffer::kWait:  // of one that is being fetched: it is gone
      stage_ = Stage::kAsking;
      promised_at_ = now;
      ask_at_ = now + kAskSoon;
      return schedule(ask_at_);
    case StateOffer::kHere:
      if (stage_ == Stage::kAsking) take_offer(m, now);
  }
}

void StateReceiver::take_offer(const StateManifest& m, Nanos now) {
  const StateImage offered{Instance{m.instance.get()}, m.bytes, m.hash, m.segments};
  if (offered.bytes > exchange_.memory().size()) {
    counters_[StateReceiverCounter::kRefused].add();
    return next_peer(now, kAskLater);
  }
  const Instance next = offered.instance + 1;
  if (next < log_from_ && next < learner_.trimmed_below()) {
    // Others are fetching it: too old for this replica, which has to wait until they are done.
    ask_at_ = now + kAskLater;
    return schedule(ask_at_);
  }
  // Memory that is still being given back, or that the worker is copying into for others.
  if (exchange_.phase() != StateExchange::Phase::kIdle) return;
  if (next < log_from_ || next > learner_.delivered_below()) reposition(next);
  if (m.image != image_ || peer_ != image_peer_ || offered != manifest_) {
    image_ = m.image;
    image_peer_ = peer_;
    manifest_ = offered;
    exchange_.uses(offered.bytes);
    chunk_bytes_ = m.chunk_bytes;
    count_ = static_cast<std::uint32_t>((offered.bytes - 1) / chunk_bytes_ + 1);
    base_ = end_ = 0;
  }
  stage_ = Stage::kFetching;
  heard_at_ = now;
  schedule(now);
}

// --- Fetching

void StateReceiver::on_chunk(const Received& in, Nanos now) {
  const auto& m = message<StateChunk>(in.frame);
  if (stage_ != Stage::kFetching || m.image != image_ || !from_peer(in)) {
    counters_[StateReceiverCounter::kDropUnknownImage].add();
    return;
  }
  const std::uint32_t index = m.index;
  if (index < base_ || index >= end_ || piece(index).have) {
    counters_[StateReceiverCounter::kDropUnaskedChunk].add();
    return;
  }
  const std::uint64_t at = std::uint64_t{index} * chunk_bytes_;
  if (m.bytes != std::min<std::uint64_t>(chunk_bytes_, manifest_.bytes - at)) {
    counters_[StateReceiverCounter::kDropBadChunk].add();
    return;
  }
  std::memcpy(exchange_.memory().data() + at, in.frame.payload.data(), m.bytes);
  counters_[StateReceiverCounter::kChunks].add();
  Piece& got = piece(index);
  got.have = true;
  if (got.pulls == 1) piece_delay_.record(now - got.asked_at);
  if (got.pulls > 1) piece_delay_.record_late();
  heard_at_ = now;
  schedule(now);
  while (base_ < end_ && piece(base_).have) ++base_;
  if (base_ != count_ && !(DEFECT(kHalfImageInstalled) && base_ > count_ / 2)) return;
  counters_[StateReceiverCounter::kFetched].add();
  stage_ = Stage::kFetched;
}

void StateReceiver::fetch(Nanos now, Effects& effects, bool heard) {
  if (heard && now - heard_at_ >= kPeerSilent) return next_peer(now, 0);
  std::array<u32le, kAskedMax> list;
  std::size_t wanted = 0;
  const Nanos patience = std::max<Nanos>(2 * piece_delay_.p99(), 2 * kMillisecond);
  for (std::uint32_t i = base_; heard && i < end_; ++i) {
    Piece& missing = piece(i);
    if (missing.have) continue;
    const Nanos again = missing.asked_at + (patience << std::min(missing.pulls - 1, 4u));
    if (again > now) {
      schedule(again);
      continue;
    }
    counters_[StateReceiverCounter::kChunksPulledAgain].add();
    missing.asked_at = now;
    ++missing.pulls;
    list[wanted++] = i;
    schedule(now + patience);
  }
  const auto window = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(kOnTheirWayMax / chunk_bytes_, kWindowMin, kAskedMax));
  // Not for every piece that comes, but for a few at once.
  const std::uint32_t room = window - std::min(window, end_ - base_);
  if (room >= window / 4 || end_ == base_) {
    for (const std::uint32_t last = std::min(count_, base_ + window); end_ < last; ++end_) {
      piece(end_) = {now, 1, false};
      list[wanted++] = end_;
    }
    schedule(now + patience);
  }
  schedule(heard_at_ + kPeerSilent);
  if (wanted > 0) pull({list.data(), wanted}, effects);
}

void StateReceiver::pull(std::span<const u32le> list, Effects& effects) {
  Outgoing& out =
      effects.send_now(peer(), MessageType::kStatePull, sizeof(StatePull) + list.size_bytes());
  auto& m = *reinterpret_cast<StatePull*>(out.message());
  m = {image_, static_cast<std::uint32_t>(list.size()), 0u};
  std::copy(list.begin(), list.end(), reinterpret_cast<u32le*>(&m + 1));
}

// --- Installing

void StateReceiver::install_begun() {
  CHECK(stage_ == Stage::kFetched);
  exchange_.image() = manifest_;
  exchange_.pass(StateExchange::Phase::kInstalling);
  stage_ = Stage::kInstalling;
}

void StateReceiver::on_installed(Nanos now) {
  const bool refused = exchange_.phase() == StateExchange::Phase::kRefused;
  counters_[refused ? StateReceiverCounter::kRefused : StateReceiverCounter::kInstalled].add();
  image_ = 0;
  if (refused) {
    exchange_.pass(StateExchange::Phase::kIdle);
    return next_peer(now, kAskSoon);
  }
  stage_ = Stage::kReplaying;
  absent_ns_.record(static_cast<std::uint64_t>(now - begun_at_));
  log_.drop_through(manifest_.instance + (DEFECT(kImageOffByOne) ? 1 : 0));
  replayed_from_ = log_.held();
  replayed_ = 0;
}

bool StateReceiver::next(Delivery& delivery, dataplane::BufferPool& pool) {
  if (stage_ != Stage::kReplaying) return false;
  if (log_.empty()) {
    stage_ = Stage::kCurrent;
    return false;
  }
  if (!log_.pop(delivery, pool)) return false;
  replayed_ += ValueLog::cost(delivery.bytes.size());
  return true;
}

void StateReceiver::tick(Nanos now, Effects& effects, bool heard) {
  deadline_ = kNever;
  if (peers_epoch_ != configuration_.epoch) find_peers();
  const bool alone = peers_.empty();
  if (!alone) watch(now);
  const StateExchange::Phase phase = exchange_.phase();
  if (stage_ == Stage::kInstalling && phase != StateExchange::Phase::kInstalling) {
    on_installed(now);
  }
  if (stage_ == Stage::kAsking && !alone) ask(now, effects);
  if (stage_ == Stage::kFetching && !alone) fetch(now, effects, heard);
  if (stage_ == Stage::kFetched || stage_ == Stage::kInstalling || stage_ == Stage::kReplaying) {
    schedule(now);
  }
  if (stage_ != Stage::kInstalling && exchange_.phase() == StateExchange::Phase::kInstalled) {
    schedule(now);
    if (exchange_.give_back()) exchange_.pass(StateExchange::Phase::kIdle);
  }
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::StateReceiverCounter::kCount)>
    CounterNames<consensus::StateReceiverCounter>::names = {"begun",
                                                            "asked",
                                                            "peers_changed",
                                                            "changed_midway",
                                                            "fetched",
                                                            "installed",
                                                            "refused",
                                                            "outrun",
                                                            "logs_dropped",
                                                            "chunks",
                                                            "chunks_pulled_again",
                                                            "drop_unknown_image",
                                                            "drop_unasked_chunk",
                                                            "drop_bad_chunk"};

}  // namespace annulus::dataplane
