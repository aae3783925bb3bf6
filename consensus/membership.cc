#include "consensus/membership.h"

#include <algorithm>
#include <cstring>

#include "dataplane/hash.h"

namespace annulus::consensus {
namespace {

constexpr Nanos kNewsInterval = 200 * kMicrosecond;

const WireMember* members(std::span<const std::byte> bytes) {
  return reinterpret_cast<const WireMember*>(bytes.data() + sizeof(WireConfiguration));
}

template <typename Members>
bool knows_endpoint(const Members& list, const Endpoint& endpoint) {
  return std::any_of(list.begin(), list.end(), [&](const auto& each) {
    return each.id != kNoNode && each.endpoint == endpoint;
  });
}

ChangeVerdict judge_coming(const Configuration& current, const Change& change) {
  const bool replaces = change.verb == ChangeVerb::kReplace;
  const bool acceptor = change.kind == JoinKind::kAcceptor;
  // Who comes for another may do so at the other's address.
  bool taken = acceptor ? knows_endpoint(current.acceptors, change.comes.endpoint)
                        : knows_endpoint(current.learners, change.comes.endpoint);
  if (replaces && acceptor) {
    const Member& goes = current.acceptors[*current.acceptor_index(change.member)];
    taken &= goes.endpoint != change.comes.endpoint;
  }
  if (replaces && !acceptor) {
    const LearnerMember& goes = current.learners[*current.learner_index(change.member)];
    taken &= goes.endpoint != change.comes.endpoint;
  }
  if (taken) return ChangeVerdict::kAlreadyMember;
  if (replaces) return ChangeVerdict::kAllowed;
  if (acceptor && current.acceptors.size() == kAcceptorsMax) return ChangeVerdict::kTooMany;
  const bool place = std::any_of(current.learners.begin(), current.learners.end(),
                                 [](const LearnerMember& each) { return each.id == kNoNode; });
  const bool full = !place && current.learners.size() == kLearnersMax;
  return !acceptor && full ? ChangeVerdict::kTooMany : ChangeVerdict::kAllowed;
}

void add_learner(Configuration& next, const LearnerMember& comes) {
  const auto place = std::find_if(next.learners.begin(), next.learners.end(),
                                  [](const LearnerMember& each) { return each.id == kNoNode; });
  if (place == next.learners.end()) {
    next.learners.push_back(comes);
  } else {
    *place = comes;
  }
}

}  // namespace

bool valid_configuration(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(WireConfiguration)) return false;
  const auto& m = *reinterpret_cast<const WireConfiguration*>(bytes.data());
  if (m.epoch == 0 || m.epoch > kNodeIdMax - kFirstAssignedId - 1 || m.reserved != 0) return false;
  if (m.base == 0 || m.from < m.base) return false;
  if (m.acceptors == 0 || m.acceptors > kAcceptorsMax) return false;
  if (m.learners == 0 || m.learners > kLearnersMax) return false;
  const std::size_t count = std::size_t{m.acceptors} + m.learners;
  if (bytes.size() != sizeof(WireConfiguration) + count * sizeof(WireMember)) return false;
  const WireMember* member = members(bytes);
  for (std::size_t i = 0; i < count; ++i) {
    const bool empty = member[i].id == 0;
    if (member[i].id >= kNodeIdMax || member[i].reserved != 0) return false;
    if (empty && i < m.acceptors) return false;
    for (std::size_t k = 0; k < i && !empty; ++k) {
      if (member[k].id.get() == member[i].id.get()) return false;
    }
  }
  return true;
}

std::size_t encode(const Configuration& configuration, std::span<std::byte> out) {
  CHECK(out.size() >= kConfigurationBytesMax);
  CHECK(configuration.acceptors.size() <= kAcceptorsMax &&
        configuration.learners.size() <= kLearnersMax);
  WireConfiguration m{};
  m.epoch = configuration.epoch;
  m.acceptors = static_cast<std::uint8_t>(configuration.acceptors.size());
  m.learners = static_cast<std::uint8_t>(configuration.learners.size());
  m.from = raw(configuration.from);
  m.base = raw(configuration.base);
  std::copy(configuration.operations.begin(), configuration.operations.end(), m.operations.begin());
  std::memcpy(out.data(), &m, sizeof m);
  std::size_t at = sizeof m;
  const auto put = [&](const WireMember& member) {
    std::memcpy(out.data() + at, &member, sizeof member);
    at += sizeof member;
  };
  for (const Member& each : configuration.acceptors) {
    put({raw(each.id), each.endpoint.address, each.endpoint.port, std::uint16_t{0},
         each.incarnation, 0ull});
  }
  for (const LearnerMember& each : configuration.learners) {
    put({raw(each.id), each.endpoint.address, each.endpoint.port, std::uint16_t{0},
         each.incarnation, raw(each.partitions)});
  }
  return at;
}

Configuration decode(std::span<const std::byte> bytes, const Configuration& current) {
  const auto& m = *reinterpret_cast<const WireConfiguration*>(bytes.data());
  Configuration next;
  next.epoch = m.epoch;
  next.from = Instance{m.from.get()};
  next.base = Instance{m.base.get()};
  next.group = current.group;
  next.dissemination = current.dissemination;
  std::copy(m.operations.begin(), m.operations.end(), next.operations.begin());
  const WireMember* member = members(bytes);
  for (std::uint32_t i = 0; i < m.acceptors; ++i, ++member) {
    next.acceptors.push_back(
        {NodeId{member->id.get()}, {member->address, member->port}, member->incarnation});
  }
  for (std::uint32_t i = 0; i < m.learners; ++i, ++member) {
    next.learners.push_back({NodeId{member->id.get()},
                             {member->address, member->port},
                             PartitionMask{member->partitions.get()},
                             member->incarnation});
  }
  return next;
}

std::uint64_t fingerprint(const Configuration& configuration, std::uint64_t settings) {
  std::array<std::byte, kConfigurationBytesMax> bytes;
  const std::size_t size = encode(configuration, bytes);
  return dataplane::hash_bytes(std::span(bytes).first(size), settings);
}

ChangeRequest to_wire(const Change& change) {
  ChangeRequest wire{};
  wire.operation = change.operation;
  wire.incarnation = change.comes.incarnation;
  wire.partitions = raw(change.partitions);
  wire.member = raw(change.member);
  wire.address = change.comes.endpoint.address;
  wire.port = change.comes.endpoint.port;
  wire.verb = static_cast<std::uint8_t>(change.verb);
  wire.kind = static_cast<std::uint8_t>(change.kind);
  return wire;
}

Change from_wire(const ChangeRequest& wire) {
  return {wire.operation,
          static_cast<ChangeVerb>(wire.verb),
          static_cast<JoinKind>(wire.kind),
          NodeId{wire.member.get()},
          {kNoNode, {wire.address, wire.port}, wire.incarnation},
          PartitionMask{wire.partitions.get()}};
}

const char* to_string(ChangeVerdict verdict) {
  switch (verdict) {
    case ChangeVerdict::kAllowed:
      return "allowed";
    case ChangeVerdict::kDone:
      return "done";
    case ChangeVerdict::kNoSuchMember:
      return "there is no such member";
    case ChangeVerdict::kAlreadyMember:
      return "a member has that address";
    case ChangeVerdict::kTooMany:
      return "there are as many members as there may be";
    case ChangeVerdict::kTooFew:
      return "the last one cannot go";
    case ChangeVerdict::kBusy:
      return "another change is under way";
    case ChangeVerdict::kLastState:
      return "no other replica has its state yet";
  }
  return "unknown";
}

ChangeVerdict judge(const Configuration& current, const Change& change) {
  const auto& done = current.operations;
  if (std::find(done.begin(), done.end(), change.operation) != done.end()) {
    return ChangeVerdict::kDone;
  }
  const bool acceptor = change.kind == JoinKind::kAcceptor;
  if (change.verb != ChangeVerb::kAdd) {
    const bool member = acceptor ? current.acceptor_index(change.member).has_value()
                                 : current.learner_index(change.member).has_value();
    if (!member) return ChangeVerdict::kNoSuchMember;
  }
  // The only one is not replaced: the new one would have nobody to ask for what was decided.
  const bool only = acceptor && current.acceptors.size() == 1;
  if (change.verb == ChangeVerb::kReplace && only) return ChangeVerdict::kTooFew;
  if (change.verb != ChangeVerb::kRemove) return judge_coming(current, change);
  const auto learners = std::count_if(current.learners.begin(), current.learners.end(),
                                      [](const LearnerMember& each) { return each.id != kNoNode; });
  const bool last = acceptor ? only : learners == 1;
  return last ? ChangeVerdict::kTooFew : ChangeVerdict::kAllowed;
}

Configuration changed(const Configuration& current, const Change& change, Instance instance,
                      Instance base) {
  Configuration next = current;
  ++next.epoch;
  next.from = instance + 1;
  next.base = base;
  std::copy_backward(current.operations.begin(), current.operations.end() - 1,
                     next.operations.end());
  next.operations[0] = change.operation;
  Member comes = change.comes;
  comes.id = NodeId{kFirstAssignedId + next.epoch};
  if (change.kind == JoinKind::kAcceptor) {
    const auto goes = current.acceptor_index(change.member);
    if (change.verb == ChangeVerb::kAdd) next.acceptors.push_back(comes);
    if (change.verb == ChangeVerb::kReplace) next.acceptors[*goes] = comes;
    if (change.verb == ChangeVerb::kRemove) next.acceptors.erase(next.acceptors.begin() + *goes);
    return next;
  }
  const LearnerMember learner{comes.id, comes.endpoint, change.partitions, comes.incarnation};
  const auto goes = current.learner_index(change.member);
  if (change.verb == ChangeVerb::kAdd) add_learner(next, learner);
  if (change.verb == ChangeVerb::kReplace) next.learners[*goes] = learner;
  if (change.verb == ChangeVerb::kRemove) next.learners[*goes] = LearnerMember{kNoNode, {}, {}, 0};
  return next;
}

void ConfigurationBoard::publish(const Configuration& configuration) {
  std::array<std::byte, kWords * 8> bytes{};
  const std::size_t size = encode(configuration, bytes);
  turn_.fetch_add(1, std::memory_order_acq_rel);
  bytes_.store(size, std::memory_order_release);
  for (std::size_t i = 0; i < kWords; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i * 8, 8);
    words_[i].store(word, std::memory_order_release);
  }
  turn_.fetch_add(1, std::memory_order_release);
}

std::vector<std::byte> ConfigurationBoard::read() const {
  while (true) {
    const std::uint64_t turn = turn_.load(std::memory_order_acquire);
    std::vector<std::byte> bytes(kWords * 8);
    const std::uint64_t size = bytes_.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < kWords; ++i) {
      const std::uint64_t word = words_[i].load(std::memory_order_acquire);
      std::memcpy(bytes.data() + i * 8, &word, 8);
    }
    if (turn % 2 != 0 || turn_.load(std::memory_order_acquire) != turn) continue;
    bytes.resize(size);
    return bytes;
  }
}

void ConfigurationNews::on_frame(const Received& in, const Configuration& own, bool teach,
                                 Nanos now, Effects& effects) {
  const std::uint32_t epoch = in.frame.header->config_epoch;
  if (epoch == own.epoch || now < quiet_until_) return;
  if (epoch > own.epoch) {
    quiet_until_ = now + kNewsInterval;
    Outgoing& out = effects.send_now(in.from, MessageType::kPull, sizeof(Pull) + sizeof(PullEntry));
    auto& m = *reinterpret_cast<Pull*>(out.message());
    m = {static_cast<std::uint8_t>(PullKind::kConfiguration), 0, std::uint16_t{1}, 0ull};
    *reinterpret_cast<PullEntry*>(&m + 1) = {0ull, 0ull};
  } else if (teach) {
    quiet_until_ = now + kNewsInterval;
    tell(in.from, own, effects);
  }
}

void ConfigurationNews::tell(const Endpoint& to, const Configuration& configuration,
                             Effects& effects) {
  std::array<std::byte, kConfigurationBytesMax> bytes;
  const std::size_t size = encode(configuration, bytes);
  Outgoing& out = effects.send_now(to, MessageType::kConfiguration, size);
  std::memcpy(out.message(), bytes.data(), size);
}

}  // namespace annulus::consensus
