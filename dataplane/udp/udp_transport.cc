#include "dataplane/udp/udp_transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace annulus::dataplane {
namespace {

/// What one IPv4 datagram can carry, whatever the MTU says.
constexpr std::uint32_t kDatagramBytesMax = kMtuMax - kIpUdpHeaderBytes;
constexpr Nanos kDropCountPeriod = 100 * kMillisecond;

}  // namespace

struct UdpTransport::Batch {
  std::array<mmsghdr, kBurst> messages;
  std::array<iovec, 2 * kBurst> parts;
  std::array<sockaddr_in, kBurst> addresses;
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
      pool_(options.receive_buffers, frame_bytes_max_),
      epoll_(std::move(epoll)),
      batch_(new Batch{}) {}

UdpTransport::~UdpTransport() = default;

Status UdpTransport::add(Descriptor descriptor, const Endpoint& group) {
  for (const SocketBuffer which : {SocketBuffer::kReceive, SocketBuffer::kSend}) {
    if (which == SocketBuffer::kSend && group.multicast()) continue;  // never sends
    std::string clamped = size_socket_buffer(descriptor.get(), which, socket_buffer_bytes_);
    if (clamped.empty()) continue;
    counters_[TransportCounter::kSocketBuffersClamped].add();
    warnings_.push_back(to_string(local_) + ": " + clamped);
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
  std::uint32_t filled = 0;
  for (std::size_t scanned = 0; scanned < sockets_.size() && filled < frames.size(); ++scanned) {
    const int socket = sockets_[next_socket_].descriptor.get();
    next_socket_ = next_socket_ + 1 == sockets_.size() ? 0 : next_socket_ + 1;
    filled += receive_from(socket, frames.subspan(filled));
  }
  return filled;
}

/// Sees to it that up to `wanted` empty buffers are ready; how many are.
std::uint32_t UdpTransport::fill_ready(std::uint32_t wanted) {
  while (ready_count_ < wanted) {
    Slice buffer = pool_.allocate();
    if (!buffer) break;  // the kernel keeps what we do not fetch, and counts what it cannot keep
    ready_[ready_count_++] = std::move(buffer);
  }
  return std::min(ready_count_, wanted);
}

std::uint32_t UdpTransport::receive_from(int socket, std::span<RxFrame> frames) {
  const std::uint32_t room =
      fill_ready(static_cast<std::uint32_t>(std::min<std::size_t>(frames.size(), kBurst)));
  if (room == 0) return 0;
  Batch& batch = *batch_;
  for (std::uint32_t i = 0; i < room; ++i) {
    batch.parts[i] = {ready_[i].mutable_data(), frame_bytes_max_};
    batch.messages[i].msg_hdr = {
        &batch.addresses[i], sizeof(sockaddr_in), &batch.parts[i], 1, nullptr, 0, 0};
  }
  const int got = recvmmsg(socket, batch.messages.data(), room, MSG_DONTWAIT, nullptr);
  if (got <= 0) return 0;
  std::uint32_t filled = 0;
  std::uint64_t bytes = 0;
  for (int i = 0; i < got; ++i) {
    const mmsghdr& message = batch.messages[i];
    Slice head = std::move(ready_[i]);
    if ((message.msg_hdr.msg_flags & MSG_TRUNC) != 0) {
      counters_[TransportCounter::kRxDropTooLong].add();
      continue;
    }
    head.truncate(message.msg_len);
    bytes += message.msg_len;
    RxFrame& frame = frames[filled++];
    frame.from = {ntohl(batch.addresses[i].sin_addr.s_addr), ntohs(batch.addresses[i].sin_port)};
    frame.head = std::move(head);
    frame.payload.reset();
  }
  // What is left of the ready buffers moves to the front.
  std::move(ready_.begin() + got, ready_.begin() + ready_count_, ready_.begin());
  ready_count_ -= static_cast<std::uint32_t>(got);
  counters_[TransportCounter::kRxFrames].add(filled);
  counters_[TransportCounter::kRxBytes].add(bytes);
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
    const std::size_t count = std::min<std::size_t>(frames.size(), kBurst);
    send(frames.first(count));
    frames = frames.subspan(count);
  }
}

void UdpTransport::send(std::span<TxFrame> frames) {
  Batch& batch = *batch_;
  std::array<TxFrame*, kBurst> queued;
  std::uint32_t count = 0;
  for (TxFrame& frame : frames) {
    if (!sendable(frame)) continue;
    iovec* parts = &batch.parts[2 * count];
    parts[0] = {const_cast<std::byte*>(frame.head.data()), frame.head.size()};
    std::size_t used = 1;
    if (frame.payload) {
      parts[used++] = {const_cast<std::byte*>(frame.payload.data()), frame.payload.size()};
    }
    sockaddr_in& to = batch.addresses[count];
    to.sin_family = AF_INET;
    to.sin_port = htons(frame.to.port);
    to.sin_addr.s_addr = htonl(frame.to.address);
    batch.messages[count].msg_hdr = {&to, sizeof to, parts, used, nullptr, 0, 0};
    queued[count++] = &frame;
  }
  for (std::uint32_t next = 0; next < count;) {
    const int sent =
        sendmmsg(sockets_[0].descriptor.get(), &batch.messages[next], count - next, MSG_DONTWAIT);
    if (sent <= 0) {  // the first of them was refused; the others may yet go
      count_refused(errno);
      ++next;
      continue;
    }
    for (int i = 0; i < sent; ++i) count_sent(*queued[next++]);
  }
  for (TxFrame& frame : frames) frame.payload.reset();
}

void UdpTransport::count_sent(const TxFrame& frame) {
  counters_[TransportCounter::kTxFrames].add();
  counters_[TransportCounter::kTxBytes].add(frame.head.size() + frame.payload.size());
  if (!frame.to.multicast()) return;
  for (Socket& socket : sockets_) socket.lost -= socket.group == frame.to ? 1 : 0;
}

void UdpTransport::count_refused(int error) {
  switch (error) {
    case EAGAIN:
    case ENOBUFS:
      return counters_[TransportCounter::kTxDropFull].add();
    case EMSGSIZE:
      return counters_[TransportCounter::kTxDropTooLong].add();
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
      return counters_[TransportCounter::kTxDropNoRoute].add();
    default:
      return counters_[TransportCounter::kTxDropError].add();
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
