#include "dataplane/local/local_transport.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace annulus::dataplane {
namespace {

/// Frames of one sender that a receiver may hold outside the link: the burst it works on, and the
/// one before it, whose slices are dropped only as the next burst replaces them.
constexpr std::uint32_t kHeldByReceiver = 2 * 256;

/// Heads of one sender in use at once: each of its links full, each receiver holding its bursts,
/// and one being written.
std::uint32_t heads_needed(std::size_t endpoints, const LocalOptions& options) {
  return static_cast<std::uint32_t>(endpoints) *
             (std::bit_ceil(options.link_depth) + kHeldByReceiver) +
         1;
}

}  // namespace

LocalSwitch::LocalSwitch(std::span<const Endpoint> endpoints, const LocalOptions& options)
    : endpoints_(endpoints.begin(), endpoints.end()) {
  CHECK(!endpoints.empty() && options.link_depth > 0);
  CHECK(options.mtu >= kMtuMin && options.mtu <= kMtuMax);
  const std::size_t places = std::bit_ceil(4 * endpoints_.size());
  directory_.resize(places);
  directory_shift_ = 64 - static_cast<std::uint32_t>(std::countr_zero(places));
  for (std::uint32_t i = 0; i < endpoints_.size(); ++i) {
    CHECK(find(endpoints_[i]) == nullptr);
    enter(endpoints_[i], i, false);
    transports_.emplace_back(new LocalTransport(*this, i, options));
  }
  for (const auto& sender : transports_) {
    for (const auto& receiver : transports_) {
      sender->out_.push_back(
          {receiver->in_[sender->index_].get(), &receiver->bell(sender->index_)});
    }
  }
}

LocalSwitch::~LocalSwitch() { clear(); }

void LocalSwitch::clear() {
  for (const auto& transport : transports_) {
    for (const auto& link : transport->in_) {
      for (Descriptor descriptor; link->pop(descriptor);) {
        Slice::adopt(descriptor.head, 0, 0).reset();
        Slice::adopt(descriptor.payload, 0, 0).reset();
      }
    }
  }
}

std::uint64_t LocalSwitch::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& transport : transports_) {
    sum += transport->heads_.bytes();
    for (const auto& link : transport->in_) sum += link->capacity() * sizeof(Descriptor);
  }
  return sum;
}

void LocalSwitch::enter(const Endpoint& endpoint, std::uint32_t index, bool group) {
  std::size_t i = place(key(endpoint));
  while (directory_[i].key != 0) i = (i + 1) & (directory_.size() - 1);
  directory_[i] = {key(endpoint), index, group};
}

void LocalSwitch::join(std::uint32_t member, const Endpoint& group) {
  if (find(group) == nullptr) {
    groups_.emplace_back();
    if ((endpoints_.size() + groups_.size()) * 4 > directory_.size()) {
      std::vector<Entry> old(2 * directory_.size());
      old.swap(directory_);
      --directory_shift_;
      for (const Entry& entry : old) {
        if (entry.key == 0) continue;
        const Endpoint endpoint{static_cast<std::uint32_t>(entry.key >> 16),
                                static_cast<std::uint16_t>(entry.key)};
        enter(endpoint, entry.index, entry.group);
      }
    }
    enter(group, static_cast<std::uint32_t>(groups_.size() - 1), true);
  }
  std::vector<std::uint32_t>& members = groups_[find(group)->index];
  const auto at = std::lower_bound(members.begin(), members.end(), member);
  if (at == members.end() || *at != member) members.insert(at, member);
}

LocalTransport::LocalTransport(LocalSwitch& fabric, std::uint32_t index,
                               const LocalOptions& options)
    : switch_(fabric),
      index_(index),
      endpoint_(fabric.endpoints_[index]),
      frame_bytes_max_(options.mtu - kIpUdpHeaderBytes),
      heads_(heads_needed(fabric.endpoints_.size(), options), kHeadBytesMax),
      bells_((fabric.endpoints_.size() + 63) / 64) {
  for (std::size_t i = 0; i < fabric.endpoints_.size(); ++i) {
    in_.push_back(std::make_unique<Link>(options.link_depth));
  }
  takers_.reserve(fabric.endpoints_.size());
}

Status LocalTransport::join(const Endpoint& group) {
  if (!group.multicast()) {
    return Error{"cannot join " + to_string(group) +
                 ": not a multicast group; take an address from 224.0.0.0 to 239.255.255.255"};
  }
  switch_.join(index_, group);
  return {};
}

bool LocalTransport::silent() {
  unsigned rung = 0;
  for (std::size_t i = 0; i < in_.size(); ++i) rung |= bell(i).load(std::memory_order_relaxed);
  return rung == 0;
}

std::uint32_t LocalTransport::receive(Nanos, std::span<RxFrame> frames) {
  if (silent()) return 0;
  const auto sources = static_cast<std::uint32_t>(in_.size());
  const auto room = static_cast<std::uint32_t>(frames.size());
  std::uint32_t filled = 0;
  std::uint64_t bytes = 0;
  std::uint32_t source = next_source_;
  for (std::uint32_t scanned = 0; scanned < sources && filled < room; ++scanned) {
    const std::uint32_t from = source;
    source = source + 1 == sources ? 0 : source + 1;
    if (bell(from).load(std::memory_order_relaxed) == 0) continue;
    bell(from).exchange(0, std::memory_order_acq_rel);
    Link& link = *in_[from];
    const std::uint32_t waiting = link.readable();
    const std::uint32_t taken = std::min(waiting, room - filled);
    if (taken < waiting) bell(from).store(1, std::memory_order_relaxed);  // for the next receive()
    for (std::uint32_t i = 0; i < taken; ++i) {
      const Descriptor& descriptor = link.peek(i);
      // The reader wants frame header and message next: on their way while the burst fills.
      const auto* near = reinterpret_cast<const char*>(descriptor.head);
      for (std::uint32_t line = 0; line < 4; ++line) __builtin_prefetch(near + 64 * line);
      RxFrame& frame = frames[filled++];
      frame.from = switch_.endpoints_[from];
      frame.head = Slice::adopt(descriptor.head, 0, descriptor.head_bytes);
      frame.payload =
          Slice::adopt(descriptor.payload, descriptor.payload_offset, descriptor.payload_bytes);
      bytes += descriptor.head_bytes + descriptor.payload_bytes;
    }
    link.drop(taken);
    next_source_ = source;  // whoever was served last is scanned last
  }
  if (filled != 0) {
    counters_[TransportCounter::kRxFrames].add(filled);
    counters_[TransportCounter::kRxBytes].add(bytes);
  }
  return filled;
}

void LocalTransport::transmit(Nanos, std::span<TxFrame> frames) {
  for (TxFrame& frame : frames) {
    const std::uint64_t bytes = frame.head.size() + std::uint64_t{frame.payload.size()};
    const LocalSwitch::Entry* entry = switch_.find(frame.to);
    if (bytes > frame_bytes_max_ || frame.head.size() > kHeadBytesMax) {
      counters_[TransportCounter::kTxDropTooLong].add();
    } else if (entry == nullptr) {
      counters_[TransportCounter::kTxDropNoRoute].add();
    } else if (Slice head = heads_.allocate(); !head) {
      counters_[TransportCounter::kTxDropNoBuffer].add();
    } else {
      std::memcpy(head.mutable_data(), frame.head.data(), frame.head.size());
      counters_[TransportCounter::kTxFrames].add();
      counters_[TransportCounter::kTxBytes].add(bytes);
      if (entry->group) {
        send_to_group(switch_.groups_[entry->index], frame, std::move(head));
      } else {
        send_to_one(out_[entry->index], frame, std::move(head));
      }
    }
    frame.payload.reset();
  }
}

LocalTransport::Descriptor LocalTransport::describe(const TxFrame& frame, const Slice& head) {
  return {head.buffer(), frame.payload.buffer(), static_cast<std::uint32_t>(frame.head.size()),
          frame.payload.offset(), frame.payload.size()};
}

void LocalTransport::send_to_one(Outlet& outlet, TxFrame& frame, Slice head) {
  if (!outlet.push(describe(frame, head))) {
    counters_[TransportCounter::kTxDropFull].add();
    return;
  }
  head.detach();
  frame.payload.detach();
}

void LocalTransport::send_to_group(std::span<const std::uint32_t> members, TxFrame& frame,
                                   Slice head) {
  takers_.clear();
  for (const std::uint32_t member : members) {
    if (member == index_) continue;
    if (out_[member].link->full()) {
      counters_[TransportCounter::kTxDropFull].add();
    } else {
      takers_.push_back(&out_[member]);
    }
  }
  if (takers_.empty()) return;
  // All references at once, before the first receiver can drop its own. A taker's push cannot fail:
  // only this transport fills the link.
  const auto takers = static_cast<std::uint32_t>(takers_.size());
  const Descriptor descriptor = describe(frame, head);
  head.detach()->references.store(takers, std::memory_order_relaxed);
  if (Buffer* payload = frame.payload.detach(); payload != nullptr && takers > 1) {
    payload->references.fetch_add(takers - 1, std::memory_order_relaxed);
  }
  for (Outlet* outlet : takers_) CHECK(outlet->push(Descriptor{descriptor}));
}

}  // namespace annulus::dataplane
