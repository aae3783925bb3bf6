// What a replica's network stage does for the state behind it: hands on what is learned, to the
// worker or to the log of a replica that fetches its state, and carries the messages of both sides
// of state transfer.
#include <algorithm>

#include "consensus/node.h"

namespace annulus::consensus {
namespace {

/// Values that are copied out of the log of a replica that fetches its state before the worker has
/// executed them: few, so that the copies lie in the cache and touch little memory.
constexpr std::uint32_t kReplayedAhead = 256;

}  // namespace

std::unique_ptr<LearnerNode::Transfer> LearnerNode::make_transfer() {
  if (rings_.state == nullptr || options_.client_server) return nullptr;
  return std::unique_ptr<Transfer>(new Transfer{
      {options_.source, *rings_.state},
      {configuration_, self_, options_.receiver, learner_, *rings_.state},
  });
}

/// When to be called again.
Nanos LearnerNode::tick_transfer(Nanos now, bool heard) {
  if (transfer_ == nullptr) return kNever;
  transfer_->receiver.tick(now, effects_, heard);
  if (transfer_->receiver.needs_memory()) transfer_->source.give_up();
  transfer_->source.tick(now, effects_);
  // What has just been asked of the receiver concerns the learner, too.
  return std::min(
      {learner_.deadline(), transfer_->receiver.deadline(), transfer_->source.deadline()});
}

/// False if it is none, or from nobody that the configuration lists.
bool LearnerNode::on_state_message(const Received& in, Nanos now) {
  if (transfer_ == nullptr ||
      !configuration_.learner_index(NodeId{in.frame.header->sender.get()})) {
    return false;
  }
  if (effects_.room() < Effects::kPerStepMax) port_.send(now, effects_);
  switch (in.type) {
    case MessageType::kStateAsk:
      transfer_->source.on_ask(in, current(), learner_.delivered_below() - 1, now, effects_);
      return true;
    case MessageType::kStatePull:
      transfer_->source.on_pull(in, now, effects_);
      return true;
    case MessageType::kStateManifest:
      transfer_->receiver.on_manifest(in, now);
      return true;
    case MessageType::kStateChunk:
      transfer_->receiver.on_chunk(in, now);
      return true;
    default:
      return false;
  }
}

std::uint32_t LearnerNode::deliver(Nanos now) {
  if (options_.client_server) return deliver_directly(rings_.deliveries.room());
  std::uint32_t delivered = transfer_ != nullptr ? ask_worker(now) : 0;
  if (!current()) return delivered + keep_learned();
  if (!learner_.next_chosen()) return delivered;
  Delivery delivery;
  for (; rings_.deliveries.room() > 0; ++delivered) {
    if (!next_learned(delivery)) return delivered;
    CHECK(rings_.deliveries.push(std::move(delivery)));
  }
  learner_.count_back_pressure();
  return delivered;
}

/// The next value for the worker. Changes of members are passed over: one that came to this place
/// with the state of another replica cannot tell whether another change has overtaken it. Whoever
/// acts under new members tells of them.
bool LearnerNode::next_learned(Delivery& delivery) {
  while (learner_.next(delivery)) {
    if (!delivery.value.membership()) return true;
  }
  return false;
}

std::uint32_t LearnerNode::deliver_directly(std::uint32_t room) {
  for (std::uint32_t delivered = 0; delivered < room; ++delivered) {
    const SubmitStreams::Ready* ready = direct_.front();
    if (ready == nullptr) return delivered;
    CHECK(rings_.deliveries.push(
        {DeliveryKind::kDirect, direct_next_, ready->value, ready->bytes, ready->received}));
    ++direct_next_;
    direct_.pop();
  }
  learner_.count_back_pressure();
  return room;
}

/// What the worker is to do about its state, each in its place among the values.
std::uint32_t LearnerNode::ask_worker(Nanos now) {
  StateSource& source = transfer_->source;
  StateReceiver& receiver = transfer_->receiver;
  std::uint32_t asked = 0;
  if (source.wants_copy() && receiver.current() && rings_.deliveries.room() > 0) {
    const Instance position = learner_.delivered_below() - 1;
    source.copy_begun(position, now);
    CHECK(rings_.deliveries.push({DeliveryKind::kCopyState, position}));
    ++asked;
  }
  if (receiver.wants_install() && rings_.deliveries.room() > 0) {
    receiver.install_begun();
    CHECK(rings_.deliveries.push({DeliveryKind::kInstallState, receiver.image_instance()}));
    ++asked;
  }
  Delivery delivery;
  while (rings_.deliveries.room() > 0 && rings_.deliveries.size() < kReplayedAhead &&
         receiver.next(delivery, pool_)) {
    CHECK(rings_.deliveries.push(std::move(delivery)));
    ++asked;
  }
  return asked;
}

/// Values that may not be executed yet wait in the receiver's log.
std::uint32_t LearnerNode::keep_learned() {
  std::uint32_t kept = 0;
  Delivery delivery;
  while (learner_.next_chosen() && transfer_->receiver.room() && next_learned(delivery)) {
    transfer_->receiver.keep(delivery);
    ++kept;
  }
  return kept;
}

void LearnerNode::add_transfer_counters(dataplane::Registry& registry, const std::string& node) {
  if (transfer_ == nullptr) return;
  registry.add(node, "state_source", transfer_->source.counters());
  registry.add(node, "state_receiver", transfer_->receiver.counters());
  registry.add(node, "state_copy_ns", transfer_->source.pause_ns());
  registry.add(node, "state_absent_ns", transfer_->receiver.absent_ns());
}

std::string LearnerNode::transfer_memory_plan(const LearnerNodeOptions& options) {
  if (options.client_server) return "";
  const auto line = [](std::uint64_t bytes, const char* what) {
    return "  " + std::string(what) + ": " + std::to_string(bytes / 1024) + " KiB\n";
  };
  return line(options.receiver.log_bytes,
              "values that wait for a state being fetched (touched only then, and given back)") +
         line(StateSource::memory_bytes(options.source),
              "pieces of a state on their way to another replica (touched only then)");
}

}  // namespace annulus::consensus
