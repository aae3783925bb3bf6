#include "tools/proxy/local_commands.h"

#include <arpa/inet.h>
#include <fnmatch.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace annulus::proxy {
namespace {

constexpr std::string_view kSyntaxError = "ERR syntax error";
constexpr std::size_t kNameBytesMax = 1'024;

/// Shown by CLIENT LIST unquoted, so nothing that could be mistaken for its syntax.
bool valid_client_name(std::string_view name) {
  for (char c : name) {
    if (c < '!' || c > '~') return false;
  }
  return true;
}

std::string quoted_error(std::string_view before, std::string_view quoted,
                         std::string_view after = "'") {
  std::string text(before);
  text += quoted.substr(0, 128);
  text += after;
  return text;
}

void ping(std::span<const std::string_view> arguments, RespWriter& writer) {
  if (arguments.size() > 2) {
    writer.error("ERR wrong number of arguments for 'ping' command");
  } else if (arguments.size() == 2) {
    writer.bulk(arguments[1]);
  } else {
    writer.raw("+PONG\r\n");
  }
}

/// There are no passwords: the default user logs in with any.
void auth(std::span<const std::string_view> arguments, RespWriter& writer) {
  if (arguments.size() > 3) {
    writer.error(kSyntaxError);
  } else if (arguments.size() == 2) {
    writer.error(
        "ERR AUTH <password> called without any password configured for the default user. Are you "
        "sure your configuration is correct?");
  } else if (arguments[1] != "default") {
    writer.error("WRONGPASS invalid username-password pair or user is disabled.");
  } else {
    writer.ok();
  }
}

void select(std::span<const std::string_view> arguments, RespWriter& writer) {
  std::int64_t index = 0;
  if (!parse_integer(arguments[1], index)) {
    writer.error("ERR value is not an integer or out of range");
  } else if (index > INT32_MAX || index < INT32_MIN) {
    writer.error("ERR value is out of range, value must between -2147483648 and 2147483647");
  } else if (index != 0) {
    writer.error("ERR DB index is out of range");
  } else {
    writer.ok();
  }
}

}  // namespace

LocalCommands::LocalCommands(std::span<const Connection> connections,
                             const dataplane::Counters<ProxyCounter>& counters)
    : connections_(connections), counters_(counters) {}

void LocalCommands::execute(const CommandInfo& command, Strings arguments, Connection& connection,
                            Nanos now, RespWriter& writer) const {
  switch (command.id) {
    case CommandId::kPing:
      return ping(arguments, writer);
    case CommandId::kEcho:
      return writer.bulk(arguments[1]);
    case CommandId::kHello:
      return hello(arguments, connection, writer);
    case CommandId::kAuth:
      return auth(arguments, writer);
    case CommandId::kSelect:
      return select(arguments, writer);
    case CommandId::kInfo:
      return info(arguments, now, writer);
    case CommandId::kConfigGet:
      return config_get(arguments, writer);
    case CommandId::kCommand:
    case CommandId::kCommandCount:
    case CommandId::kCommandDocs:
    case CommandId::kCommandInfo:
    case CommandId::kCommandList:
      return command_introspection(command, arguments, writer);
    default:
      return client(command, arguments, connection, now, writer);
  }
}

void LocalCommands::hello(Strings arguments, Connection& connection, RespWriter& writer) const {
  bool resp3 = connection.resp3;
  if (arguments.size() > 1) {
    std::int64_t version = 0;
    if (!parse_integer(arguments[1], version)) {
      return writer.error("ERR Protocol version is not an integer or out of range");
    }
    if (version < 2 || version > 3) return writer.error("NOPROTO unsupported protocol version");
    resp3 = version == 3;
  }
  std::string_view name;
  for (std::size_t i = 2; i < arguments.size(); ++i) {
    const std::size_t more = arguments.size() - 1 - i;
    if (equals_ignoring_case(arguments[i], "AUTH") && more >= 2) {
      if (arguments[i + 1] != "default") {
        return writer.error("WRONGPASS invalid username-password pair or user is disabled.");
      }
      i += 2;
    } else if (equals_ignoring_case(arguments[i], "SETNAME") && more >= 1) {
      name = arguments[++i];
      if (!valid_client_name(name) || name.size() > kNameBytesMax) {
        return writer.error(
            "ERR Client names cannot contain spaces, newlines or special characters.");
      }
    } else {
      return writer.error(quoted_error("ERR Syntax error in HELLO option '", arguments[i]));
    }
  }
  if (name.data() != nullptr) connection.name = name;
  connection.resp3 = resp3;
  writer.set_resp3(resp3);
  writer.map(7);
  writer.bulk("server");
  writer.bulk("redis");
  writer.bulk("version");
  writer.bulk(kRedisVersion);
  writer.bulk("proto");
  writer.integer(resp3 ? 3 : 2);
  writer.bulk("id");
  writer.integer(static_cast<std::int64_t>(connection.id));
  writer.bulk("mode");
  writer.bulk("standalone");
  writer.bulk("role");
  writer.bulk("master");
  writer.bulk("modules");
  writer.array(0);
}

void LocalCommands::client(const CommandInfo& command, Strings arguments, Connection& connection,
                           Nanos now, RespWriter& writer) const {
  switch (command.id) {
    case CommandId::kClientId:
      return writer.integer(static_cast<std::int64_t>(connection.id));
    case CommandId::kClientGetName:
      return connection.name.empty() ? writer.null() : writer.bulk(connection.name);
    case CommandId::kClientSetName:
      if (!valid_client_name(arguments[2]) || arguments[2].size() > kNameBytesMax) {
        return writer.error(
            "ERR Client names cannot contain spaces, newlines or special characters.");
      }
      connection.name = arguments[2];
      return writer.ok();
    case CommandId::kClientSetInfo:
      if (!equals_ignoring_case(arguments[2], "LIB-NAME") &&
          !equals_ignoring_case(arguments[2], "LIB-VER")) {
        return writer.error(quoted_error("ERR Unrecognized option '", arguments[2]));
      }
      return writer.ok();
    case CommandId::kClientList:
      return client_list(arguments, now, writer);
    case CommandId::kClientInfo:
      return writer.verbatim(client_line(connection, now));
    default:  // NO-EVICT, NO-TOUCH: nothing is evicted here
      if (!equals_ignoring_case(arguments[2], "ON") && !equals_ignoring_case(arguments[2], "OFF")) {
        return writer.error(kSyntaxError);
      }
      return writer.ok();
  }
}

std::string LocalCommands::client_line(const Connection& connection, Nanos now) const {
  char peer[INET_ADDRSTRLEN] = "";
  inet_ntop(AF_INET, &connection.peer.sin_addr, peer, sizeof(peer));
  std::string line = "id=" + std::to_string(connection.id);
  const auto field = [&line](const char* name, const std::string& value) {
    line += ' ';
    line += name;
    line += '=';
    line += value;
  };
  const auto seconds = [now](Nanos since) { return std::to_string((now - since) / kSecond); };
  field("addr", std::string(peer) + ":" + std::to_string(ntohs(connection.peer.sin_port)));
  field("laddr", facts_.address + ":" + std::to_string(facts_.port));
  field("fd", std::to_string(connection.descriptor));
  field("name", connection.name);
  field("age", seconds(connection.opened_at));
  field("idle", seconds(connection.active_at));
  field("flags", connection.transaction.open() ? "x" : "N");
  field("db", "0");
  field("multi", connection.transaction.open() ? std::to_string(connection.transaction.count())
                                               : std::string("-1"));
  field("qbuf", std::to_string(connection.input_end - connection.input_begin));
  field("oll", std::to_string(connection.pending));
  field("omem", std::to_string(connection.out.bytes()));
  field("cmd",
        connection.last_command == nullptr ? "NULL" : std::string(connection.last_command->name));
  field("user", "default");
  field("resp", connection.resp3 ? "3" : "2");
  line += '\n';
  return line;
}

void LocalCommands::client_list(Strings arguments, Nanos now, RespWriter& writer) const {
  const bool all = arguments.size() == 2;
  const bool of_type = arguments.size() == 4 && equals_ignoring_case(arguments[2], "TYPE");
  if (!all && !of_type) return writer.error(kSyntaxError);
  if (of_type && !equals_ignoring_case(arguments[3], "normal")) {
    return writer.error(quoted_error("ERR Unknown client type '", arguments[3]));
  }
  std::string text;
  for (const Connection& connection : connections_) {
    if (connection.open()) text += client_line(connection, now);
  }
  writer.verbatim(text);
}

void LocalCommands::config_get(Strings arguments, RespWriter& writer) const {
  const std::pair<std::string_view, std::string> parameters[] = {
      {"appendonly", "no"},
      {"bind", facts_.address},
      {"databases", "1"},
      {"maxclients", std::to_string(facts_.clients_max)},
      {"maxmemory", "0"},
      {"maxmemory-policy", "noeviction"},
      {"port", std::to_string(facts_.port)},
      {"proto-max-bulk-len", std::to_string(kArgumentBytesMax)},
      {"requirepass", ""},
      {"save", ""},
      {"tcp-keepalive", "60"},
      {"timeout", "0"},
  };
  std::vector<const std::pair<std::string_view, std::string>*> matches;
  for (const auto& parameter : parameters) {
    for (std::size_t i = 2; i < arguments.size(); ++i) {
      const std::string pattern(arguments[i]);
      if (fnmatch(pattern.c_str(), parameter.first.data(), FNM_CASEFOLD) == 0) {
        matches.push_back(&parameter);
        break;
      }
    }
  }
  writer.map(matches.size());
  for (const auto* match : matches) {
    writer.bulk(match->first);
    writer.bulk(match->second);
  }
}

void LocalCommands::info(Strings arguments, Nanos now, RespWriter& writer) const {
  const auto wanted = [arguments](std::string_view section) {
    if (arguments.size() == 1) return true;
    for (std::string_view argument : arguments.subspan(1)) {
      if (equals_ignoring_case(argument, section) || equals_ignoring_case(argument, "default") ||
          equals_ignoring_case(argument, "all") || equals_ignoring_case(argument, "everything")) {
        return true;
      }
    }
    return false;
  };
  std::string text;
  const auto section = [&text](const char* name) {
    if (!text.empty()) text += "\r\n";
    text += std::string("# ") + name + "\r\n";
  };
  const auto field = [&text](std::string_view name, std::string_view value) {
    text += name;
    text += ':';
    text += value;
    text += "\r\n";
  };
  const auto count = [this](ProxyCounter which) { return std::to_string(counters_[which].get()); };
  if (wanted("server")) {
    section("Server");
    field("redis_version", kRedisVersion);
    field("redis_mode", "standalone");
    field("annulus_version", kVersion);
    field("annulus_mode", facts_.mode);
    field("process_id", std::to_string(getpid()));
    field("tcp_port", std::to_string(facts_.port));
    field("uptime_in_seconds", std::to_string((now - started_) / kSecond));
    field("uptime_in_days", std::to_string((now - started_) / kSecond / 86'400));
  }
  if (wanted("clients")) {
    section("Clients");
    field("connected_clients", count(ProxyCounter::kConnectionsOpen));
    field("maxclients", std::to_string(facts_.clients_max));
  }
  if (wanted("stats")) {
    section("Stats");
    const auto commands = counters_[ProxyCounter::kCommandsLocal].get() +
                          counters_[ProxyCounter::kCommandsReplicated].get();
    field("total_connections_received", count(ProxyCounter::kConnectionsAccepted));
    field("total_commands_processed", std::to_string(commands));
    field("total_net_input_bytes", count(ProxyCounter::kBytesIn));
    field("total_net_output_bytes", count(ProxyCounter::kBytesOut));
    field("rejected_connections", count(ProxyCounter::kRefuseClientsMax));
  }
  if (wanted("replication")) {
    section("Replication");
    field("role", "master");
    field("connected_slaves", "0");
  }
  if (wanted("annulus")) {
    section("Annulus");
    const auto names = dataplane::Counters<ProxyCounter>::names();
    for (std::size_t i = 0; i < names.size(); ++i) {
      field(names[i], std::to_string(counters_.values()[i].get()));
    }
  }
  writer.verbatim(text);
}

}  // namespace annulus::proxy
