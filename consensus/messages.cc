#include "consensus/messages.h"

#include "consensus/membership.h"

namespace annulus::consensus {
namespace {

using dataplane::Frame;

/// `payload_bytes` is what the fragment of `bytes` bytes in all must carry.
bool valid_cut(std::uint32_t bytes, const WireFragment& fragment, std::uint64_t payload_bytes) {
  const std::uint32_t index = fragment.index;
  const std::uint32_t count = fragment.count;
  const std::uint32_t each = fragment.bytes;
  if (each == 0 || index >= count) return false;
  if ((std::uint64_t{bytes} + each - 1) / each != count) return false;
  const std::uint64_t offset = std::uint64_t{index} * each;
  return payload_bytes == (index + 1 == count ? bytes - offset : each);
}

bool valid_value(const WireValue& value, std::uint32_t value_bytes_max) {
  return value.bytes == 0 ? value.content_hash == 0 : value.bytes <= value_bytes_max;
}

bool valid_fragment(const WireValue& value, const WireFragment& fragment,
                    std::uint64_t payload_bytes, std::uint32_t value_bytes_max) {
  if (!valid_value(value, value_bytes_max) || fragment.count > kFragmentsMax) return false;
  if (value.bytes == 0) return fragment.index == 0 && fragment.count == 1 && payload_bytes == 0;
  return valid_cut(value.bytes, fragment, payload_bytes);
}

bool valid_decided(const WireDecided& decided) {
  return decided.from >= raw(kFirstInstance) && decided.below >= decided.from;
}

/// Ends with the coordinator, names nobody twice, and nothing follows its end.
bool valid_route(const WireRoute& route) {
  std::uint32_t seen = 0;
  std::size_t size = 0;
  for (; size < kRingMax && route.acceptor[size] != kRouteEnd; ++size) {
    const std::uint8_t acceptor = route.acceptor[size];
    if (acceptor >= kAcceptorsMax || (seen >> acceptor & 1) != 0) return false;
    seen |= 1u << acceptor;
  }
  for (std::size_t i = size; i < kRingMax; ++i) {
    if (route.acceptor[i] != kRouteEnd) return false;
  }
  return size > 0;
}

template <typename Head, typename Entry>
bool exact_list(const Frame& frame, std::size_t count) {
  return frame.message.size() == sizeof(Head) + count * sizeof(Entry);
}

bool valid_phase1b(const Frame& frame, std::uint32_t value_bytes_max) {
  if (frame.message.size() < sizeof(Phase1B) || frame.payload) return false;
  const auto& m = message<Phase1B>(frame);
  if (m.parts == 0 || m.parts > kPhase1BPartsMax || m.part >= m.parts) return false;
  if (!valid_decided(m.decided)) return false;
  const bool unknown = m.unknown_below != 0;
  if (unknown ? m.unknown_from >= m.unknown_below : m.unknown_from != 0) return false;
  if (!exact_list<Phase1B, Phase1BEntry>(frame, m.count)) return false;
  std::uint64_t last = 0;
  for (const auto& entry : entries<Phase1BEntry>(m, m.count)) {
    if (entry.instance <= last || entry.ballot == 0) return false;
    if (!valid_value(entry.value, value_bytes_max)) return false;
    last = entry.instance;
  }
  return true;
}

bool valid_phase2b(const Frame& frame) {
  if (frame.message.size() < sizeof(Phase2B) || frame.payload) return false;
  const auto& m = message<Phase2B>(frame);
  if (m.count > kPhase2BEntriesMax || m.credits > kLearnersMax) return false;
  if (frame.message.size() !=
      sizeof(Phase2B) + m.count * sizeof(Phase2BEntry) + m.credits * sizeof(LearnerCredit)) {
    return false;
  }
  for (const auto& entry : entries<Phase2BEntry>(m, m.count)) {
    if (entry.instance == 0 || entry.acceptors == 0 || entry.acceptors >> kAcceptorsMax != 0)
      return false;
  }
  return true;
}

bool valid_pull(const Frame& frame) {
  if (frame.message.size() < sizeof(Pull) || frame.payload) return false;
  const auto& m = message<Pull>(frame);
  if (m.kind < 1 || m.kind > 4 || m.reserved != 0 || m.count == 0) return false;
  return m.count <= kPullEntriesMax && exact_list<Pull, PullEntry>(frame, m.count);
}

bool valid_kind(std::uint8_t kind) { return kind >= 1 && kind <= 2; }

bool valid_join(const Join& m) {
  return m.incarnation != 0 && valid_kind(m.kind) && m.reserved == decltype(m.reserved){};
}

bool valid_change(const ChangeRequest& m) {
  return m.operation != 0 && m.verb >= 1 && m.verb <= 3 && valid_kind(m.kind) && m.reserved == 0;
}

bool valid_manifest(const StateManifest& m) {
  if (m.reserved != decltype(m.reserved){}) return false;
  const auto offer = static_cast<StateOffer>(m.offer);
  if (offer == StateOffer::kWait || offer == StateOffer::kNone) {
    return m.image == 0 && m.instance == 0 && m.bytes == 0 && m.hash == 0 && m.segments == 0 &&
           m.chunk_bytes == 0;
  }
  return offer == StateOffer::kHere && m.image != 0 && m.bytes != 0 && m.segments != 0 &&
         m.chunk_bytes != 0 && m.chunk_bytes <= kStateChunkBytesMax &&
         (m.bytes - 1) / m.chunk_bytes < ~std::uint32_t{0};
}

bool valid_state_pull(const Frame& frame) {
  if (frame.message.size() < sizeof(StatePull) || frame.payload) return false;
  const auto& m = message<StatePull>(frame);
  return m.image != 0 && m.reserved == 0 && m.count != 0 && m.count <= kStatePullEntriesMax &&
         exact_list<StatePull, u32le>(frame, m.count);
}

template <typename M>
bool bare(const Frame& frame) {
  return frame.message.size() == sizeof(M) && !frame.payload;
}

/// Of state transfer.
bool valid_state_message(const Frame& frame) {
  switch (static_cast<MessageType>(frame.header->type)) {
    case MessageType::kStateAsk:
      return bare<StateAsk>(frame);
    case MessageType::kStateManifest:
      return bare<StateManifest>(frame) && valid_manifest(message<StateManifest>(frame));
    case MessageType::kStatePull:
      return valid_state_pull(frame);
    case MessageType::kStateChunk: {
      if (frame.message.size() != sizeof(StateChunk)) return false;
      const auto& m = message<StateChunk>(frame);
      return m.image != 0 && m.bytes != 0 && m.bytes <= kStateChunkBytesMax &&
             m.bytes == frame.payload.size();
    }
    default:
      return false;
  }
}

}  // namespace

const char* to_string(MessageType type) {
  static constexpr const char* kNames[] = {
      "none",      "submit",          "submit_ack",     "phase1a",    "phase1b",
      "phase2a",   "phase2b",         "decision",       "reject",     "pull",
      "value",     "trimmed",         "learner_status", "reply",      "query",
      "pre_vote",  "pre_vote_answer", "configuration",  "join",       "change",
      "state_ask", "state_manifest",  "state_pull",     "state_chunk"};
  static_assert(std::size(kNames) == kMessageTypeLast + 1);
  const auto index = static_cast<std::size_t>(type);
  return index <= kMessageTypeLast ? kNames[index] : "unknown";
}

bool validate(const Frame& frame, std::uint32_t value_bytes_max) {
  const std::size_t bytes = frame.message.size();
  const std::uint32_t payload = frame.payload.size();
  switch (static_cast<MessageType>(frame.header->type)) {
    case MessageType::kSubmit: {
      if (bytes != sizeof(Submit)) return false;
      const auto& m = message<Submit>(frame);
      return m.value.bytes != 0 && m.oldest <= m.value.id.sequence &&
             !from_wire(m.value).membership() &&
             valid_fragment(m.value, m.fragment, payload, value_bytes_max);
    }
    case MessageType::kSubmitAck:
      return bare<SubmitAck>(frame);
    case MessageType::kPhase1A:
      return bare<Phase1A>(frame) && message<Phase1A>(frame).ballot != 0 &&
             message<Phase1A>(frame).from != 0;
    case MessageType::kPhase1B:
      return valid_phase1b(frame, value_bytes_max);
    case MessageType::kPhase2A: {
      if (bytes != sizeof(Phase2A)) return false;
      const auto& m = message<Phase2A>(frame);
      return m.instance != 0 && m.ballot != 0 && valid_decided(m.decided) && valid_route(m.route) &&
             valid_fragment(m.value, m.fragment, payload, value_bytes_max);
    }
    case MessageType::kPhase2B:
      return valid_phase2b(frame);
    case MessageType::kDecision:
      return bare<Decision>(frame) && valid_decided(message<Decision>(frame).decided);
    case MessageType::kReject:
      return bare<Reject>(frame);
    case MessageType::kPull:
      return valid_pull(frame);
    case MessageType::kValue: {
      if (bytes != sizeof(ValueMessage)) return false;
      const auto& m = message<ValueMessage>(frame);
      return m.instance != 0 && m.ballot != 0 && m.chosen <= 1 &&
             m.reserved == decltype(m.reserved){} && valid_decided(m.decided) &&
             valid_fragment(m.value, m.fragment, payload, value_bytes_max);
    }
    case MessageType::kTrimmed:
      return bare<Trimmed>(frame);
    case MessageType::kLearnerStatus:
      return bare<LearnerStatus>(frame) && message<LearnerStatus>(frame).lacks_state <= 1;
    case MessageType::kReply: {
      if (bytes != sizeof(Reply)) return false;
      const auto& m = message<Reply>(frame);
      return m.bytes != 0 && m.bytes <= kReplyStreamBytesMax &&
             valid_cut(m.bytes, m.fragment, payload);
    }
    case MessageType::kQuery: {
      if (bytes != sizeof(Query)) return false;
      const auto& m = message<Query>(frame);
      return m.value.bytes != 0 && valid_fragment(m.value, m.fragment, payload, value_bytes_max);
    }
    case MessageType::kPreVote:
      return bare<PreVote>(frame);
    case MessageType::kPreVoteAnswer:
      return bare<PreVoteAnswer>(frame) && message<PreVoteAnswer>(frame).missed <= 1 &&
             message<PreVoteAnswer>(frame).reserved == decltype(PreVoteAnswer::reserved){};
    case MessageType::kConfiguration:
      return !frame.payload && valid_configuration(frame.message);
    case MessageType::kJoin:
      return bare<Join>(frame) && valid_join(message<Join>(frame));
    case MessageType::kChange:
      return bare<ChangeRequest>(frame) && valid_change(message<ChangeRequest>(frame));
    default:
      return valid_state_message(frame);
  }
}

ValueId from_wire(const WireValueId& wire) {
  return {NodeId{wire.proposer.get()}, wire.epoch, wire.sequence};
}
WireValueId to_wire(const ValueId& id) { return {raw(id.proposer), id.epoch, id.sequence}; }
Value from_wire(const WireValue& wire) {
  return {from_wire(wire.id), wire.content_hash, PartitionMask{wire.mask.get()}, wire.bytes};
}
WireValue to_wire(const Value& value) {
  return {to_wire(value.id), value.content_hash, raw(value.mask), value.bytes};
}
Decided from_wire(const WireDecided& wire) {
  return {Ballot{wire.ballot.get()}, Instance{wire.from.get()}, Instance{wire.below.get()}};
}
WireDecided to_wire(const Decided& decided) {
  return {raw(decided.ballot), raw(decided.from), raw(decided.below)};
}
Fragment from_wire(const WireFragment& wire) { return {wire.index, wire.count, wire.bytes}; }
WireFragment to_wire(const Fragment& fragment) {
  return {fragment.index, fragment.count, fragment.bytes};
}

Fragment cut(std::uint32_t bytes, std::uint32_t fragment_bytes, std::uint32_t index) {
  if (bytes <= fragment_bytes) return {0, 1, bytes};
  return {static_cast<std::uint16_t>(index),
          static_cast<std::uint16_t>((bytes + fragment_bytes - 1) / fragment_bytes),
          fragment_bytes};
}

}  // namespace annulus::consensus
