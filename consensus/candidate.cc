#include "consensus/candidate.h"

#include <algorithm>
#include <utility>

#include "consensus/membership.h"

namespace annulus::consensus {
namespace {

constexpr Nanos kAskInterval = 5 * kMillisecond;

PortIdentity without_id(PortIdentity identity) {
  identity.node = kNoNode;  // the members give it one
  return identity;
}

}  // namespace

ReplicaCandidate::ReplicaCandidate(const PortIdentity& identity, const Configuration& founders,
                                   std::vector<Endpoint> acceptors, const Endpoint& endpoint,
                                   std::uint64_t incarnation, dataplane::Transport& transport)
    : acceptors_(std::move(acceptors)),
      endpoint_(endpoint),
      incarnation_(incarnation),
      port_(transport, without_id(identity), configuration_, kConfigurationBytesMax) {
  adopt(founders);
}

void ReplicaCandidate::adopt(const Configuration& next) {
  configuration_ = next;
  for (const Member& each : next.acceptors) {
    const bool known =
        std::find(acceptors_.begin(), acceptors_.end(), each.endpoint) != acceptors_.end();
    if (!known) acceptors_.push_back(each.endpoint);
  }
}

Nanos ReplicaCandidate::poll(Nanos now) {
  for (std::span<Received> burst = port_.receive(now); !burst.empty(); burst = port_.receive(now)) {
    for (const Received& in : burst) {
      if (in.type != MessageType::kConfiguration) continue;
      const Configuration next = decode(in.frame.message, configuration_);
      if (next.epoch > configuration_.epoch) adopt(next);
    }
    Port::release(burst);
  }
  if (now >= ask_at_) {
    ask_at_ = now + kAskInterval;
    const Join join{
        incarnation_, configuration_.epoch, static_cast<std::uint8_t>(JoinKind::kReplica), {}};
    for (const Endpoint& each : acceptors_) {
      if (effects_.room() == 0) port_.send(now, effects_);
      effects_.send_now(each, MessageType::kJoin, join);
    }
    port_.send(now, effects_);
  }
  return ask_at_;
}

std::optional<std::uint32_t> ReplicaCandidate::admitted() const {
  for (std::uint32_t i = 0; i < configuration_.learners.size(); ++i) {
    const LearnerMember& each = configuration_.learners[i];
    if (each.id != kNoNode && each.endpoint == endpoint_) return i;
  }
  return std::nullopt;
}

}  // namespace annulus::consensus
