// A proposer without a network: what it sends is looked at, who answers is the test.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "consensus/proposer.h"
#include "dataplane/hash.h"

namespace annulus::support {

using namespace annulus::consensus;

constexpr Nanos kFirst = 20 * kMillisecond;  // its first patience

struct Sent {
  MessageType type;
  Endpoint to;
  std::uint64_t sequence;
  std::uint64_t oldest;
  std::uint16_t fragment;
  bool operator==(const Sent&) const = default;
};

class ProposerTest : public ::testing::Test {
 protected:
  ProposerTest() : pool_(256, 65'536) {
    for (std::uint32_t i = 0; i < 3; ++i) {
      configuration_.acceptors.push_back({NodeId{10 + i}, acceptor(i)});
    }
    for (std::uint32_t i = 0; i < 2; ++i) {
      configuration_.learners.push_back({NodeId{20 + i}, learner(i), kAllPartitions});
    }
    options_.node = NodeId{7};
    options_.epoch = 99;
    options_.window = 8;
    options_.credit_first = 4;
    options_.frame_bytes_max = 1'252;
    options_.retransmit_after = kFirst;
  }

  static Endpoint acceptor(std::uint32_t i) { return {1, static_cast<std::uint16_t>(100 + i)}; }
  static Endpoint learner(std::uint32_t i) { return {1, static_cast<std::uint16_t>(200 + i)}; }

  void start() { proposer_ = std::make_unique<Proposer>(options_, configuration_); }
  Proposer& proposer() { return *proposer_; }

  void propose(Nanos now, std::uint32_t bytes = 64, std::uint16_t replier = 0) {
    Slice slice = pool_.allocate();
    slice.truncate(bytes);
    const Value value{{NodeId{7}, 99, proposer().next_sequence()},
                      dataplane::hash_bytes(slice.bytes()),
                      kAllPartitions,
                      bytes};
    proposer().propose(value, slice, replier, now, effects_);
  }
  void ack(std::uint32_t from, std::uint64_t received_below, std::uint64_t limit, Nanos now) {
    told(from, 1, from, received_below, limit, now);
  }
  /// `from` says that `coordinator` coordinates, in `round`.
  void told(std::uint32_t from, std::uint64_t round, std::uint32_t coordinator,
            std::uint64_t received_below, std::uint64_t limit, Nanos now,
            std::uint64_t epoch = 99) {
    proposer().on_submit_ack(
        NodeId{10 + from},
        {epoch, received_below, limit, raw(make_ballot(round, NodeId{10 + coordinator}))}, now,
        effects_);
  }
  void replied(std::uint64_t sequence, Nanos now, std::uint16_t replica = 0) {
    proposer().on_reply(sequence, replica, now);
    proposer().on_replied(sequence, now);
  }
  /// Without what went to acceptors that are not taken for the coordinator: see probes_.
  std::vector<Sent> sent() {
    std::vector<Sent> all;
    for (Outgoing& out : effects_.frames()) {
      if (out.type == MessageType::kSubmit) {
        const auto& m = *reinterpret_cast<const Submit*>(out.message());
        const Sent submit{out.type, out.to, m.value.id.sequence, m.oldest, m.fragment.index};
        const bool probe = out.to != acceptor(raw(proposer().target()) - 10);
        (probe && !options_.client_server ? probes_ : all).push_back(submit);
      } else {
        const auto& m = *reinterpret_cast<const Query*>(out.message());
        all.push_back({out.type, out.to, m.value.id.sequence, 0, m.fragment.index});
      }
    }
    effects_.clear();
    return all;
  }
  static Sent submit(std::uint32_t to, std::uint64_t sequence, std::uint64_t oldest) {
    return {MessageType::kSubmit, acceptor(to), sequence, oldest, 0};
  }
  static Sent query(std::uint32_t to, std::uint64_t sequence) {
    return {MessageType::kQuery, learner(to), sequence, 0, 0};
  }
  std::uint64_t count(ProposerCounter which) { return proposer().counters()[which].get(); }

  dataplane::BufferPool pool_;
  Configuration configuration_;
  ProposerOptions options_;
  std::unique_ptr<Proposer> proposer_;
  Effects effects_;
  std::vector<Sent> probes_;
};

}  // namespace annulus::support
