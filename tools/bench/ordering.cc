// The ordering path alone: values are decided and delivered to two learners, nothing is executed.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "consensus/node.h"
#include "consensus/proposer.h"
#include "dataplane/core_loop.h"
#include "dataplane/core_map.h"
#include "dataplane/hash.h"
#include "dataplane/local/local_transport.h"
#include "tools/bench/experiment.h"

namespace annulus::bench {
namespace {

using namespace consensus;  // NOLINT: this file is about nothing else
using dataplane::BufferPool;
using dataplane::Counter;
using dataplane::SpscRing;

struct OrderingOptions {
  std::uint32_t value_bytes = 8'192;
  std::uint32_t window = 64;  // values outstanding
  double seconds = 5;
  double warmup = 1;
  std::uint32_t mtu = 9'000;
};

constexpr std::uint64_t kCluster = 1;
constexpr std::uint64_t kEpoch = 1;
constexpr Endpoint kGroup{0xef000001, 4'000};
constexpr std::uint32_t kAcceptors = 3;
constexpr std::uint32_t kLearners = 2;
constexpr std::uint32_t kProposerIndex = kAcceptors + kLearners;

Endpoint endpoint(std::uint32_t i) { return {0x0a000001 + i, 4'000}; }

Configuration configuration() {
  Configuration configuration;
  configuration.group = kGroup;
  for (std::uint32_t i = 0; i < kAcceptors; ++i) {
    configuration.acceptors.push_back({NodeId{i + 1}, endpoint(i)});
  }
  for (std::uint32_t i = kAcceptors; i < kProposerIndex; ++i) {
    configuration.learners.push_back({NodeId{i + 1}, endpoint(i), kAllPartitions});
  }
  return configuration;
}

/// Keeps `window` values outstanding; a reply frame of the learner in turn ends each.
class Source final : public dataplane::Stage {
 public:
  Source(const OrderingOptions& options, const Configuration& ring, dataplane::Transport& transport)
      : options_(options),
        pool_(4 * options.window + 4'096, options.value_bytes),
        port_(transport, PortIdentity{kCluster, 0, kNoNode, kEpoch}, ring, options.value_bytes),
        proposer_({.epoch = kEpoch,
                   .window = options.window,
                   .frame_bytes_max = transport.frame_bytes_max()},
                  ring) {}

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override {
    std::uint32_t work = 0;
    while (work < budget) {
      const std::span<Received> burst = port_.receive(now);
      if (burst.empty()) break;
      for (const Received& in : burst) handle(in, now);
      Port::release(burst);
      work += static_cast<std::uint32_t>(burst.size());
    }
    while (proposer_.can_propose() && effects_.room() >= Effects::kPerStepMax) {
      Slice bytes = pool_.allocate();
      if (!bytes) break;
      const std::uint64_t sequence = proposer_.next_sequence();
      bytes.truncate(options_.value_bytes);
      std::memcpy(bytes.mutable_data(), &sequence, sizeof sequence);
      const Value value{{kNoNode, kEpoch, sequence},
                        dataplane::hash_bytes(bytes.bytes()),
                        kAllPartitions,
                        options_.value_bytes};
      proposer_.propose(value, std::move(bytes), static_cast<std::uint16_t>(sequence % kLearners),
                        now, effects_);
    }
    const Nanos deadline = proposer_.poll(now, effects_);
    port_.send(now, effects_);
    return {work, deadline};
  }
  const char* name() const override { return "proposer"; }

  /// Values that a learner answered for.
  std::uint64_t replied() const { return replied_.get(); }

 private:
  void handle(const Received& in, Nanos now) {
    if (in.type == MessageType::kReply) {
      const Reply& reply = message<Reply>(in.frame);
      const std::uint64_t sequence = reply.value.sequence;
      proposer_.on_reply(sequence, reply.replica, now);
      if (!proposer_.outstanding(sequence)) return;
      proposer_.on_replied(sequence, now);
      replied_.add();
    } else if (in.type == MessageType::kSubmitAck) {
      if (effects_.room() < Effects::kPerStepMax) port_.send(now, effects_);
      proposer_.on_submit_ack(NodeId{in.frame.header->sender.get()}, message<SubmitAck>(in.frame),
                              now, effects_);
    }
  }

  const OrderingOptions options_;
  BufferPool pool_;
  Port port_;
  Proposer proposer_;
  Effects effects_;
  Counter replied_;
};

/// Where a worker would be: notes the order of what is delivered and answers for the learner.
class Sink final : public dataplane::Stage {
 public:
  Sink(std::uint32_t learner, std::uint32_t window, SpscRing<Delivery>& deliveries,
       SpscRing<ReplyFrame>& replies)
      : learner_(learner),
        recent_(std::bit_ceil(window)),
        deliveries_(deliveries),
        replies_(replies) {}

  dataplane::PollResult poll(Nanos, std::uint32_t budget) override {
    std::uint32_t work = 0;
    Delivery delivery;
    for (; work < budget && replies_.room() > 0 && deliveries_.pop(delivery); ++work) {
      const std::uint64_t sequence = delivery.value.id.sequence;
      if (delivery.kind == DeliveryKind::kQuery) {
        if (delivered(sequence)) answer(delivery);
        continue;
      }
      note(delivery);
      if (sequence % kLearners == learner_) answer(delivery);
    }
    return {work, kNever};
  }
  const char* name() const override { return "sink"; }

  // Once the loops have stopped.
  std::uint64_t again() const { return again_; }
  bool as_proposed() const { return as_proposed_; }
  /// Hashes of all that was delivered until then, one every `kMark` values.
  const std::vector<std::uint64_t>& marks() const { return marks_; }

 private:
  static constexpr std::uint64_t kMark = 64;

  /// The proposer has no more than a window outstanding, so no older value is asked about.
  bool delivered(std::uint64_t sequence) const {
    return recent_[sequence & (recent_.size() - 1)] >= sequence;
  }
  void note(const Delivery& delivery) {
    const std::uint64_t sequence = delivery.value.id.sequence;
    const std::uint64_t link[] = {order_, raw(delivery.instance), sequence,
                                  delivery.value.content_hash, delivery.bytes.size()};
    order_ = dataplane::hash_bytes(std::as_bytes(std::span(link)));
    if (++values_ % kMark == 0) marks_.push_back(order_);
    if (delivery.value.id.proposer != kNoNode || delivery.value.noop()) return;  // a coordinator's
    if (delivered(sequence)) {
      ++again_;
      return;
    }
    as_proposed_ = as_proposed_ && sequence == ++last_;
    recent_[sequence & (recent_.size() - 1)] = sequence;
  }
  void answer(const Delivery& delivery) {
    Slice entry = pool_.allocate();
    if (!entry) return;  // the proposer will ask again
    entry.truncate(8);
    std::memset(entry.mutable_data(), 0, 8);
    const std::uint32_t bytes = entry.size();
    replies_.push({endpoint(kProposerIndex),
                   Reply{.value = to_wire(delivery.value.id),
                         .content_hash = std::uint64_t{0},
                         .replica = static_cast<std::uint16_t>(learner_),
                         .stream = std::uint16_t{0},
                         .bytes = bytes,
                         .fragment = to_wire(cut(bytes, bytes, 0))},
                   std::move(entry)});
  }

  const std::uint32_t learner_;
  BufferPool pool_{4'096, 64};
  std::vector<std::uint64_t> recent_;  // the newest value of its place
  SpscRing<Delivery>& deliveries_;
  SpscRing<ReplyFrame>& replies_;
  std::uint64_t values_ = 0;
  std::uint64_t last_ = 0;
  std::uint64_t again_ = 0;
  std::uint64_t order_ = 0;
  std::vector<std::uint64_t> marks_;
  bool as_proposed_ = true;
};

struct OrderingRing {
  explicit OrderingRing(const OrderingOptions& options)
      : ring(configuration()), fabric(endpoints(), {.mtu = options.mtu, .link_depth = 1'024}) {
    for (std::uint32_t i = 0; i < kProposerIndex; ++i) {
      CHECK(fabric.transport(i).join(kGroup).ok());
    }
    const std::uint32_t fragment = fragment_bytes(fabric.transport(0).frame_bytes_max());
    for (std::uint32_t i = 0; i < kAcceptors; ++i) {
      AcceptorNodeOptions node;
      node.identity = {kCluster, 0, NodeId{i + 1}, 1};
      node.acceptor.fragment_bytes = node.coordinator.fragment_bytes = fragment;
      node.coordinator.submit.window = std::bit_ceil(options.window);
      node.coordinate = i == 0;
      acceptors.push_back(std::make_unique<AcceptorNode>(node, ring, fabric.transport(i)));
    }
    for (std::uint32_t i = 0; i < kLearners; ++i) {
      deliveries.push_back(std::make_unique<SpscRing<Delivery>>(1'024));
      replies.push_back(std::make_unique<SpscRing<ReplyFrame>>(1'024));
      proposals.push_back(std::make_unique<SpscRing<Proposal>>(2));
      LearnerNodeOptions node;
      node.identity = {kCluster, 0, NodeId{kAcceptors + i + 1}, 1};
      learners.push_back(std::make_unique<LearnerNode>(
          node, ring, fabric.transport(kAcceptors + i),
          LearnerNode::Rings{*deliveries[i], *replies[i], *proposals[i]}));
      sinks.push_back(std::make_unique<Sink>(i, options.window, *deliveries[i], *replies[i]));
    }
    source = std::make_unique<Source>(options, ring, fabric.transport(kProposerIndex));
  }
  ~OrderingRing() { fabric.clear(); }

  static std::vector<Endpoint> endpoints() {
    std::vector<Endpoint> all;
    for (std::uint32_t i = 0; i <= kProposerIndex; ++i) all.push_back(endpoint(i));
    return all;
  }

  Configuration ring;
  dataplane::LocalSwitch fabric;
  // Owners of what travels: they go after the nodes that still refer to it.
  std::unique_ptr<Source> source;
  std::vector<std::unique_ptr<Sink>> sinks;
  std::vector<std::unique_ptr<AcceptorNode>> acceptors;
  std::vector<std::unique_ptr<SpscRing<Delivery>>> deliveries;
  std::vector<std::unique_ptr<SpscRing<ReplyFrame>>> replies;
  std::vector<std::unique_ptr<SpscRing<Proposal>>> proposals;
  std::vector<std::unique_ptr<LearnerNode>> learners;
};

/// As far as both have come: one may have stopped a little earlier.
bool same_order(const Sink& one, const Sink& other) {
  const std::size_t both = std::min(one.marks().size(), other.marks().size());
  return std::equal(one.marks().begin(), one.marks().begin() + both, other.marks().begin());
}

void pause_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

/// Which stages share a core. Cores that hand frames to each other pay for the lines of memory that
/// move with them: two are not always faster than one.
enum class Cores : std::uint8_t { kOne, kLearnersApart, kHalves };

struct Placement {
  Cores cores;
  const char* label;
  const char* text;
};
constexpr Placement kPlacements[] = {
    {Cores::kOne, "one core", "all"},
    {Cores::kLearnersApart, "learners apart", "proposer, acceptors | learners"},
    {Cores::kHalves, "halves", "proposer, coordinator, learner | acceptors, learner"}};

std::array<std::vector<dataplane::Stage*>, 2> place(OrderingRing& ring, Cores cores) {
  std::array<std::vector<dataplane::Stage*>, 2> loops;
  loops[0].push_back(ring.source.get());
  for (std::uint32_t i = 0; i < kAcceptors; ++i) {
    loops[cores == Cores::kHalves && i > 0].push_back(ring.acceptors[i].get());
  }
  for (std::uint32_t i = 0; i < kLearners; ++i) {
    auto& loop = loops[cores == Cores::kLearnersApart || (cores == Cores::kHalves && i > 0)];
    loop.push_back(ring.learners[i].get());
    loop.push_back(ring.sinks[i].get());
  }
  return loops;
}

/// Three acceptors and two learners over `local`. Every value has its own content, hashed by the
/// proposer, and by every receiver when it opens the frame.
Result run_ordering(const OrderingOptions& options, const Placement& placement) {
  OrderingRing ring(options);
  const std::vector<std::uint32_t> cpus = dataplane::this_host().cpus;
  dataplane::TscClock clock;
  std::vector<std::unique_ptr<dataplane::CoreLoop>> loops;
  for (auto& stages : place(ring, placement.cores)) {
    if (!stages.empty()) {
      loops.push_back(
          std::make_unique<dataplane::CoreLoop>(stages, dataplane::LoopOptions{}, clock));
    }
  }
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < loops.size(); ++i) {
    threads.emplace_back([&, i] { (void)dataplane::pin_this_thread(cpus[i]), loops[i]->run(); });
  }
  pause_for(options.warmup);
  const Nanos start = clock.now();
  const std::uint64_t values_before = ring.source->replied();
  const auto ordered_before = ring.acceptors[0]->coordinator().ordered_ns().snapshot();
  pause_for(options.seconds);
  // The machine itself may have stood still for all of a short measurement.
  for (int i = 0; i < 1'000 && ring.source->replied() == values_before; ++i) pause_for(0.01);
  const double seconds = static_cast<double>(clock.now() - start) / 1e9;
  const auto values = static_cast<double>(ring.source->replied() - values_before);
  const auto ordered = ring.acceptors[0]->coordinator().ordered_ns().snapshot();
  for (auto& loop : loops) loop->stop();
  for (std::thread& thread : threads) thread.join();

  Result result;
  result.experiment = "ordering";
  result.label = std::to_string(options.value_bytes) + " B " + placement.label;
  result.unit = "values/s";
  result.config = {{"transport", "local"},
                   {"mtu", std::to_string(options.mtu)},
                   {"durability", "memory"},
                   {"acceptors", "3"},
                   {"learners", "2"},
                   {"value_bytes", std::to_string(options.value_bytes)},
                   {"window", std::to_string(options.window)},
                   {"cores", std::to_string(loops.size())},
                   {"placement", placement.text}};
  result.per_second = values / seconds;
  result.latency = latency_figures(ordered.since(ordered_before));
  const double rate = values * options.value_bytes / seconds;
  result.extra["bytes_per_second"] = rate;
  result.extra["same_order"] = same_order(*ring.sinks[0], *ring.sinks[1]);
  result.extra["as_proposed"] = ring.sinks[0]->as_proposed() && ring.sinks[1]->as_proposed();
  result.extra["ordered_again"] = static_cast<double>(ring.sinks[0]->again());
  std::uint64_t round = 0;
  for (auto& acceptor : ring.acceptors) {
    round = std::max<std::uint64_t>(round, round_of(acceptor->acceptor().promised()));
  }
  result.extra["round"] = static_cast<double>(round);
  if (options.value_bytes == 8'192) {
    result.targets.push_back(
        {"at least 3 GB/s decided, both learners hashing", "4.6 us a value: 3.6", rate >= 3e9});
  }
  return result;
}

}  // namespace

Experiment ordering_experiment() {
  const auto options = std::make_shared<OrderingOptions>();
  return {
      "ordering",
      "8 KiB values decided and delivered to two learners, nothing executed, on one core and on "
      "two",
      "18 s",
      [options](CLI::App& app) {
        app.add_option("--value-bytes", options->value_bytes, "bytes a value")
            ->check(CLI::Range(8, 65'536))
            ->capture_default_str();
        app.add_option("--window", options->window, "values outstanding")
            ->check(CLI::Range(1, 65'536))
            ->capture_default_str();
        app.add_option("--mtu", options->mtu, "of the in-process network")->capture_default_str();
        app.add_option("--seconds", options->seconds, "measured")->capture_default_str();
        app.add_option("--warmup", options->warmup, "seconds before")->capture_default_str();
      },
      [options](Report& report) -> Status {
        for (const Placement& placement : kPlacements) {
          if (placement.cores != Cores::kOne && dataplane::this_host().cpus.size() < 2) continue;
          const Result result = run_ordering(*options, placement);
          if (Status added = report.add(result); !added) return added;
          if (result.per_second == 0) return Error{"no value was decided: this is a bug"};
          if (result.extra.at("same_order") == 0) {
            return Error{
                "the learners delivered different values, or in another order: this is a bug"};
          }
          // A new coordinator, elected when the machine stood still for long, promises less.
          if (result.extra.at("as_proposed") == 0 && result.extra.at("round") == 1) {
            return Error{"values were delivered in another order than proposed: this is a bug"};
          }
        }
        return {};
      }};
}

}  // namespace annulus::bench
