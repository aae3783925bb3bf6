#include "consensus/submit_streams.h"

#include <algorithm>
#include <bit>

namespace annulus::consensus {

SubmitStreams::SubmitStreams(const SubmitOptions& options, dataplane::BufferPool& assembly_pool)
    : options_(options),
      pool_(assembly_pool),
      streams_(options.proposers_max),
      index_(options.proposers_max * 2),
      pending_(std::size_t{options.proposers_max} * options.window),
      ready_(options.proposers_max) {
  CHECK(std::has_single_bit(options.proposers_max) && options.proposers_max <= 32'768);
  CHECK(std::has_single_bit(options.window));
  ack_due_.reserve(options.proposers_max);
  for (std::uint32_t i = 0; i < streams_.size(); ++i) {
    streams_[i].pending_first = i * options.window;
  }
}

namespace {

std::size_t home(const ValueId& id, std::size_t size) {
  const std::uint64_t mixed = (id.epoch ^ raw(id.proposer)) * 0x9e3779b97f4a7c15ull;
  return (mixed >> 32) & (size - 1);
}

}  // namespace

SubmitStreams::Stream* SubmitStreams::find(const ValueId& id) {
  for (std::size_t at = home(id, index_.size()); index_[at] != 0;
       at = (at + 1) & (index_.size() - 1)) {
    Stream& stream = streams_[index_[at] - 1u];
    if (stream.key.epoch == id.epoch && stream.key.proposer == id.proposer) return &stream;
  }
  return nullptr;
}

SubmitStreams::Stream* SubmitStreams::open(const ValueId& id, std::uint64_t oldest,
                                           const Endpoint& from, Nanos now) {
  Stream* place = nullptr;
  for (Stream& stream : streams_) {
    if (!stream.used) {
      place = &stream;
      break;
    }
    if (!stream.queued && (place == nullptr || stream.active < place->active)) place = &stream;
  }
  if (place == nullptr) {
    counters_[SubmitCounter::kDropTooManyProposers].add();
    return nullptr;
  }
  const bool reclaimed = place->used;
  if (reclaimed) {
    // The longest silent proposer makes room: it went away, or will open a stream again.
    counters_[SubmitCounter::kProposersReclaimed].add();
    for (std::uint32_t i = 0; i < options_.window; ++i) pending(*place, i).assembly.reset();
  }
  place->used = true;
  place->key = id;
  place->endpoint = from;
  place->next = oldest;
  place->oldest = oldest;
  place->acked = oldest;
  place->active = now;
  if (reclaimed) {
    std::fill(index_.begin(), index_.end(), 0);
    for (const Stream& stream : streams_) {
      if (!stream.used || &stream == place) continue;
      std::size_t at = home(stream.key, index_.size());
      while (index_[at] != 0) at = (at + 1) & (index_.size() - 1);
      index_[at] = static_cast<std::uint16_t>(&stream - streams_.data() + 1);
    }
  }
  std::size_t at = home(id, index_.size());
  while (index_[at] != 0) at = (at + 1) & (index_.size() - 1);
  index_[at] = static_cast<std::uint16_t>(place - streams_.data() + 1);
  return place;
}

void SubmitStreams::want_ack(Stream& stream) {
  if (stream.ack_due) return;
  stream.ack_due = true;
  ack_due_.push_back(static_cast<std::uint16_t>(&stream - streams_.data()));
}

void SubmitStreams::on_submit(const Received& in, Nanos now) {
  const auto& m = message<Submit>(in.frame);
  const Value value = from_wire(m.value);
  Stream* stream = find(value.id);
  if (stream == nullptr) stream = open(value.id, m.oldest, in.from, now);
  if (stream == nullptr) return;
  stream->active = now;
  stream->endpoint = in.from;
  stream->oldest = std::max<std::uint64_t>(stream->oldest, m.oldest);
  // (A queued stream skips when its head, which front() may have shown, is popped.)
  if (!stream->queued) skip_to_oldest(*stream);
  const std::uint64_t sequence = value.id.sequence;
  if (sequence < stream->next) {
    counters_[SubmitCounter::kDuplicates].add();
    want_ack(*stream);
    return;
  }
  if (sequence - stream->next >= options_.window) {
    counters_[SubmitCounter::kDropBeyondWindow].add();
    want_ack(*stream);
    return;
  }
  Pending& place = pending(*stream, sequence);
  if (!place.assembly.started()) {
    place.received = now;
    if (m.fragment.count > 1) counters_[SubmitCounter::kFragmentsWaited].add();
    if (sequence != stream->next) counters_[SubmitCounter::kGapsWaited].add();
  }
  const auto add = [&] {
    return place.assembly.add(value, from_wire(m.fragment), in.frame.payload,
                              in.frame.header->payload_hash, pool_);
  };
  AssemblyOutcome outcome = add();
  if (outcome == AssemblyOutcome::kNoMemory && sequence == stream->next && make_room(*stream)) {
    outcome = add();
  }
  switch (outcome) {
    case AssemblyOutcome::kComplete:
      enqueue_if_ready(*stream);
      break;
    case AssemblyOutcome::kPartial:
      break;
    case AssemblyOutcome::kDuplicate:
      counters_[SubmitCounter::kDuplicates].add();
      want_ack(*stream);
      break;
    case AssemblyOutcome::kMismatch:
      counters_[SubmitCounter::kDropMismatch].add();
      break;
    case AssemblyOutcome::kNoMemory:
      counters_[SubmitCounter::kDropNoMemory].add();
      break;
    case AssemblyOutcome::kBadContent:
      counters_[SubmitCounter::kDropBadContent].add();
      break;
  }
}

/// What the proposer will never send again must not hold up what follows.
void SubmitStreams::skip_to_oldest(Stream& stream) {
  if (stream.oldest <= stream.next) return;
  const std::uint64_t skipped =
      std::min<std::uint64_t>(stream.oldest - stream.next, options_.window);
  for (std::uint64_t i = 0; i < skipped; ++i) pending(stream, stream.next + i).assembly.reset();
  stream.next = stream.oldest;
  enqueue_if_ready(stream);
}

std::uint64_t SubmitStreams::received_below(const Stream& stream) const {
  std::uint64_t below = stream.next;
  while (below < stream.next + options_.window && pending(stream, below).assembly.complete()) {
    ++below;
  }
  return below;
}

/// A value that is next in its stream needs memory. If values that wait for an earlier one held all
/// of it, nothing would ever be ordered again: one of those is given up. It was not acknowledged,
/// so it will be sent again.
bool SubmitStreams::make_room(Stream& needy) {
  if (give_up_one(needy)) return true;
  for (Stream& stream : streams_) {
    if (stream.used && give_up_one(stream)) return true;
  }
  return false;
}

bool SubmitStreams::give_up_one(Stream& stream) {
  // From the last one on; the first one missing keeps its fragments, as it may be complete soon.
  const std::uint64_t missing = received_below(stream);
  for (std::uint64_t i = stream.next + options_.window - 1; i > missing; --i) {
    Assembly& assembly = pending(stream, i).assembly;
    if (!assembly.copied()) continue;
    assembly.reset();
    counters_[SubmitCounter::kGivenUp].add();
    return true;
  }
  return false;
}

void SubmitStreams::enqueue_if_ready(Stream& stream) {
  if (stream.queued || !pending(stream, stream.next).assembly.complete()) return;
  stream.queued = true;
  ready_[(ready_head_ + ready_count_++) & (ready_.size() - 1)] =
      static_cast<std::uint16_t>(&stream - streams_.data());
}

const SubmitStreams::Ready* SubmitStreams::front() {
  if (front_.bytes) return &front_;
  if (ready_count_ == 0) return nullptr;
  Stream& stream = streams_[ready_[ready_head_]];
  Pending& place = pending(stream, stream.next);
  front_ = {place.assembly.value(), place.assembly.bytes(), place.received};
  return &front_;
}

void SubmitStreams::pop() {
  Stream& stream = streams_[ready_[ready_head_]];
  ready_head_ = (ready_head_ + 1) & static_cast<std::uint32_t>(ready_.size() - 1);
  --ready_count_;
  stream.queued = false;
  pending(stream, stream.next).assembly.reset();
  ++stream.next;
  front_.bytes.reset();
  counters_[SubmitCounter::kValues].add();
  // Credit must reach the proposer before it has used up its last: a quarter window ahead.
  if (stream.next - stream.acked >= options_.window / 4) want_ack(stream);
  skip_to_oldest(stream);
  enqueue_if_ready(stream);
}

void SubmitStreams::flush(Ballot ballot, Nanos, Effects& effects) {
  while (!ack_due_.empty() && effects.room() > 0) {
    Stream& stream = streams_[ack_due_.back()];
    ack_due_.pop_back();
    stream.ack_due = false;
    stream.acked = stream.next;
    counters_[SubmitCounter::kAcks].add();
    effects.send_now(stream.endpoint, MessageType::kSubmitAck,
                     SubmitAck{stream.key.epoch, received_below(stream),
                               stream.next + options_.window, raw(ballot)});
  }
}

void SubmitStreams::clear() {
  for (Stream& stream : streams_) {
    if (!stream.used) continue;
    for (std::uint32_t i = 0; i < options_.window; ++i) pending(stream, i).assembly.reset();
    const std::uint32_t first = stream.pending_first;
    stream = Stream{};
    stream.pending_first = first;
  }
  std::fill(index_.begin(), index_.end(), 0);
  ack_due_.clear();
  ready_head_ = ready_count_ = 0;
  front_.bytes.reset();
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::SubmitCounter::kCount)>
    CounterNames<consensus::SubmitCounter>::names = {"values",
                                                     "duplicates",
                                                     "fragments_waited",
                                                     "gaps_waited",
                                                     "acks",
                                                     "drop_beyond_window",
                                                     "given_up",
                                                     "drop_no_memory",
                                                     "drop_bad_content",
                                                     "drop_mismatch",
                                                     "drop_too_many_proposers",
                                                     "proposers_reclaimed"};

}  // namespace annulus::dataplane
