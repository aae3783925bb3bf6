#include "consensus/state_source.h"

#include <algorithm>
#include <cstring>

namespace annulus::consensus {
namespace {

/// A copy that somebody fetches is asked about at least this often.
constexpr Nanos kInUse = 200 * kMillisecond;
/// The worker stands still for copies in at most one part in so many of the time.
constexpr std::int64_t kCopyShare = 20;
/// As slow as no copy is: more says something of the host, or of a clock that jumped.
constexpr Nanos kNanosPerByte = 4;
constexpr std::uint32_t kChunksPerTurn = 16;
/// What was not sent while nothing was asked for may be made up for, up to this.
constexpr Nanos kAllowanceMax = 2 * kMillisecond;

}  // namespace

StateSource::StateSource(const StateSourceOptions& options, StateExchange& exchange)
    : options_(options),
      exchange_(exchange),
      pool_(kChunkBuffers, options.chunk_bytes),
      image_(options.first_image) {
  CHECK(options.chunk_bytes <= kStateChunkBytesMax && options.first_image != 0);
}

std::uint32_t StateSource::chunks() const {
  return static_cast<std::uint32_t>((exchange_.image().bytes + options_.chunk_bytes - 1) /
                                    options_.chunk_bytes);
}

void StateSource::answer(const Endpoint& to, StateOffer offer, Effects& effects) {
  counters_[offer == StateOffer::kNone ? StateSourceCounter::kHadNone
                                       : StateSourceCounter::kToldToWait]
      .add();
  StateManifest m{};
  m.offer = static_cast<std::uint8_t>(offer);
  effects.send_now(to, MessageType::kStateManifest, m);
}

void StateSource::offer(const Endpoint& to, Effects& effects) {
  counters_[StateSourceCounter::kOffered].add();
  const StateImage& image = exchange_.image();
  effects.send_now(to, MessageType::kStateManifest,
                   StateManifest{image_,
                                 raw(image.instance),
                                 image.bytes,
                                 image.hash,
                                 image.segments,
                                 options_.chunk_bytes,
                                 static_cast<std::uint8_t>(StateOffer::kHere),
                                 {}});
}

void StateSource::on_ask(const Received& in, bool current, Instance position, Nanos now,
                         Effects& effects) {
  counters_[StateSourceCounter::kAsked].add();
  const Instance from{message<StateAsk>(in.frame).from.get()};
  if (!current) return answer(in.from, StateOffer::kNone, effects);
  if (stage_ == Stage::kServing) {
    const bool late_enough = exchange_.image().instance >= from;
    if (late_enough || now - used_at_ < kInUse) return offer(in.from, effects);
    give_up();
  }
  if (stage_ == Stage::kNone && exchange_.phase() == StateExchange::Phase::kIdle &&
      position >= from && now >= next_copy_at_) {
    stage_ = Stage::kWanted;
  }
  answer(in.from, StateOffer::kWait, effects);
}

void StateSource::on_pull(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<StatePull>(in.frame);
  if (stage_ != Stage::kServing || m.image != image_) {
    counters_[StateSourceCounter::kDropUnknownImage].add();
    return answer(in.from, StateOffer::kWait, effects);
  }
  used_at_ = now;
  for (const u32le index : entries<u32le>(m, m.count)) {
    if (index >= chunks()) continue;
    if (queue_tail_ - queue_head_ == kQueueMax) {
      counters_[StateSourceCounter::kDropQueueFull].add();
      break;
    }
    queue_[queue_tail_++ % kQueueMax] = {in.from, index};
  }
  deadline_ = now;
}

void StateSource::copy_begun(Instance position, Nanos now) {
  CHECK(stage_ == Stage::kWanted);
  counters_[StateSourceCounter::kCopies].add();
  exchange_.image() = {.instance = position};
  exchange_.pass(StateExchange::Phase::kCopying);
  stage_ = Stage::kCopying;
  begun_at_ = now;
  ++image_;
}

void StateSource::give_up() {
  if (stage_ == Stage::kWanted) stage_ = Stage::kNone;
  if (stage_ != Stage::kServing) return;
  counters_[StateSourceCounter::kCopiesGivenUp].add();
  stage_ = Stage::kGivingBack;
  queue_head_ = queue_tail_;
}

/// False when nothing more can be sent now.
bool StateSource::send_chunk(const Wanted& wanted, Effects& effects) {
  const std::uint64_t at = std::uint64_t{wanted.index} * options_.chunk_bytes;
  const auto bytes = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(options_.chunk_bytes, exchange_.image().bytes - at));
  if (bytes > allowance_ || effects.room() < 2) return false;
  dataplane::Slice piece = pool_.allocate();
  if (!piece) return false;
  piece.truncate(bytes);
  std::memcpy(piece.mutable_data(), exchange_.memory().data() + at, bytes);
  Outgoing& out = effects.send_now(wanted.to, MessageType::kStateChunk,
                                   StateChunk{image_, wanted.index, bytes});
  out.payload = std::move(piece);
  allowance_ -= bytes;
  counters_[StateSourceCounter::kChunksSent].add();
  return true;
}

void StateSource::tick(Nanos now, Effects& effects) {
  deadline_ = kNever;
  if (stage_ == Stage::kCopying) {
    deadline_ = now;
    if (exchange_.phase() != StateExchange::Phase::kCopied) return;
    stage_ = Stage::kServing;
    used_at_ = now;
    const Nanos still = exchange_.stood_still();
    const Nanos most = kNanosPerByte * static_cast<Nanos>(exchange_.image().bytes);
    next_copy_at_ = now + std::max(kCopyShare * std::min(still, most), now - begun_at_);
    pause_ns_.record(static_cast<std::uint64_t>(still));
  }
  if (stage_ == Stage::kServing) {
    const Nanos passed = std::min(now - allowed_at_, kAllowanceMax);
    const std::uint64_t most = std::max<std::uint64_t>(
        options_.bytes_per_ms * kAllowanceMax / kMillisecond, options_.chunk_bytes);
    allowance_ = std::min(
        allowance_ + options_.bytes_per_ms * static_cast<std::uint64_t>(passed) / kMillisecond,
        most);
    allowed_at_ = now;
    for (std::uint32_t sent = 0; sent < kChunksPerTurn && queue_head_ != queue_tail_; ++sent) {
      if (!send_chunk(queue_[queue_head_ % kQueueMax], effects)) break;
      ++queue_head_;
    }
    deadline_ =
        queue_head_ != queue_tail_ ? now + 20 * kMicrosecond : used_at_ + options_.keep_unused;
    if (now - used_at_ >= options_.keep_unused) give_up();
  }
  if (stage_ == Stage::kGivingBack) {
    deadline_ = now;
    if (!exchange_.give_back()) return;
    exchange_.pass(StateExchange::Phase::kIdle);
    stage_ = Stage::kNone;
    deadline_ = kNever;
  }
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::StateSourceCounter::kCount)>
    CounterNames<consensus::StateSourceCounter>::names = {
        "asked",           "offered",     "told_to_wait",       "had_none",       "copies",
        "copies_given_up", "chunks_sent", "drop_unknown_image", "drop_queue_full"};

}  // namespace annulus::dataplane
