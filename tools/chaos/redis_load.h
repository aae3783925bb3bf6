// Commands through the proxy: a few connections, pipelined as far as arrivals demand, made again
// when they break. What was sent on a connection that broke has an unknown outcome.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "dataplane/transport.h"
#include "tools/chaos/history.h"

namespace annulus::chaos {

class RedisLoad {
 public:
  /// `epoll` (not owned) tells what waits on the connections.
  RedisLoad(const dataplane::Endpoint& proxy, History& history, int epoll);
  RedisLoad(const RedisLoad&) = delete;
  RedisLoad& operator=(const RedisLoad&) = delete;
  ~RedisLoad();

  /// False while no connection stands.
  bool submit(const Command& command, Nanos intended, Nanos now);
  /// Connects, sends and receives what is possible. Returns the number of commands answered.
  std::uint32_t poll(Nanos now);
  std::uint32_t outstanding() const;
  std::uint64_t connections_lost() const { return lost_; }
  /// When a connection is tried again, or kNever.
  Nanos deadline() const;

 private:
  static constexpr std::size_t kConnections = 6;
  static constexpr Nanos kRetry = 20 * kMillisecond;

  struct Connection {
    int descriptor = -1;  // -1: to be connected at next_try
    bool stands = false;
    Nanos next_try = 0;
    std::string output;
    std::string input;
    std::deque<std::uint64_t> in_flight;  // ids, in the order of their replies
  };

  void open(Connection& connection, Nanos now);
  void look_at_begun(Connection& connection);
  void drop(Connection& connection, Nanos now);
  bool flush(Connection& connection);
  bool receive(Connection& connection, Nanos now, std::uint32_t& answered);
  std::uint32_t take_replies(Connection& connection, Nanos now);

  const dataplane::Endpoint proxy_;
  History& history_;
  const int epoll_;
  std::vector<Connection> connections_{kConnections};
  std::size_t next_ = 0;
  std::uint64_t lost_ = 0;
};

/// Bytes of the first whole reply in `input`, 0 if it is not all there.
std::size_t reply_bytes(std::string_view input);

}  // namespace annulus::chaos
