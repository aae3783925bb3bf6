// A blocking connection to a Redis port, as little as the demo's traffic and the readiness check of
// `annulus dev` need.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/result.h"
#include "dataplane/transport.h"

namespace annulus::tools {

/// A port of 127.0.0.1 that nobody listens on now.
std::uint16_t free_tcp_port();

class RedisLink {
 public:
  static Result<RedisLink> connect(const dataplane::Endpoint& server);
  RedisLink(RedisLink&& other) noexcept;
  RedisLink& operator=(RedisLink&&) = delete;
  ~RedisLink();

  /// Sends commands in one go and reads a reply each: simple strings, integers, bulk strings and
  /// arrays, in wire form ("+OK", "$2\r\nhi"). Fails after 5 s without a byte.
  Result<std::vector<std::string>> call(const std::vector<std::vector<std::string>>& commands);

 private:
  explicit RedisLink(int descriptor) : descriptor_(descriptor) {}
  bool read_more();
  bool read_line(std::string& reply);
  bool read_reply(std::string& reply);

  int descriptor_ = -1;
  std::string input_;
  std::size_t at_ = 0;
};

}  // namespace annulus::tools
