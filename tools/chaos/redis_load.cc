#include "tools/chaos/redis_load.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace annulus::chaos {

std::size_t reply_bytes(std::string_view input) {
  std::size_t at = 0;
  for (long items = 1; items > 0; --items) {
    const std::size_t end = input.find("\r\n", at);
    if (end == std::string_view::npos) return 0;
    const char type = input[at];
    const long count =
        std::strtol(std::string(input.substr(at + 1, end - at - 1)).c_str(), nullptr, 10);
    at = end + 2;
    if (type == '*') items += std::max(0L, count);
    if (type == '$' && count >= 0) at += static_cast<std::size_t>(count) + 2;
    if (at > input.size()) return 0;
  }
  return at;
}

RedisLoad::RedisLoad(const dataplane::Endpoint& proxy, History& history, int epoll)
    : proxy_(proxy), history_(history), epoll_(epoll) {}

RedisLoad::~RedisLoad() {
  for (const Connection& connection : connections_) {
    if (connection.descriptor >= 0) close(connection.descriptor);
  }
}

void RedisLoad::open(Connection& connection, Nanos now) {
  connection.next_try = now + kRetry;
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(proxy_.port);
  address.sin_addr.s_addr = htonl(proxy_.address);
  if (connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      errno != EINPROGRESS) {
    close(descriptor);
    return;
  }
  connection.descriptor = descriptor;
}

/// Whether a connection that was begun stands by now; one that cannot is closed.
void RedisLoad::look_at_begun(Connection& connection) {
  pollfd wait{connection.descriptor, POLLOUT, 0};
  if (::poll(&wait, 1, 0) <= 0) return;
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(connection.descriptor, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) {
    close(std::exchange(connection.descriptor, -1));
    return;
  }
  const int on = 1;
  setsockopt(connection.descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  epoll_event event{.events = EPOLLIN, .data = {}};
  epoll_ctl(epoll_, EPOLL_CTL_ADD, connection.descriptor, &event);
  connection.stands = true;
}

void RedisLoad::drop(Connection& connection, Nanos now) {
  close(connection.descriptor);
  for (const std::uint64_t id : connection.in_flight) {
    history_.finish(id, End::kUnknown, {}, now);
  }
  connection = {.next_try = now + kRetry};
  ++lost_;
}

bool RedisLoad::submit(const Command& command, Nanos intended, Nanos now) {
  for (std::size_t i = 0; i < kConnections; ++i) {
    Connection& connection = connections_[next_++ % kConnections];
    if (!connection.stands) continue;
    const std::vector<std::string> words = words_of(command);
    connection.output += "*" + std::to_string(words.size()) + "\r\n";
    for (const std::string& word : words) {
      connection.output += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
    }
    connection.in_flight.push_back(history_.begin(command, false, intended, now));
    return true;
  }
  return false;
}

bool RedisLoad::flush(Connection& connection) {
  while (!connection.output.empty()) {
    const ssize_t n = send(connection.descriptor, connection.output.data(),
                           connection.output.size(), MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN;
    connection.output.erase(0, static_cast<std::size_t>(n));
  }
  return true;
}

std::uint32_t RedisLoad::take_replies(Connection& connection, Nanos now) {
  std::uint32_t answered = 0;
  std::string_view rest = connection.input;
  while (!connection.in_flight.empty()) {
    const std::size_t bytes = reply_bytes(rest);
    if (bytes == 0) break;
    const std::uint64_t id = connection.in_flight.front();
    connection.in_flight.pop_front();
    history::Outcome outcome;
    const End end = end_of(history_.entries()[id - 1].command, rest.substr(0, bytes), outcome);
    history_.finish(id, end, std::move(outcome), now);
    rest.remove_prefix(bytes);
    answered += end == End::kAnswered ? 1 : 0;
  }
  connection.input.erase(0, connection.input.size() - rest.size());
  return answered;
}

bool RedisLoad::receive(Connection& connection, Nanos now, std::uint32_t& answered) {
  char part[16'384];
  while (true) {
    const ssize_t n = recv(connection.descriptor, part, sizeof part, 0);
    if (n > 0) connection.input.append(part, static_cast<std::size_t>(n));
    answered += take_replies(connection, now);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return false;
    if (n < 0) return true;
  }
}

std::uint32_t RedisLoad::poll(Nanos now) {
  std::uint32_t answered = 0;
  for (Connection& connection : connections_) {
    if (connection.descriptor < 0 && now >= connection.next_try) open(connection, now);
    if (connection.descriptor >= 0 && !connection.stands) look_at_begun(connection);
    if (!connection.stands) continue;
    if (!flush(connection) || !receive(connection, now, answered)) drop(connection, now);
  }
  return answered;
}

std::uint32_t RedisLoad::outstanding() const {
  std::size_t sum = 0;
  for (const Connection& connection : connections_) sum += connection.in_flight.size();
  return static_cast<std::uint32_t>(sum);
}

Nanos RedisLoad::deadline() const {
  Nanos first = kNever;
  for (const Connection& connection : connections_) {
    if (connection.descriptor < 0) first = std::min(first, connection.next_try);
  }
  return first;
}

}  // namespace annulus::chaos
