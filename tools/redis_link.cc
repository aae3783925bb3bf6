#include "tools/redis_link.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace annulus::tools {

std::uint16_t free_tcp_port() {
  const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  CHECK(bind(probe, reinterpret_cast<const sockaddr*>(&address), length) == 0);
  CHECK(getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  close(probe);
  return ntohs(address.sin_port);
}

Result<RedisLink> RedisLink::connect(const dataplane::Endpoint& server) {
  RedisLink link(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server.port);
  address.sin_addr.s_addr = htonl(server.address);
  if (::connect(link.descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
      0) {
    return Error{dataplane::to_string(server) + ": cannot connect (" + std::strerror(errno) + ")"};
  }
  const int on = 1;
  setsockopt(link.descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const timeval patience{5, 0};
  setsockopt(link.descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(link.descriptor_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  return link;
}

RedisLink::RedisLink(RedisLink&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), input_(std::move(other.input_)) {}

RedisLink::~RedisLink() {
  if (descriptor_ >= 0) close(descriptor_);
}

Result<std::vector<std::string>> RedisLink::call(
    const std::vector<std::vector<std::string>>& commands) {
  std::string request;
  for (const std::vector<std::string>& command : commands) {
    request += "*" + std::to_string(command.size()) + "\r\n";
    for (const std::string& word : command) {
      request += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
    }
  }
  const Error lost{"the proxy closed the connection, or did not answer for 5 s"};
  for (std::size_t sent = 0; sent < request.size();) {
    const ssize_t n = send(descriptor_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return lost;
    sent += static_cast<std::size_t>(n);
  }
  std::vector<std::string> replies(commands.size());
  for (std::string& reply : replies) {
    if (!read_reply(reply)) return lost;
  }
  input_.erase(0, std::exchange(at_, 0));
  return replies;
}

bool RedisLink::read_more() {
  char part[16'384];
  const ssize_t n = recv(descriptor_, part, sizeof part, 0);
  if (n <= 0) return false;
  input_.append(part, static_cast<std::size_t>(n));
  return true;
}

bool RedisLink::read_line(std::string& reply) {
  std::size_t end;
  while ((end = input_.find("\r\n", at_)) == std::string::npos) {
    if (!read_more()) return false;
  }
  reply.append(input_, at_, end - at_);
  at_ = end + 2;
  return true;
}

bool RedisLink::read_reply(std::string& reply) {
  const std::size_t begin = reply.size();
  if (!read_line(reply)) return false;
  const char type = reply[begin];
  if (type != '$' && type != '*') return true;
  const long count = std::strtol(reply.c_str() + begin + 1, nullptr, 10);
  if (type == '*') {
    for (long i = 0; i < count; ++i) {
      reply += "\r\n";
      if (!read_reply(reply)) return false;
    }
    return true;
  }
  if (count < 0) return true;
  const auto bytes = static_cast<std::size_t>(count);
  while (input_.size() - at_ < bytes + 2) {
    if (!read_more()) return false;
  }
  reply += "\r\n" + input_.substr(at_, bytes);
  at_ += bytes + 2;
  return true;
}

}  // namespace annulus::tools
