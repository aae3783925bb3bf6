// What a role's test needs around the role: configurations, values, and messages that were sealed
// and opened by the production frame code, so that a role sees in a test what it sees on a wire.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "consensus/effects.h"
#include "consensus/port.h"
#include "consensus/ring.h"
#include "dataplane/hash.h"

namespace annulus::support {

using namespace annulus::consensus;

constexpr std::uint64_t kCluster = 77;
constexpr std::uint64_t kLearnerEpoch = 5;
constexpr std::uint32_t kValueBytesMax = 65'536;

inline NodeId acceptor_id(std::uint32_t i) { return NodeId{i + 1}; }
inline NodeId learner_id(std::uint32_t i) { return NodeId{i + 101}; }
inline NodeId proposer_id(std::uint32_t i) { return NodeId{i + 201}; }
inline Endpoint endpoint_of(NodeId id) { return {0x0a000000 + raw(id), 4'000}; }
constexpr Instance at(std::uint64_t instance) { return Instance{instance}; }
/// The ballot of acceptor `coordinator` in `round`.
inline Ballot ballot(std::uint64_t round, std::uint32_t coordinator = 0) {
  return make_ballot(round, acceptor_id(coordinator));
}

inline Configuration configuration(std::uint32_t acceptors, std::uint32_t learners = 2) {
  Configuration made;
  made.group = {0xef000001, 4'000};
  for (std::uint32_t i = 0; i < acceptors; ++i) {
    made.acceptors.push_back({acceptor_id(i), endpoint_of(acceptor_id(i))});
  }
  for (std::uint32_t i = 0; i < learners; ++i) {
    made.learners.push_back({learner_id(i), endpoint_of(learner_id(i)), kAllPartitions});
  }
  return made;
}

/// A value with its bytes.
struct Content {
  Value value;
  Slice bytes;
};

class Frames {
 public:
  /// Distinct content for each (proposer, sequence, salt).
  Content content(std::uint64_t sequence, std::uint32_t bytes = 100,
                  PartitionMask mask = kAllPartitions, std::uint32_t proposer = 0,
                  std::uint64_t salt = 0) {
    Slice slice = pool_.allocate();
    const std::uint64_t seed[] = {sequence, proposer, salt};
    for (std::uint32_t i = 0; i < bytes; ++i) {
      slice.mutable_data()[i] = static_cast<std::byte>(
          reinterpret_cast<const unsigned char*>(seed)[i % sizeof seed] + i / sizeof seed);
    }
    slice.truncate(bytes);
    const std::uint64_t hash = dataplane::hash_bytes(slice.bytes());
    return {{{proposer_id(proposer), 9, sequence}, hash, mask, bytes}, slice};
  }
  static Content noop() { return {kNoopValue, {}}; }

  /// One frame from `sender`, sealed, opened and validated.
  Received frame(NodeId sender, MessageType type, std::span<const std::byte> message,
                 const Slice& payload = {}) {
    Slice head = pool_.allocate();
    auto& header = *reinterpret_cast<dataplane::FrameHeader*>(head.mutable_data());
    std::memcpy(head.mutable_data() + sizeof header, message.data(), message.size());
    head.truncate(static_cast<std::uint32_t>(sizeof header + message.size()));
    seal_frame(header, static_cast<std::uint8_t>(type), static_cast<std::uint32_t>(message.size()),
               payload.size(), payload ? dataplane::hash_bytes(payload.bytes()) : 0,
               {kCluster, raw(sender), 0, 1, 1, ++sequence_});
    Received received;
    received.from = endpoint_of(sender);
    received.type = type;
    EXPECT_EQ(open_frame(head, payload, {kCluster, 0}, received.frame),
              dataplane::FrameFault::kNone);
    EXPECT_TRUE(validate(received.frame, kValueBytesMax)) << to_string(type);
    received.head = std::move(head);
    return received;
  }
  template <typename M>
  Received frame(NodeId sender, MessageType type, const M& message, const Slice& payload = {}) {
    return frame(sender, type, std::as_bytes(std::span(&message, 1)), payload);
  }
  /// A message with one or two lists behind it.
  template <typename Head, typename Entry, typename Tail = LearnerCredit>
  Received list(NodeId sender, MessageType type, const Head& head,
                const std::vector<Entry>& entries, const std::vector<Tail>& tail = {}) {
    std::string bytes(reinterpret_cast<const char*>(&head), sizeof head);
    bytes.append(reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(Entry));
    bytes.append(reinterpret_cast<const char*>(tail.data()), tail.size() * sizeof(Tail));
    return frame(sender, type, std::as_bytes(std::span(bytes)));
  }
  /// What another role would receive of a frame that one wants sent.
  Received carry(NodeId sender, Outgoing& out) {
    return frame(sender, out.type,
                 {reinterpret_cast<const std::byte*>(out.message()), out.message_bytes},
                 out.payload);
  }

  /// Fragment `index` of a proposal; a value that fits is one fragment.
  Received phase2a(Instance instance, Ballot at, const Content& content, const Route& route,
                   const Decided& decided = {}, std::uint32_t index = 0) {
    const Fragment fragment = cut(content.value.bytes, kFragment, index);
    return frame(coordinator_of(at), MessageType::kPhase2A,
                 Phase2A{raw(instance), raw(at), to_wire(content.value), to_wire(fragment),
                         to_wire(decided), route.wire()},
                 part(content, fragment));
  }
  Received value(NodeId sender, Instance instance, Ballot at, const Content& content, bool chosen,
                 const Decided& decided = {}, std::uint32_t index = 0) {
    const Fragment fragment = cut(content.value.bytes, kFragment, index);
    ValueMessage m{};
    m.instance = raw(instance);
    m.ballot = raw(at);
    m.value = to_wire(content.value);
    m.fragment = to_wire(fragment);
    m.decided = to_wire(decided);
    m.chosen = chosen ? 1 : 0;
    return frame(sender, MessageType::kValue, m, part(content, fragment));
  }
  Received submit(const Content& content, std::uint64_t oldest = 1, std::uint32_t index = 0) {
    const Fragment fragment = cut(content.value.bytes, kFragment, index);
    return frame(content.value.id.proposer, MessageType::kSubmit,
                 Submit{to_wire(content.value), to_wire(fragment), oldest},
                 part(content, fragment));
  }
  Received phase2b(NodeId sender, Ballot at, const std::vector<Phase2BEntry>& votes,
                   const std::vector<LearnerCredit>& credits = {}) {
    return list(sender, MessageType::kPhase2B,
                Phase2B{raw(at), static_cast<std::uint16_t>(votes.size()),
                        static_cast<std::uint16_t>(credits.size())},
                votes, credits);
  }
  Received pull(NodeId sender, PullKind kind, Ballot at, const std::vector<PullEntry>& wanted) {
    return list(sender, MessageType::kPull,
                Pull{static_cast<std::uint8_t>(kind), 0, static_cast<std::uint16_t>(wanted.size()),
                     raw(at)},
                wanted);
  }
  Received decision(const Decided& decided) {
    return frame(coordinator_of(decided.ballot), MessageType::kDecision,
                 Decision{to_wire(decided), 0u});
  }
  static Phase2BEntry entry(Instance instance, const Value& value, AcceptorSet acceptors) {
    return {raw(instance), to_wire(value.id), value.content_hash, raw(acceptors)};
  }
  static std::uint32_t fragments(const Content& content) {
    return cut(content.value.bytes, kFragment, 0).count;
  }

  /// The payload of an MTU of 1,500.
  static constexpr std::uint32_t kFragment = fragment_bytes(1'500 - dataplane::kIpUdpHeaderBytes);

 private:
  static Slice part(const Content& content, const Fragment& fragment) {
    if (content.value.noop()) return {};
    const std::uint32_t offset = fragment.offset();
    return content.bytes.part(offset, std::min(fragment.bytes, content.value.bytes - offset));
  }

  dataplane::BufferPool pool_{16'384, kValueBytesMax};
  std::uint64_t sequence_ = 0;
};

/// The frames of one type in `effects`.
inline std::vector<Outgoing*> sent(Effects& effects, MessageType type) {
  std::vector<Outgoing*> found;
  for (Outgoing& out : effects.frames()) {
    if (out.type == type) found.push_back(&out);
  }
  return found;
}
template <typename M>
const M& message_of(Outgoing& out) {
  return *reinterpret_cast<const M*>(out.message());
}
/// All votes in `effects` to one acceptor: the set of voters by instance.
inline std::map<std::uint64_t, std::uint32_t> votes_to(Effects& effects, NodeId to) {
  std::map<std::uint64_t, std::uint32_t> votes;
  for (Outgoing* out : sent(effects, MessageType::kPhase2B)) {
    if (out->to != endpoint_of(to)) continue;
    const auto& m = message_of<Phase2B>(*out);
    for (const auto& entry : entries<Phase2BEntry>(m, m.count)) {
      votes[entry.instance] |= entry.acceptors;
    }
  }
  return votes;
}

}  // namespace annulus::support
