#include "tests/sim/raw_client.h"

#include <algorithm>
#include <cstring>

#include "dataplane/hash.h"

namespace annulus::sim {

using consensus::MessageType;
using consensus::Received;
using consensus::Value;

namespace {

constexpr Nanos kResendAfter = 8 * kMillisecond;
constexpr Nanos kSilence = 30 * kMillisecond;

}  // namespace

RawClient::RawClient(const RawClientOptions& options, const consensus::Configuration& configuration,
                     dataplane::Transport& transport, Rng rng)
    : options_(options),
      configuration_(configuration),
      rng_(rng),
      pool_(options.window + 1, options.value_bytes_max),
      port_(transport, options.identity, configuration_, options.value_bytes_max),
      fragment_bytes_(consensus::fragment_bytes(transport.frame_bytes_max())) {}

void RawClient::on_delivered(std::uint64_t sequence) {
  for (Outstanding& value : outstanding_) {
    if (value.value.id.sequence == sequence) value.delivered = true;
  }
  while (!outstanding_.empty() && outstanding_.front().delivered) outstanding_.pop_front();
}

bool RawClient::submit_next(Nanos now) {
  const bool credit = next_ < limit_ || outstanding_.empty();
  if (!credit || outstanding_.size() >= options_.window) return false;
  dataplane::Slice bytes = pool_.allocate();
  if (!bytes) return false;
  const std::uint64_t fragments_max = std::clamp<std::uint64_t>(
      options_.value_bytes_max / fragment_bytes_, 1, consensus::kFragmentsMax);
  const std::uint64_t longest =
      rng_.chance(options_.large_ppm)
          ? std::min<std::uint64_t>(fragments_max * fragment_bytes_, options_.value_bytes_max)
          : 600;
  const std::uint32_t size =
      static_cast<std::uint32_t>(rng_.between(8, static_cast<std::int64_t>(longest)));
  bytes.truncate(size);
  for (std::uint32_t i = 0; i + 8 <= size; i += 8) {
    const std::uint64_t word = rng_.next() | 2;  // never the version of a batch
    std::memcpy(bytes.mutable_data() + i, &word, 8);
  }
  for (std::uint32_t i = size & ~7u; i < size; ++i) bytes.mutable_data()[i] = std::byte{0xa5};
  const Value value{{options_.identity.node, options_.identity.epoch, next_},
                    dataplane::hash_bytes(bytes.bytes()),
                    options_.masks[rng_.below(options_.masks.size())],
                    size};
  ++next_;
  outstanding_.push_back({value, std::move(bytes), 0, false});
  send(outstanding_.back(), now);
  return true;
}

void RawClient::send(Outstanding& value, Nanos now) {
  const std::uint32_t bytes = value.value.bytes;
  const std::uint32_t count = consensus::cut(bytes, fragment_bytes_, 0).count;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (effects_.room() == 0) port_.send(now, effects_);
    const consensus::Fragment fragment = consensus::cut(bytes, fragment_bytes_, i);
    const consensus::Submit submit{consensus::to_wire(value.value), consensus::to_wire(fragment),
                                   outstanding_.front().value.id.sequence};
    auto& out =
        effects_.send_now(configuration_.acceptors[target_].endpoint, MessageType::kSubmit, submit);
    out.payload =
        value.bytes.part(fragment.offset(), std::min(fragment.bytes, bytes - fragment.offset()));
    out.payload_hash = dataplane::hash_bytes(out.payload.bytes());
  }
  value.resend_at = now + kResendAfter + rng_.between(0, kMillisecond);
}

void RawClient::switch_target(std::uint32_t acceptor, Nanos now) {
  target_ = acceptor;
  heard_ = now;
  for (Outstanding& value : outstanding_) value.resend_at = now;
}

void RawClient::on_ack(const consensus::SubmitAck& ack, Nanos now) {
  if (ack.epoch != options_.identity.epoch) return;
  heard_ = now;
  const auto coordinator =
      configuration_.acceptor_index(consensus::coordinator_of(consensus::Ballot{ack.ballot.get()}));
  if (coordinator && *coordinator != target_) return switch_target(*coordinator, now);
  limit_ = std::max<std::uint64_t>(limit_, ack.limit);
}

dataplane::PollResult RawClient::poll(Nanos now, std::uint32_t budget) {
  const std::span<Received> burst = port_.receive(now);
  auto work = static_cast<std::uint32_t>(burst.size());
  for (const Received& in : burst) {
    news_.on_frame(in, configuration_, false, now, effects_);
    if (in.type == MessageType::kSubmitAck) {
      on_ack(consensus::message<consensus::SubmitAck>(in.frame), now);
    } else if (in.type == MessageType::kConfiguration) {
      consensus::Configuration next = consensus::decode(in.frame.message, configuration_);
      if (next.epoch > configuration_.epoch) configuration_ = std::move(next);
      target_ %= configuration_.acceptors.size();
    }
  }
  consensus::Port::release(burst);
  for (; next_ <= options_.values && submit_at_ <= now && work < budget; ++work) {
    submit_at_ = now + rng_.between(0, options_.think_max);
    if (!submit_next(now)) break;
  }
  if (!outstanding_.empty() && now - heard_ > kSilence) {
    switch_target((target_ + 1) % static_cast<std::uint32_t>(configuration_.acceptors.size()), now);
  }
  Nanos deadline = next_ <= options_.values ? submit_at_ : kNever;
  for (Outstanding& value : outstanding_) {
    if (value.resend_at <= now) {
      ++retransmitted_;
      send(value, now);
    }
    deadline = std::min(deadline, value.resend_at);
  }
  port_.send(now, effects_);
  return {work, deadline};
}

std::string RawClient::describe() const {
  return "raw client " + std::to_string(options_.identity.epoch % 10'000) + ": " +
         std::to_string(next_ - 1) + " of " + std::to_string(options_.values) + " submitted, " +
         std::to_string(outstanding_.size()) + " outstanding" +
         (outstanding_.empty() ? ""
                               : " from " + std::to_string(outstanding_.front().value.id.sequence));
}

}  // namespace annulus::sim
