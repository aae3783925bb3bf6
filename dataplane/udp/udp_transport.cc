#include "dataplane/udp/udp_transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace annulus::dataplane {
namespace {

/// What one IPv4 datagram can carry, whatever the MTU says.
constexpr std::uint32_t kDatagramBytesMax = kMtuMax - kIpUdpHeaderBytes;
/// Of the kernel: datagrams that one message may hold.
constexpr std::uint32_t kSegmentsMax = 64;
constexpr Nanos kDropCountPeriod = 100 * kMillisecond;

/// Room for the one control message that tells the size of segments.
template <typename T>
struct alignas(cmsghdr) SegmentControl {
  std::array<std::byte, CMSG_SPACE(sizeof(T))> bytes;
};

}  // namespace

struct UdpTransport::RxBatch {
  std::array<mmsghdr, kBurst> messages;
  std::array<iovec, kBurst> parts;
  std::array<sockaddr_in, kBurst> addresses;
  std::array<SegmentControl<int>, kBurst> controls;
};

/// Frames to send. A message holds one frame, or several of equal size (the last may be shorter) to
/// one destination.
struct UdpTransport::TxBatch {
  struct Message {
    Endpoint to;
    std::uint32_t first_part = 0;
    std::uint32_t parts = 0;
    std::uint32_t frames = 0;
    std::uint32_t segment = 0;  // bytes of the first frame
    std::uint32_t last = 0;     // bytes of the last
    std::uint32_t bytes = 0;    // of all
  };
  std::array<Message, kBurst> queued;
  std::uint32_t count = 0;
  std::array<std::uint8_t, 2 * kBurst> frame_ends{};  // 1: this part is the last of its frame
  std::uint32_t parts_count = 0;
  std::array<iovec, 2 * kBurst> parts;
  std::array<mmsghdr, kBurst> messages;
  std::array<sockaddr_in, kBurst> addresses;
  std::array<SegmentControl<std::uint16_t>, kBurst> controls;
};

Result<std::unique_ptr<UdpTransport>> UdpTransport::open(const UdpOptions& options) {
  CHECK(options.mtu >= kMtuMin && options.mtu <= kMtuMax && options.receive_buffers > kBurst);
  Result<Descriptor> unicast = open_unicast_socket(options.local, options.mtu);
  if (!unicast) return unicast.error();
  Descriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (epoll.get() < 0) return Error{std::string("cannot make an epoll: ") + std::strerror(errno)};
  std::unique_ptr<UdpTransport> made(new UdpTransport(options, std::move(epoll)));
  if (Status status = made->add(std::move(*unicast), {}); !status) return status.error();
  return made;
}

UdpTransport::UdpTransport(const UdpOptions& options, Descriptor epoll)
    : local_(options.local),
      frame_bytes_max_(std::min(options.mtu - kIpUdpHeaderBytes, kDatagramBytesMax)),
      socket_buffer_bytes_(options.socket_buffer_bytes),
      segments_(2 * frame_bytes_max_ <= kDatagramBytesMax),
      pool_(options.receive_buffers, segments_ ? kMtuMax : frame_bytes_max_),
      epoll_(std::move(epoll)),
      rx_(new RxBatch{}),
      tx_(new TxBatch{}) {}

UdpTransport::~UdpTransport() = default;

void UdpTransport::touch_memory(std::uint32_t frames, std::uint64_t bytes) {
  pool_.touch(frames, bytes);
  // Once more by the kernel, which is to receive into it: on some virtual machines it has page
  // tables of its own to fill. Nothing is lost if that fails.
  const Descriptor zeros(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  std::vector<Slice> touched(std::min(frames, pool_.count()));
  for (Slice& block : touched) {
    block = pool_.allocate();
    const auto part = std::min<std::uint64_t>(block.size(), bytes / touched.size());
    if (!block || read(zeros.get(), block.mutable_data(), part) <= 0) return;
  }
}

Status UdpTransport::add(Descriptor descriptor, const Endpoint& group) {
  for (const SocketBuffer which : {SocketBuffer::kReceive, SocketBuffer::kSend}) {
    if (which == SocketBuffer::kSend && group.multicast()) continue;  // never sends
    std::string clamped = size_socket_buffer(descriptor.get(), which, socket_buffer_bytes_);
    if (clamped.empty()) continue;
    counters_[TransportCounter::kSocketBuffersClamped].add();
    warnings_.push_back(to_string(local_) + ": " + clamped);
  }
  // Before the first frame: a socket that takes whole messages must not send segments to one that
  // does not, or its own multicasts would be counted wrongly.
  const int on = 1;
  if (segments_ && setsockopt(descriptor.get(), IPPROTO_UDP, UDP_GRO, &on, sizeof on) != 0) {
    segments_ = false;
  }
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor.get(), &event) != 0) {
    return Error{std::string("cannot wait for a socket: ") + std::strerror(errno)};
  }
  sockets_.push_back({std::move(descriptor), group});
  return {};
}

Status UdpTransport::join(const Endpoint& group) {
  const auto joined = [&](const Socket& socket) { return socket.group == group; };
  if (std::any_of(sockets_.begin(), sockets_.end(), joined)) return {};
  Result<Descriptor> descriptor = open_group_socket(group, local_);
  if (!descriptor) return descriptor.error();
  return add(std::move(*descriptor), group);
}

std::uint32_t UdpTransport::receive(Nanos now, std::span<RxFrame> frames) {
  if (now >= next_drop_count_) count_kernel_drops(now);
  std::uint32_t filled = hand_on(frames);
  for (std::size_t scanned = 0; scanned < sockets_.size() && filled < frames.size(); ++scanned) {
    const int socket = sockets_[next_socket_].descriptor.get();
    next_socket_ = next_socket_ + 1 == sockets_.size() ? 0 : next_socket_ + 1;
    fetch(socket, frames.size() - filled);
    filled += hand_on(frames.subspan(filled));
  }
  return filled;
}

/// Fetches up to `wanted` messages; all earlier arrivals were handed on.
void UdpTransport::fetch(int socket, std::size_t wanted) {
  const auto room = static_cast<std::uint32_t>(std::min<std::size_t>(wanted, kBurst));
  while (ready_count_ < room) {
    Slice block = pool_.allocate();
    if (!block) break;  // the kernel keeps what we do not fetch, and counts what it cannot keep
    ready_[ready_count_++] = std::move(block);
  }
  const std::uint32_t count = std::min(ready_count_, room);
  if (count == 0) return;
  RxBatch& batch = *rx_;
  for (std::uint32_t i = 0; i < count; ++i) {
    batch.parts[i] = {ready_[i].mutable_data(), segments_ ? kMtuMax : frame_bytes_max_};
    batch.messages[i].msg_hdr = {&batch.addresses[i],
                                 sizeof(sockaddr_in),
                                 &batch.parts[i],
                                 1,
                                 &batch.controls[i],
                                 sizeof batch.controls[i],
                                 0};
  }
  const int got = recvmmsg(socket, batch.messages.data(), count, MSG_DONTWAIT, nullptr);
  if (got <= 0) return;
  arrivals_next_ = 0;
  arrivals_count_ = 0;
  for (int i = 0; i < got; ++i) {
    mmsghdr& message = batch.messages[i];
    Slice block = std::move(ready_[i]);
    std::uint32_t segment = message.msg_len;
    const cmsghdr* control = CMSG_FIRSTHDR(&message.msg_hdr);
    if (control != nullptr && control->cmsg_level == IPPROTO_UDP && control->cmsg_type == UDP_GRO) {
      int size = 0;
      std::memcpy(&size, CMSG_DATA(control), sizeof size);
      if (size > 0) segment = std::min(segment, static_cast<std::uint32_t>(size));
    }
    if ((message.msg_hdr.msg_flags & MSG_TRUNC) != 0 || segment > frame_bytes_max_) {
      counters_[TransportCounter::kRxDropTooLong].add();
      continue;
    }
    block.truncate(message.msg_len);
    const sockaddr_in& from = batch.addresses[i];
    arrivals_[arrivals_count_++] = {
        std::move(block), {ntohl(from.sin_addr.s_addr), ntohs(from.sin_port)}, segment, 0};
  }
  // What is left of the ready blocks moves to the front.
  std::move(ready_.begin() + got, ready_.begin() + ready_count_, ready_.begin());
  ready_count_ -= static_cast<std::uint32_t>(got);
}

std::uint32_t UdpTransport::hand_on(std::span<RxFrame> frames) {
  std::uint32_t filled = 0;
  std::uint64_t bytes = 0;
  while (filled < frames.size() && arrivals_next_ < arrivals_count_) {
    Arrival& arrival = arrivals_[arrivals_next_];
    const std::uint32_t length = std::min(arrival.segment, arrival.block.size() - arrival.taken);
    RxFrame& frame = frames[filled++];
    frame.from = arrival.from;
    frame.payload.reset();
    frame.head = arrival.block.part(arrival.taken, length);
    arrival.taken += length;
    bytes += length;
    if (arrival.taken == arrival.block.size()) {
      arrival.block.reset();
      ++arrivals_next_;
    }
  }
  if (filled != 0) {
    counters_[TransportCounter::kRxFrames].add(filled);
    counters_[TransportCounter::kRxBytes].add(bytes);
  }
  return filled;
}

bool UdpTransport::sendable(const TxFrame& frame) {
  if (frame.head.size() + std::uint64_t{frame.payload.size()} > frame_bytes_max_) {
    counters_[TransportCounter::kTxDropTooLong].add();
    return false;
  }
  if (frame.to.address == 0 || frame.to.port == 0) {
    counters_[TransportCounter::kTxDropNoRoute].add();
    return false;
  }
  return true;
}

void UdpTransport::transmit(Nanos, std::span<TxFrame> frames) {
  while (!frames.empty()) {
    const std::span<TxFrame> burst = frames.first(std::min<std::size_t>(frames.size(), kBurst));
    for (const TxFrame& frame : burst) {
      if (sendable(frame)) enqueue(frame);
    }
    send_queued();
    for (TxFrame& frame : burst) frame.payload.reset();
    frames = frames.subspan(burst.size());
  }
}

void UdpTransport::enqueue(const TxFrame& frame) {
  TxBatch& batch = *tx_;
  const auto bytes = static_cast<std::uint32_t>(frame.head.size() + frame.payload.size());
  TxBatch::Message* message = batch.count == 0 ? nullptr : &batch.queued[batch.count - 1];
  const bool joins = segments_ && message != nullptr && message->to == frame.to &&
                     message->last == message->segment && bytes <= message->segment && bytes != 0 &&
                     message->frames < kSegmentsMax && message->bytes + bytes <= kDatagramBytesMax;
  if (!joins) {
    message = &batch.queued[batch.count++];
    *message = {.to = frame.to, .first_part = batch.parts_count, .segment = bytes};
  }
  const auto add_part = [&](const std::byte* data, std::size_t size, bool ends) {
    batch.parts[batch.parts_count] = {const_cast<std::byte*>(data), size};
    batch.frame_ends[batch.parts_count++] = ends ? 1 : 0;
    ++message->parts;
  };
  add_part(frame.head.data(), frame.head.size(), !frame.payload);
  if (frame.payload) add_part(frame.payload.data(), frame.payload.size(), true);
  ++message->frames;
  message->last = bytes;
  message->bytes += bytes;
}

void UdpTransport::send_queued() {
  TxBatch& batch = *tx_;
  for (std::uint32_t i = 0; i < batch.count; ++i) {
    const TxBatch::Message& message = batch.queued[i];
    sockaddr_in& to = batch.addresses[i];
    to.sin_family = AF_INET;
    to.sin_port = htons(message.to.port);
    to.sin_addr.s_addr = htonl(message.to.address);
    msghdr& header = batch.messages[i].msg_hdr;
    header = {&to, sizeof to, &batch.parts[message.first_part], message.parts, nullptr, 0, 0};
    if (message.frames == 1) continue;
    header.msg_control = &batch.controls[i];
    header.msg_controllen = sizeof batch.controls[i];
    cmsghdr* control = CMSG_FIRSTHDR(&header);
    control->cmsg_level = IPPROTO_UDP;
    control->cmsg_type = UDP_SEGMENT;
    control->cmsg_len = CMSG_LEN(sizeof(std::uint16_t));
    const auto segment = static_cast<std::uint16_t>(message.segment);
    std::memcpy(CMSG_DATA(control), &segment, sizeof segment);
  }
  for (std::uint32_t next = 0; next < batch.count;) {
    const int sent = sendmmsg(sockets_[0].descriptor.get(), &batch.messages[next],
                              batch.count - next, MSG_DONTWAIT);
    for (int i = 0; i < sent; ++i, ++next) {
      note_sent(batch.queued[next].to, batch.queued[next].frames, batch.queued[next].bytes);
    }
    if (sent > 0) continue;
    // The first of them was refused; the others may yet go.
    const int error = errno;
    const std::uint32_t frames = batch.queued[next].frames;
    if (frames > 1 && error != EAGAIN && error != ENOBUFS) {
      send_apart(next);
    } else {
      count_refused(error, frames);
    }
    ++next;
  }
  batch.count = 0;
  batch.parts_count = 0;
}

/// Sends the frames of a message one by one: this interface does not segment, or the path carries
/// less than the MTU.
void UdpTransport::send_apart(std::uint32_t index) {
  segments_ = false;
  TxBatch& batch = *tx_;
  const TxBatch::Message& whole = batch.queued[index];
  std::uint32_t first = whole.first_part;
  for (std::uint32_t part = first; part < whole.first_part + whole.parts; ++part) {
    if (batch.frame_ends[part] == 0) continue;
    msghdr header{};
    header.msg_name = &batch.addresses[index];
    header.msg_namelen = sizeof(sockaddr_in);
    header.msg_iov = &batch.parts[first];
    header.msg_iovlen = part + 1 - first;
    first = part + 1;
    const ssize_t sent = sendmsg(sockets_[0].descriptor.get(), &header, MSG_DONTWAIT);
    if (sent < 0) {
      count_refused(errno, 1);
    } else {
      note_sent(whole.to, 1, static_cast<std::uint64_t>(sent));
    }
  }
}

void UdpTransport::note_sent(const Endpoint& to, std::uint32_t frames, std::uint64_t bytes) {
  counters_[TransportCounter::kTxFrames].add(frames);
  counters_[TransportCounter::kTxBytes].add(bytes);
  if (!to.multicast()) return;
  // The filter of our own group socket refuses whole messages, and the kernel counts them as drops.
  for (Socket& socket : sockets_) socket.lost -= socket.group == to ? 1 : 0;
}

void UdpTransport::count_refused(int error, std::uint32_t frames) {
  switch (error) {
    case EAGAIN:
    case ENOBUFS:
      return counters_[TransportCounter::kTxDropFull].add(frames);
    case EMSGSIZE:
      return counters_[TransportCounter::kTxDropTooLong].add(frames);
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
      return counters_[TransportCounter::kTxDropNoRoute].add(frames);
    default:
      return counters_[TransportCounter::kTxDropError].add(frames);
  }
}

/// The kernel keeps one figure a socket for what found no room and what the filter refused; our own
/// multicasts were taken off when sent. Now and then only, because it takes a system call.
void UdpTransport::count_kernel_drops(Nanos now) {
  next_drop_count_ = now + kDropCountPeriod;
  for (Socket& socket : sockets_) {
    const std::uint32_t drops = socket_drops(socket.descriptor.get());
    socket.lost += drops - std::exchange(socket.kernel_drops, drops);
    if (socket.lost <= 0) continue;
    counters_[TransportCounter::kRxDropNoBuffer].add(static_cast<std::uint64_t>(socket.lost));
    socket.lost = 0;
  }
}

}  // namespace annulus::dataplane
