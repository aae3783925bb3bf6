#include "consensus/port.h"

#include "dataplane/hash.h"

namespace annulus::consensus {

using dataplane::FrameFault;

static_assert(static_cast<int>(PortCounter::kDropTruncated) ==
                  static_cast<int>(FrameFault::kTruncated) - 1 &&
              static_cast<int>(PortCounter::kDropBadPayloadHash) ==
                  static_cast<int>(FrameFault::kBadPayloadHash) - 1);

Port::Port(dataplane::Transport& transport, const PortIdentity& identity,
           const Configuration& configuration, std::uint32_t value_bytes_max)
    : transport_(transport),
      identity_(identity),
      configuration_(configuration),
      value_bytes_max_(value_bytes_max) {}

std::span<Received> Port::receive(Nanos now) {
  const std::uint32_t count = transport_.receive(now, rx_);
  const dataplane::FrameFilter filter{identity_.cluster, identity_.ring};
  std::uint32_t valid = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    dataplane::RxFrame& rx = rx_[i];
    Received& out = received_[valid];
    const FrameFault fault = open_frame(rx.head, rx.payload, filter, out.frame);
    if (fault != FrameFault::kNone) {
      counters_[static_cast<PortCounter>(static_cast<int>(fault) - 1)].add();
      continue;
    }
    if (identity_.node != kNoNode && out.frame.header->sender == raw(identity_.node)) {
      counters_[PortCounter::kDropOwnFrame].add();
      continue;
    }
    if (!validate(out.frame, value_bytes_max_)) {
      counters_[PortCounter::kDropBadMessage].add();
      continue;
    }
    out.from = rx.from;
    out.head = std::move(rx.head);
    out.type = static_cast<MessageType>(out.frame.header->type);
    if ((out.frame.header->flags & dataplane::kRelay) != 0) relay(now, out);
    ++valid;
  }
  // What was refused must not keep its buffers until the next burst.
  for (std::uint32_t i = 0; i < count; ++i) {
    rx_[i].head.reset();
    rx_[i].payload.reset();
  }
  return {received_.data(), valid};
}

void Port::release(std::span<Received> burst) {
  for (Received& received : burst) {
    received.head.reset();
    received.frame.payload.reset();
  }
}

void Port::relay(Nanos now, const Received& received) {
  const auto next = next_in_dissemination_ring(NodeId{received.frame.header->sender.get()});
  if (!next) return;
  const std::size_t head_bytes = sizeof(dataplane::FrameHeader) + received.frame.message.size();
  dataplane::TxFrame tx{*next, {received.head.data(), head_bytes}, received.frame.payload};
  transport_.transmit(now, {&tx, 1});
  counters_[PortCounter::kRelayed].add();
}

std::optional<Endpoint> Port::next_in_dissemination_ring(NodeId origin) const {
  const auto& acceptors = configuration_.acceptors;
  const auto& learners = configuration_.learners;
  const std::size_t count = acceptors.size() + learners.size();
  // A stranger's frame would never meet its origin, and go round for ever.
  if (!configuration_.acceptor_index(origin) && !configuration_.learner_index(origin)) {
    return std::nullopt;
  }
  const auto member = [&](std::size_t i) {
    return i < acceptors.size()
               ? acceptors[i]
               : Member{learners[i - acceptors.size()].id, learners[i - acceptors.size()].endpoint};
  };
  for (std::size_t i = 0; i < count; ++i) {
    if (member(i).id != identity_.node) continue;
    Member next = member((i + 1) % count);
    for (std::size_t k = 2; next.id == kNoNode; ++k) next = member((i + k) % count);
    if (next.id == origin || next.id == identity_.node) return std::nullopt;
    return next.endpoint;
  }
  return std::nullopt;
}

void Port::seal(Outgoing& out, std::uint16_t flags) {
  if (out.payload && out.payload_hash == 0) {
    out.payload_hash = dataplane::hash_bytes(out.payload.bytes());
  }
  auto& header = *reinterpret_cast<dataplane::FrameHeader*>(out.head.data());
  seal_frame(header, static_cast<std::uint8_t>(out.type), out.message_bytes, out.payload.size(),
             out.payload_hash,
             {.cluster = identity_.cluster,
              .sender = raw(identity_.node),
              .ring = identity_.ring,
              .config_epoch = configuration_.epoch,
              .sender_epoch = identity_.epoch,
              .sequence = ++sequence_},
             flags);
}

void Port::queue(Nanos now, const Endpoint& to, Outgoing& out) {
  if (tx_count_ == tx_.size()) flush(now);
  dataplane::TxFrame& tx = tx_[tx_count_++];
  tx.to = to;
  tx.head = {out.head.data(), sizeof(dataplane::FrameHeader) + out.message_bytes};
  tx.payload = out.payload;
}

void Port::flush(Nanos now) {
  if (tx_count_ == 0) return;
  transport_.transmit(now, {tx_.data(), tx_count_});
  tx_count_ = 0;
}

void Port::send(Nanos now, Effects& effects) {
  if (effects.size() == 0) return;
  for (Outgoing& out : effects.frames()) {
    const bool ring =
        out.to_all && !out.direct && configuration_.dissemination == Dissemination::kRing;
    seal(out, ring ? dataplane::kRelay : std::uint16_t{0});
    if (!out.to_all) {
      queue(now, out.to, out);
    } else if (ring) {
      if (const auto next = next_in_dissemination_ring(identity_.node)) queue(now, *next, out);
    } else if (configuration_.dissemination == Dissemination::kMulticast) {
      queue(now, configuration_.group, out);
    } else {
      fan_out(now, out);
    }
  }
  flush(now);
  effects.clear();
}

void Port::fan_out(Nanos now, Outgoing& out) {
  for (const Member& acceptor : configuration_.acceptors) {
    if (acceptor.id != identity_.node) queue(now, acceptor.endpoint, out);
  }
  for (const LearnerMember& learner : configuration_.learners) {
    if (learner.id != identity_.node && learner.id != kNoNode) queue(now, learner.endpoint, out);
  }
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::PortCounter::kCount)>
    CounterNames<consensus::PortCounter>::names = {
        "drop_truncated",        "drop_bad_magic",    "drop_bad_version",    "drop_bad_flags",
        "drop_foreign_cluster",  "drop_foreign_ring", "drop_trailing_bytes", "drop_bad_checksum",
        "drop_bad_payload_hash", "drop_bad_message",  "drop_own_frame",      "relayed"};

}  // namespace annulus::dataplane
