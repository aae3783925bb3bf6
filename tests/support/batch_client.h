// A client that decides what a proxy decides for others: which commands of which sessions a batch
// holds, first or again, and which replica is to answer. The real proposer and port are under it.
// The calling thread does its work.
#pragma once

#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "consensus/membership.h"
#include "consensus/port.h"
#include "consensus/proposer.h"
#include "dataplane/hash.h"
#include "statemachine/batch.h"
#include "statemachine/client.h"

namespace annulus::support {

struct BatchCommand {
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  std::uint8_t service = statemachine::kSystemService;
  std::uint8_t flags = 0;
  std::string body;
};

struct BatchAnswer {
  statemachine::CommandStatus status = statemachine::CommandStatus::kOutcomeUnknown;
  std::uint16_t replica = statemachine::kNoReplica;  // which one gave it
  std::string bytes;
};

class BatchClient {
 public:
  /// Of `options`, cluster, ring, value_bytes_max and batch_commands count. Under a random epoch,
  /// as any proposer: what it sends are values of its own.
  BatchClient(const statemachine::ClientOptions& options,
              const consensus::Configuration& configuration, dataplane::Transport& transport)
      : epoch_(random()),
        batch_commands_(options.batch_commands),
        configuration_(configuration),
        transport_(transport),
        pool_(kBatches, kBatchBytes),
        port_(transport, {options.cluster, options.ring, consensus::kNoNode, epoch_},
              configuration_, options.value_bytes_max),
        proposer_(
            {.epoch = epoch_, .window = kWindow, .frame_bytes_max = transport.frame_bytes_max()},
            configuration_) {}

  /// Has all of `commands` ordered, and returns their answers in the same order; those that did not
  /// come within `patience` are kOutcomeUnknown. `replier`: the index of the replica that is to
  /// answer. Another one may all the same, should that one be late.
  std::vector<BatchAnswer> run(std::span<const BatchCommand> commands, std::uint16_t replier,
                               Nanos patience = 60 * kSecond) {
    commands_ = commands;
    answers_.assign(commands.size(), {});
    next_ = 0;
    left_ = commands.size();
    for (const Nanos until = clock_.now() + patience; left_ != 0 && clock_.now() < until;) {
      // The cluster's own threads share these cores.
      if (!turn(replier, clock_.now())) std::this_thread::yield();
    }
    return std::move(answers_);
  }

  const consensus::Proposer& proposer() const { return proposer_; }

 private:
  static constexpr std::uint32_t kWindow = 64;
  static constexpr std::uint32_t kBatchBytes = 4'096;
  // In-process, the acceptors refer to as many as they retain.
  static constexpr std::uint32_t kBatches = 16'384;
  struct Batch {
    std::size_t first = 0;  // of commands_
    std::uint32_t count = 0;
    std::uint32_t left = 0;
  };

  static std::uint64_t random() {
    std::uint64_t bits = 0;
    CHECK(getrandom(&bits, sizeof bits, 0) == sizeof bits);
    return bits | 1;
  }

  /// False when there was nothing to do.
  bool turn(std::uint16_t replier, Nanos now) {
    const std::size_t before = next_;
    const std::span<consensus::Received> burst = port_.receive(now);
    for (const consensus::Received& in : burst) take(in, now);
    consensus::Port::release(burst);
    if (burst.size() < consensus::Port::kBurst) proposer_.poll(now, effects_);
    while (next_ < commands_.size() && proposer_.can_propose()) {
      dataplane::Slice bytes = pool_.allocate();
      if (!bytes) break;
      make_room(now);
      propose(std::move(bytes), replier, now);
    }
    port_.send(now, effects_);
    return !burst.empty() || next_ != before;
  }

  void take(const consensus::Received& in, Nanos now) {
    make_room(now);
    news_.on_frame(in, configuration_, false, now, effects_);
    if (in.type == consensus::MessageType::kReply) {
      on_reply(consensus::message<consensus::Reply>(in.frame), in.frame.payload.bytes(), now);
    } else if (in.type == consensus::MessageType::kSubmitAck) {
      proposer_.on_submit_ack(consensus::NodeId{in.frame.header->sender.get()},
                              consensus::message<consensus::SubmitAck>(in.frame), now, effects_);
    } else if (in.type == consensus::MessageType::kConfiguration) {
      consensus::Configuration next = consensus::decode(in.frame.message, configuration_);
      if (next.epoch <= configuration_.epoch) return;
      std::swap(configuration_, next);
      proposer_.on_configuration(next, now);
    }
  }

  void propose(dataplane::Slice bytes, std::uint16_t replier, Nanos now) {
    const std::uint64_t sequence = proposer_.next_sequence();
    Batch& batch = batches_[sequence % kWindow];
    batch.first = next_;
    std::uint32_t used = sizeof(statemachine::BatchHeader);
    for (; next_ < commands_.size() && next_ - batch.first < batch_commands_; ++next_) {
      const BatchCommand& command = commands_[next_];
      const auto body_bytes = static_cast<std::uint32_t>(command.body.size());
      const std::uint32_t whole = statemachine::command_bytes(body_bytes);
      CHECK(sizeof(statemachine::BatchHeader) + whole <= kBatchBytes);
      if (used + whole > kBatchBytes) break;
      std::byte* place = bytes.mutable_data() + used;
      std::memset(place, 0, whole);
      const statemachine::CommandHeader header{.session = command.session,
                                               .sequence = command.sequence,
                                               .bytes = body_bytes,
                                               .acked_distance = 0,
                                               .service = command.service,
                                               .flags = command.flags};
      std::memcpy(place, &header, sizeof header);
      std::memcpy(place + sizeof header, command.body.data(), body_bytes);
      used += whole;
    }
    batch.count = batch.left = static_cast<std::uint32_t>(next_ - batch.first);
    const dataplane::Endpoint me = transport_.endpoint();
    const statemachine::BatchHeader header{.version = statemachine::kBatchVersion,
                                           .count = static_cast<std::uint16_t>(batch.count),
                                           .proposer = raw(consensus::kNoNode),
                                           .epoch = epoch_,
                                           .sequence = sequence,
                                           .mask = raw(consensus::kAllPartitions),
                                           .reply_address = me.address,
                                           .reply_port = me.port,
                                           .replier = replier};
    std::memcpy(bytes.mutable_data(), &header, sizeof header);
    bytes.truncate(used);
    const consensus::Value value{{consensus::kNoNode, epoch_, sequence},
                                 dataplane::hash_bytes(bytes.bytes()),
                                 consensus::kAllPartitions,
                                 used};
    proposer_.propose(value, std::move(bytes), replier, now, effects_);
  }

  void on_reply(const consensus::Reply& message, std::span<const std::byte> stream, Nanos now) {
    const std::uint64_t sequence = message.value.sequence;
    if (message.value.epoch != epoch_ || !proposer_.outstanding(sequence)) return;
    CHECK(message.fragment.count == 1);  // batches are too short for more
    proposer_.on_reply(sequence, message.replica, now);
    Batch& batch = batches_[sequence % kWindow];
    while (stream.size() >= sizeof(statemachine::ReplyEntry)) {
      const auto& entry = *reinterpret_cast<const statemachine::ReplyEntry*>(stream.data());
      stream = stream.subspan(sizeof entry);
      CHECK(entry.command < batch.count && entry.bytes <= stream.size());
      BatchAnswer& answer = answers_[batch.first + entry.command];
      if (answer.replica == statemachine::kNoReplica) {
        answer = {static_cast<statemachine::CommandStatus>(entry.status),
                  message.replica,
                  {reinterpret_cast<const char*>(stream.data()), entry.bytes}};
        --batch.left;
        --left_;
      }
      stream =
          stream.subspan(std::min<std::size_t>(statemachine::padded(entry.bytes), stream.size()));
    }
    if (batch.left == 0) proposer_.on_replied(sequence, now);
  }

  void make_room(Nanos now) {
    if (effects_.room() < consensus::Effects::kPerStepMax) port_.send(now, effects_);
  }

  const std::uint64_t epoch_;
  const std::uint32_t batch_commands_;
  dataplane::TscClock clock_;
  consensus::Configuration configuration_;
  consensus::ConfigurationNews news_;
  dataplane::Transport& transport_;
  dataplane::BufferPool pool_;
  consensus::Port port_;
  consensus::Proposer proposer_;
  consensus::Effects effects_;
  std::array<Batch, kWindow> batches_;
  std::span<const BatchCommand> commands_;
  std::vector<BatchAnswer> answers_;
  std::size_t next_ = 0;
  std::size_t left_ = 0;
};

}  // namespace annulus::support
