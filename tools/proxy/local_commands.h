// The commands that the proxy answers itself: connection, introspection, statistics.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "dataplane/counters.h"
#include "tools/proxy/connection.h"
#include "tools/proxy/resp_writer.h"

namespace annulus::proxy {

/// The Redis release whose replies and error texts these are.
constexpr std::string_view kRedisVersion = "7.0.15";
constexpr std::string_view kVersion = "0.1.0";

/// What the commands report about the proxy.
struct ProxyFacts {
  std::string address;
  std::uint16_t port = 0;
  std::uint32_t clients_max = 0;
  std::string mode;  // "replicated" or "client-server"
};

class LocalCommands {
 public:
  /// `connections` and `counters` are the proxy's and outlive this.
  LocalCommands(std::span<const Connection> connections,
                const dataplane::Counters<ProxyCounter>& counters);

  /// Known once the proxy listens.
  void set_facts(ProxyFacts facts) { facts_ = std::move(facts); }
  void set_started(Nanos now) { started_ = now; }

  /// Answers one command whose name and arity were checked. kQuit is the proxy's own.
  void execute(const CommandInfo& command, std::span<const std::string_view> arguments,
               Connection& connection, Nanos now, RespWriter& writer) const;

 private:
  using Strings = std::span<const std::string_view>;

  void hello(Strings arguments, Connection& connection, RespWriter& writer) const;
  void client(const CommandInfo& command, Strings arguments, Connection& connection, Nanos now,
              RespWriter& writer) const;
  void client_list(Strings arguments, Nanos now, RespWriter& writer) const;
  void config_get(Strings arguments, RespWriter& writer) const;
  void info(Strings arguments, Nanos now, RespWriter& writer) const;
  std::string client_line(const Connection& connection, Nanos now) const;

  std::span<const Connection> connections_;
  const dataplane::Counters<ProxyCounter>& counters_;
  ProxyFacts facts_;
  Nanos started_ = 0;
};

/// COMMAND and its subcommands, from the command table.
void command_introspection(const CommandInfo& command, std::span<const std::string_view> arguments,
                           RespWriter& writer);

}  // namespace annulus::proxy
