// The kernel's side of the proxy's connections: accept, read, write, close. Edge-triggered, so that
// a connection costs a call only when something happened to it, and none to pause or resume.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tools/proxy/proxy.h"

namespace annulus::proxy {
namespace {

constexpr std::uint32_t kAcceptsPerTurn = 64;
constexpr Nanos kAcceptPause = 100 * kMillisecond;
/// Input left over that is at most so long is copied to where the next read goes.
constexpr std::uint32_t kCopiedInputMax = 4'096;
constexpr std::uint32_t kReadBytes = 65'536;
constexpr std::uint32_t kPiecesPerWrite = 64;

void set_option(int descriptor, int level, int option, int value) {
  setsockopt(descriptor, level, option, &value, sizeof(value));
}

}  // namespace

void Proxy::mark_ready(Connection& connection) {
  if (connection.in_ready) return;
  connection.in_ready = true;
  ready_.push(connection.index);
}

void Proxy::mark_dirty(Connection& connection) {
  if (connection.in_dirty) return;
  connection.in_dirty = true;
  dirty_.push(connection.index);
}

std::uint32_t Proxy::take_events(Nanos now) {
  if (now >= accept_again_at_) {
    accept_again_at_ = kNever;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kNone;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, listener_, &event);
  }
  const int count = epoll_wait(epoll_, events_.data(), static_cast<int>(events_.size()), 0);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events_[static_cast<std::size_t>(i)];
    const auto index = static_cast<std::uint32_t>(event.data.u64);
    if (index == kNone) {
      accept_some(now);
      continue;
    }
    if (index == kNone - 1) continue;  // the client's transport: polled every turn
    Connection& connection = connections_[index];
    // The upper half tells a connection from an earlier one in its place.
    if (static_cast<std::uint32_t>(connection.id) != event.data.u64 >> 32) continue;
    if (event.events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
      connection.readable = true;
      if (event.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) connection.hung_up = true;
      mark_ready(connection);
    }
    if (event.events & (EPOLLHUP | EPOLLERR)) abort(connection, ProxyCounter::kCloseReset);
    if ((event.events & EPOLLOUT) && connection.write_blocked) {
      connection.write_blocked = false;
      mark_dirty(connection);
    }
  }
  return count > 0 ? static_cast<std::uint32_t>(count) : 0;
}

void Proxy::accept_some(Nanos now) {
  for (std::uint32_t i = 0; i < kAcceptsPerTurn; ++i) {
    const int descriptor = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor >= 0) {
      admit(descriptor, now);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    // Out of descriptors or kernel memory: the listener would stay readable, so rest a while.
    counters_[ProxyCounter::kRefuseNoDescriptor].add();
    epoll_ctl(epoll_, EPOLL_CTL_DEL, listener_, nullptr);
    accept_again_at_ = now + kAcceptPause;
    return;
  }
}

void Proxy::admit(int descriptor, Nanos now) {
  if (connections_free_.empty()) {
    constexpr std::string_view kRefusal = "-ERR max number of clients reached\r\n";
    counters_[ProxyCounter::kRefuseClientsMax].add();
    send(descriptor, kRefusal.data(), kRefusal.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    close(descriptor);
    return;
  }
  Connection& connection = connections_[connections_free_.back()];
  connections_free_.pop_back();
  connection.descriptor = descriptor;
  connection.id = ++connection_id_last_;
  connection.opened_at = now;
  connection.active_at = now;
  connection.waiting_since = now;
  connection.reply_bytes_expected = 4'096;
  socklen_t length = sizeof(connection.peer);
  getpeername(descriptor, reinterpret_cast<sockaddr*>(&connection.peer), &length);
  set_option(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
  // A client that vanished without a word is found out, and its place given back.
  set_option(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set_option(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, 20);
  set_option(descriptor, IPPROTO_TCP, TCP_KEEPCNT, 3);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = (connection.id << 32) | connection.index;
  counters_[ProxyCounter::kConnectionsAccepted].add();
  counters_[ProxyCounter::kConnectionsOpen].add();
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) != 0) {
    abort(connection, ProxyCounter::kCloseReset);
  }
}

std::string_view Proxy::stored_input(const Connection& connection) const {
  return {input_block(connection) + connection.input_begin,
          connection.input_end - connection.input_begin};
}

Proxy::Progress Proxy::serve(Connection& connection, Nanos now) {
  Progress progress = Progress::kStarved;
  const std::string_view stored = stored_input(connection);
  if (!stored.empty() && stored.size() >= connection.parser.needed()) {
    std::size_t consumed = 0;
    progress = run(connection, stored, consumed, now);
    connection.input_begin += static_cast<std::uint32_t>(consumed);
    if (connection.input_begin == connection.input_end) {
      connection.input_begin = 0;
      connection.input_end = 0;
    }
  }
  if (progress == Progress::kStarved && connection.readable) progress = receive(connection, now);
  if (progress == Progress::kQuantum) {
    mark_ready(connection);
  } else if (progress == Progress::kStarved) {
    if (connection.ended) {
      close_after_replies(connection, ProxyCounter::kCloseByClient);
    } else if (connection.readable) {
      mark_ready(connection);
    }
  }
  return progress;
}

/// One read, and the commands in it. What is not consumed is kept in the connection's block.
Proxy::Progress Proxy::receive(Connection& connection, Nanos now) {
  const std::string_view stored = stored_input(connection);
  char* const block = input_block(connection);
  const bool shared = stored.size() <= kCopiedInputMax;
  char* base = shared ? receive_buffer_.data() : block;
  if (shared || connection.input_begin > 0) std::memmove(base, stored.data(), stored.size());
  const std::size_t room =
      shared ? kReadBytes : std::min<std::size_t>(kReadBytes, kInputBytesMax - stored.size());
  const ssize_t got = recv(connection.descriptor, base + stored.size(), room, 0);
  const std::size_t added = got > 0 ? static_cast<std::size_t>(got) : 0;
  if (got == 0) {
    connection.ended = true;
    connection.readable = false;
  } else if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
    abort(connection, ProxyCounter::kCloseReset);
    return Progress::kClosing;
  } else if (added < room && !connection.hung_up) {
    connection.readable = false;  // emptied; epoll reports what comes next
  }
  counters_[ProxyCounter::kBytesIn].add(added);
  connection.active_at = now;
  std::string_view input(base, stored.size() + added);
  std::size_t consumed = 0;
  Progress progress = Progress::kStarved;
  if (added > 0 && input.size() >= connection.parser.needed()) {
    progress = run(connection, input, consumed, now);
  }
  keep_input(connection, input.substr(consumed));
  return progress;
}

/// `left` lies in the receive buffer or at any place of the connection's own block.
void Proxy::keep_input(Connection& connection, std::string_view left) {
  char* const block = input_block(connection);
  const bool own = left.data() >= block && left.data() <= block + kInputBytesMax;
  if (own && !left.empty()) {
    connection.input_begin = static_cast<std::uint32_t>(left.data() - block);
  } else {
    connection.input_begin = 0;
    if (!left.empty()) std::memcpy(block, left.data(), left.size());
  }
  connection.input_end = connection.input_begin + static_cast<std::uint32_t>(left.size());
  connection.input_high = std::max(connection.input_high, connection.input_end);
}

void Proxy::flush_dirty(Nanos now) {
  // Once each: what becomes dirty meanwhile, or has more to send, is for the next turn.
  for (std::uint32_t count = dirty_.size(); count > 0; --count) {
    Connection& connection = connections_[dirty_.front()];
    dirty_.pop();
    connection.in_dirty = false;
    if (connection.open()) flush(connection, now);
  }
}

void Proxy::flush(Connection& connection, Nanos now) {
  if (connection.aborted) {
    destroy(connection, connection.close_reason);
    return;
  }
  if (!connection.out.empty() && !connection.write_blocked) {
    std::array<iovec, kPiecesPerWrite> pieces;
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = connection.out.pieces(pieces);
    std::size_t offered = 0;
    for (std::size_t i = 0; i < message.msg_iovlen; ++i) offered += pieces[i].iov_len;
    const ssize_t sent =
        message.msg_iovlen == 1
            ? send(connection.descriptor, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL)
            : sendmsg(connection.descriptor, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      destroy(connection, ProxyCounter::kCloseReset);
      return;
    }
    const std::size_t taken = sent > 0 ? static_cast<std::size_t>(sent) : 0;
    connection.out.consume(chunks_, taken);
    connection.bytes_sent += taken;
    counters_[ProxyCounter::kBytesOut].add(taken);
    if (taken < offered) {
      connection.write_blocked = true;
      if (!connection.in_stalled) {
        connection.in_stalled = true;
        stalled_.push(connection.index);
        stalls_[connection.index] = {now, connection.id, connection.bytes_sent};
      }
    } else if (!connection.out.empty()) {
      mark_dirty(connection);
    }
  }
  if (connection.closing) {
    if (connection.pending == 0 && connection.out.empty()) {
      destroy(connection, connection.close_reason);
    }
    return;
  }
  // Replies went out: if the connection was paused for them, go on with its input.
  if (!connection.in_waiting &&
      (connection.readable || connection.ended || connection.input_end > connection.input_begin)) {
    mark_ready(connection);
  }
}

/// Clients that have taken nothing of their replies for too long.
void Proxy::drop_stalled(Nanos now) {
  while (!stalled_.empty()) {
    Connection& connection = connections_[stalled_.front()];
    Stall& stall = stalls_[connection.index];
    const bool over = !connection.open() || connection.id != stall.id || !connection.write_blocked;
    if (!over && now - stall.since < options_.output_stall) return;
    stalled_.pop();
    connection.in_stalled = false;
    if (over) {
      // It may have stalled anew, as another connection or at another place.
      if (connection.open() && connection.write_blocked) {
        connection.in_stalled = true;
        stall = {now, connection.id, connection.bytes_sent};
        stalled_.push(connection.index);
      }
    } else if (connection.bytes_sent != stall.bytes_sent) {
      connection.in_stalled = true;
      stall = {now, connection.id, connection.bytes_sent};
      stalled_.push(connection.index);
    } else {
      abort(connection, ProxyCounter::kCloseOutputStalled);
    }
  }
}

/// No further commands; the connection is closed once its replies are sent.
void Proxy::close_after_replies(Connection& connection, ProxyCounter reason) {
  if (connection.closing) return;
  connection.closing = true;
  connection.close_reason = reason;
  mark_dirty(connection);
}

/// Closes without sending what is left, at the end of the turn.
void Proxy::abort(Connection& connection, ProxyCounter reason) {
  connection.aborted = true;
  connection.closing = true;
  connection.close_reason = reason;
  mark_dirty(connection);
}

void Proxy::destroy(Connection& connection, ProxyCounter reason) {
  counters_[reason].add();
  counters_[ProxyCounter::kConnectionsOpen].set(counters_[ProxyCounter::kConnectionsOpen].get() -
                                                1);
  close(connection.descriptor);
  connection.out.clear(chunks_);
  connection.transaction.clear(chunks_);
  while (connection.slots_first != kNone) {
    const std::uint32_t index = connection.slots_first;
    Slot& slot = slots_[index];
    connection.slots_first = slot.next;
    slot.bytes.clear(chunks_);
    slot.connection = kNone;
    if (slot.done) give_back(index);  // others are given back when the cluster answers
  }
  if (connection.input_high > 16'384) {
    madvise(input_block(connection), kInputStride, MADV_DONTNEED);
  }
  // The queues may still hold the index; their flags stay with it.
  Connection next;
  next.index = connection.index;
  next.in_ready = connection.in_ready;
  next.in_dirty = connection.in_dirty;
  next.in_waiting = connection.in_waiting;
  next.in_stalled = connection.in_stalled;
  connection = std::move(next);
  connections_free_.push_back(connection.index);
}

}  // namespace annulus::proxy
