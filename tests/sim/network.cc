#include "tests/sim/network.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "dataplane/frame.h"

namespace annulus::sim {

using dataplane::Buffer;
using dataplane::RxFrame;
using dataplane::Slice;
using dataplane::TransportCounter;
using dataplane::TxFrame;

const char* to_string(NetworkEvent event) {
  static constexpr const char* kNames[] = {"delivered",  "lost",      "lost_in_multicast",
                                           "duplicated", "reordered", "bit_flipped",
                                           "link_full",  "link_cut"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(NetworkEvent::kCount));
  return kNames[static_cast<std::size_t>(event)];
}

// A control block, and behind it the bytes.
Slice FramePool::allocate(std::size_t bytes) {
  if (held_ == count_) return {};
  ++held_;
  auto* place = static_cast<std::byte*>(::operator new(sizeof(Buffer) + bytes));
  auto* buffer = new (place) Buffer;
  buffer->references.store(1, std::memory_order_relaxed);
  buffer->capacity = static_cast<std::uint32_t>(bytes);
  buffer->data = place + sizeof(Buffer);
  buffer->release = &FramePool::release;
  buffer->owner = this;
  return Slice::adopt(buffer, 0, buffer->capacity);
}

void FramePool::release(Buffer* buffer) {
  --static_cast<FramePool*>(buffer->owner)->held_;
  buffer->~Buffer();
  ::operator delete(buffer);
}

SimTransport::SimTransport(SimNetwork& network, std::uint32_t index, const Endpoint& endpoint,
                           bool split, std::uint32_t frame_bytes_max, std::uint32_t buffers)
    : network_(network),
      index_(index),
      endpoint_(endpoint),
      split_(split),
      frame_bytes_max_(frame_bytes_max),
      heads_(buffers),
      payloads_(split ? buffers : 0) {}

bool SimTransport::hand_over(const std::vector<std::byte>& head,
                             const std::vector<std::byte>& payload, RxFrame& frame) {
  const bool split = split_ && !payload.empty();
  Slice block = heads_.allocate(head.size() + (split ? 0 : payload.size()));
  Slice apart;
  if (split) apart = payloads_.allocate(payload.size());
  if (!block || (split && !apart)) {
    counters_[TransportCounter::kRxDropNoBuffer].add();
    return false;
  }
  std::memcpy(block.mutable_data(), head.data(), head.size());
  if (!payload.empty()) {
    std::byte* to = split ? apart.mutable_data() : block.mutable_data() + head.size();
    std::memcpy(to, payload.data(), payload.size());
  }
  frame.head = std::move(block);
  frame.payload = std::move(apart);
  return true;
}

std::uint32_t SimTransport::receive(Nanos, std::span<RxFrame> frames) {
  const Nanos now = network_.now_;
  SimNetwork::End& end = network_.ends_[index_];
  std::uint32_t count = 0;
  while (count < frames.size() && !end.queue.empty() && end.queue.top().arrival <= now) {
    const SimNetwork::Arrival arrival = end.queue.top();
    end.queue.pop();
    --network_.in_flight_;
    --network_.links_[arrival.from * network_.ends_.size() + index_].in_flight;
    SimNetwork::Packet& packet = network_.packets_[arrival.packet];
    RxFrame& frame = frames[count];
    frame = {};
    frame.from = network_.ends_[arrival.from].endpoint;
    if (hand_over(packet.head, packet.payload, frame)) {
      if (arrival.flipped_bit >= 0) {
        const auto byte = static_cast<std::uint64_t>(arrival.flipped_bit) / 8;
        const auto bit = std::byte{1} << (arrival.flipped_bit % 8);
        (byte < frame.head.size() ? frame.head.mutable_data()[byte]
                                  : frame.payload.mutable_data()[byte - frame.head.size()]) ^= bit;
      }
      for (NetworkObserver* observer : network_.observers_) {
        if (arrival.flipped_bit < 0) observer->on_deliver(now, index_, packet.head);
      }
      std::uint64_t checksum = 0;
      std::memcpy(&checksum, packet.head.data() + offsetof(dataplane::FrameHeader, checksum), 8);
      network_.trace_.mix(TraceEvent::kFrame, static_cast<std::uint64_t>(now),
                          (std::uint64_t{arrival.from} << 32) | index_,
                          checksum + static_cast<std::uint64_t>(arrival.flipped_bit + 1));
      counters_[TransportCounter::kRxFrames].add();
      counters_[TransportCounter::kRxBytes].add(packet.head.size() + packet.payload.size());
      network_.add(NetworkEvent::kDelivered);
      ++count;
    }
    network_.release(arrival.packet);
  }
  return count;
}

void SimTransport::transmit(Nanos, std::span<TxFrame> frames) {
  const Nanos now = network_.now_;
  SimNetwork::End& end = network_.ends_[index_];
  for (TxFrame& frame : frames) {
    if (end.dead && end.frames_left-- == 0) {
      end.frames_left = 0;
      frame.payload.reset();
      continue;
    }
    if (frame.head.size() + frame.payload.size() > frame_bytes_max_) {
      counters_[TransportCounter::kTxDropTooLong].add();
      frame.payload.reset();
      continue;
    }
    for (NetworkObserver* observer : network_.observers_) {
      observer->on_transmit(now, index_, frame.to, frame.head, frame.payload.bytes());
    }
    const std::uint32_t packet = network_.new_packet(frame.head, frame.payload.bytes());
    bool full = false;
    if (frame.to.multicast()) {
      for (const std::uint32_t to : network_.groups_[frame.to]) {
        if (to != index_) full |= !network_.send(now, index_, to, true, packet);
      }
    } else if (const auto to = network_.by_endpoint_.find(frame.to);
               to != network_.by_endpoint_.end()) {
      full = !network_.send(now, index_, to->second, false, packet);
    } else {
      counters_[TransportCounter::kTxDropNoRoute].add();
    }
    if (full) counters_[TransportCounter::kTxDropFull].add();
    counters_[TransportCounter::kTxFrames].add();
    counters_[TransportCounter::kTxBytes].add(frame.head.size() + frame.payload.size());
    network_.release(packet);
    frame.payload.reset();
  }
}

Status SimTransport::join(const Endpoint& group) {
  if (!group.multicast()) return Error{to_string(group) + " is not a multicast address"};
  std::vector<std::uint32_t>& members = network_.groups_[group];
  if (std::find(members.begin(), members.end(), index_) == members.end()) {
    members.push_back(index_);
  }
  return {};
}

std::unique_ptr<SimTransport> SimNetwork::attach(const Endpoint& endpoint, bool split,
                                                 std::uint32_t buffers) {
  const auto index = static_cast<std::uint32_t>(ends_.size());
  CHECK(by_endpoint_.emplace(endpoint, index).second);
  ends_.push_back({endpoint, {}});
  links_.assign(ends_.size() * ends_.size(), Link{});
  return transport_of(index, split, buffers);
}

std::unique_ptr<SimTransport> SimNetwork::transport_of(std::uint32_t end, bool split,
                                                       std::uint32_t buffers) {
  return std::make_unique<SimTransport>(*this, end, ends_[end].endpoint, split, frame_bytes_max_,
                                        buffers);
}

void SimNetwork::kill(std::uint32_t end, std::uint32_t frames_left) {
  drop_queued(end);
  ends_[end].dead = true;
  ends_[end].frames_left = frames_left;
}

void SimNetwork::revive(std::uint32_t end) { ends_[end].dead = false; }

void SimNetwork::drop_queued(std::uint32_t end) {
  while (!ends_[end].queue.empty()) {
    const Arrival& arrival = ends_[end].queue.top();
    --links_[arrival.from * ends_.size() + end].in_flight;
    --in_flight_;
    release(arrival.packet);
    ends_[end].queue.pop();
  }
}

bool SimNetwork::send(Nanos now, std::uint32_t from, std::uint32_t to, bool multicast,
                      std::uint32_t packet) {
  Link& link = links_[from * ends_.size() + to];
  const LinkQuality& quality = link.quality;
  if (quality.cut || ends_[to].dead) {
    add(NetworkEvent::kDroppedCut);
    return true;
  }
  if (link.in_flight >= quality.frames_max) {
    add(NetworkEvent::kDroppedFull);
    return false;
  }
  if (rng_.chance(quality.loss_ppm)) {
    add(NetworkEvent::kLost);
    return true;
  }
  if (multicast && rng_.chance(quality.multicast_loss_ppm)) {
    add(NetworkEvent::kLostInMulticast);
    return true;
  }
  const Nanos latency =
      rng_.between(quality.latency_min, quality.latency_max) * static_cast<Nanos>(quality.slow);
  Nanos arrival = std::max(now + latency, link.last_arrival);
  if (rng_.chance(quality.reorder_ppm)) {
    add(NetworkEvent::kReordered);
    arrival += rng_.between(1, 20) * latency;  // last_arrival stays: later frames overtake this
  } else {
    link.last_arrival = arrival;
  }
  enqueue(arrival, from, to, packet);
  if (rng_.chance(quality.duplicate_ppm)) {
    add(NetworkEvent::kDuplicated);
    enqueue(arrival + rng_.between(0, 40) * latency, from, to, packet);
  }
  return true;
}

void SimNetwork::enqueue(Nanos arrival, std::uint32_t from, std::uint32_t to,
                         std::uint32_t packet) {
  Link& link = links_[from * ends_.size() + to];
  Packet& bytes = packets_[packet];
  std::int64_t flipped = -1;
  if (rng_.chance(link.quality.flip_ppm)) {
    add(NetworkEvent::kFlipped);
    flipped = static_cast<std::int64_t>(rng_.below((bytes.head.size() + bytes.payload.size()) * 8));
  }
  ++bytes.references;
  ++link.in_flight;
  ++in_flight_;
  ends_[to].queue.push({arrival, order_++, packet, from, flipped});
}

std::uint32_t SimNetwork::new_packet(std::span<const std::byte> head,
                                     std::span<const std::byte> payload) {
  if (free_packets_.empty()) {
    free_packets_.push_back(static_cast<std::uint32_t>(packets_.size()));
    packets_.emplace_back();
  }
  const std::uint32_t index = free_packets_.back();
  free_packets_.pop_back();
  Packet& packet = packets_[index];
  packet.head.assign(head.begin(), head.end());
  packet.payload.assign(payload.begin(), payload.end());
  packet.references = 1;
  return index;
}

void SimNetwork::release(std::uint32_t packet) {
  if (--packets_[packet].references == 0) free_packets_.push_back(packet);
}

}  // namespace annulus::sim
