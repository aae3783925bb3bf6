#include "tools/cluster_command.h"

#include <sys/random.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "tools/config.h"
#include "tools/config_command.h"
#include "tools/members_answer.h"
#include "tools/telemetry.h"

namespace annulus::tools {
namespace {

using consensus::Change;
using consensus::ChangeVerb;
using nlohmann::json;

constexpr std::chrono::milliseconds kAskAgain{20};

struct Arguments {
  std::string file;
  std::string node;  // who comes, or goes
  std::string instead;
  std::uint64_t operation = 0;
  double seconds = 10;
  bool json = false;
};

/// What each acceptor of this machine that answers says, by its name.
std::map<std::string, json> ask_all(const Config& config, const std::string& query = "") {
  std::map<std::string, json> answers;
  for (const NodeConfig& node : config.cluster.nodes) {
    if (node.kind != NodeKind::kAcceptor) continue;
    const auto text = fetch_telemetry(telemetry_path(config.process.runtime, node.name),
                                      query.empty() ? "/members" : "/members?" + query);
    if (!text) continue;
    const json answer = json::parse(*text, nullptr, false);
    if (answer.is_object()) answers[node.name] = answer;
    // One is enough to pass a change on to whoever coordinates.
    if (!query.empty() && answer.value("standing", "") == "member") break;
  }
  return answers;
}

/// The one that knows most; fails if none answers.
Result<json> newest(const Config& config, const std::map<std::string, json>& answers) {
  const json* best = nullptr;
  for (const auto& [name, answer] : answers) {
    if (best == nullptr || answer["epoch"] > (*best)["epoch"]) best = &answer;
  }
  if (best != nullptr) return *best;
  return Error{config.path + ": none of its acceptors answers on this machine, at " +
               telemetry_path(config.process.runtime, "NAME") +
               "; run this where one of them runs, as the same user"};
}

std::string name_of(const Config& config, const json& member) {
  for (const NodeConfig& node : config.cluster.nodes) {
    if (dataplane::to_string(node.address) == member["address"]) return node.name;
  }
  return "-";
}

void print_members(const Config& config, const std::map<std::string, json>& answers,
                   const json& best) {
  std::printf("configuration %u, in force from instance %llu\n", best["epoch"].get<unsigned>(),
              best["from"].get<unsigned long long>());
  std::printf("%-10s %-16s %-9s %-22s %s\n", "kind", "name", "id", "address", "standing");
  for (const char* kind : {"acceptors", "replicas"}) {
    for (const json& member : best[kind]) {
      const std::string name = name_of(config, member);
      std::string standing = kind[0] == 'r' ? "" : "no answer here";
      if (const auto own = answers.find(name); own != answers.end()) {
        const bool current = own->second["epoch"] == best["epoch"] && own->second["settled"];
        standing = own->second["standing"].get<std::string>() + (current ? "" : ", catching up");
      }
      std::printf("%-10.*s %-16s %-9u %-22s %s\n", static_cast<int>(std::strlen(kind)) - 1, kind,
                  name.c_str(), member["id"].get<unsigned>(),
                  member["address"].get<std::string>().c_str(), standing.c_str());
    }
  }
  for (const auto& [name, answer] : answers) {
    if (answer["standing"] == "member") continue;
    std::printf("%s: %s\n", name.c_str(), answer["standing"].get<std::string>().c_str());
  }
}

int show_status(const Arguments& arguments, const Config& config) {
  const auto answers = ask_all(config);
  const auto best = newest(config, answers);
  if (!best) {
    print_error(best.error().message);
    return 1;
  }
  if (arguments.json) {
    std::printf("%s\n", json{{"members", *best}, {"by_node", answers}}.dump().c_str());
  } else {
    print_members(config, answers, *best);
  }
  if (arguments.operation == 0) return 0;
  const auto& done = (*best)["operations"];
  const bool found = std::find(done.begin(), done.end(), arguments.operation) != done.end();
  if (!arguments.json) {
    std::printf("operation %llu: %s\n", static_cast<unsigned long long>(arguments.operation),
                found ? "done" : "not done, or longer ago than the last eight");
  }
  return found ? 0 : 3;
}

/// A majority of the acceptors acts under a configuration that has the operation.
bool in_force(const Config& config, std::uint64_t operation, json& best) {
  const auto answers = ask_all(config);
  const auto known = newest(config, answers);
  if (!known) return false;
  best = *known;
  const auto& done = best["operations"];
  if (std::find(done.begin(), done.end(), operation) == done.end()) return false;
  std::size_t settled = 0;
  for (const auto& [name, answer] : answers) {
    settled +=
        answer["epoch"] == best["epoch"] && answer["settled"] && answer["standing"] == "member";
  }
  return 2 * settled > best["acceptors"].size();
}

Result<const NodeConfig*> find(const Config& config, const std::string& name) {
  if (const NodeConfig* node = config.cluster.find(name)) {
    if (node->kind == NodeKind::kAcceptor || node->kind == NodeKind::kReplica) return node;
    return Error{name + " is " + with_article(node->kind) +
                 ", which is no member: proxies come and go"};
  }
  return Error{config.path + ": has no node '" + name +
               "'; its nodes are: " + config.cluster.names()};
}

/// The member that stands at the node's address now.
Result<consensus::NodeId> member_at(const NodeConfig& node, const json& best) {
  for (const json& member : best[node.kind == NodeKind::kAcceptor ? "acceptors" : "replicas"]) {
    if (member["address"] == dataplane::to_string(node.address)) {
      return consensus::NodeId{member["id"].get<std::uint32_t>()};
    }
  }
  return Error{node.name + ", at " + dataplane::to_string(node.address) +
               ", is no member; see annulus cluster status"};
}

Result<Change> make_change(const Arguments& arguments, const Config& config, ChangeVerb verb,
                           const json& best) {
  const auto node = find(config, arguments.node);
  if (!node) return node.error();
  Change change;
  change.verb = verb;
  change.kind = (*node)->kind == NodeKind::kAcceptor ? consensus::JoinKind::kAcceptor
                                                     : consensus::JoinKind::kReplica;
  change.operation = arguments.operation;
  while (change.operation == 0) {
    CHECK(getrandom(&change.operation, sizeof change.operation, 0) == sizeof change.operation);
    change.operation >>= 1;
  }
  if (verb != ChangeVerb::kAdd) {
    const auto member = member_at(**node, best);
    if (!member) return member.error();
    change.member = *member;
  }
  const NodeConfig* comes = *node;
  if (verb == ChangeVerb::kReplace) {
    const auto other = find(config, arguments.instead);
    if (!other) return other.error();
    if ((*other)->kind != (*node)->kind) {
      return Error{arguments.instead + " is " + with_article((*other)->kind) + ", " +
                   arguments.node + " " + with_article((*node)->kind)};
    }
    comes = *other;
  }
  change.comes.endpoint = comes->address;
  change.partitions = comes->partitions;
  return change;
}

int change_members(const Arguments& arguments, const Config& config, ChangeVerb verb) {
  const auto best = newest(config, ask_all(config));
  if (!best) {
    print_error(best.error().message);
    return 1;
  }
  const auto change = make_change(arguments, config, verb, *best);
  if (!change) {
    print_error(change.error().message);
    return 1;
  }
  const auto until =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(arguments.seconds);
  std::string verdict = "no acceptor that is a member answers here";
  for (const auto& [name, answer] : ask_all(config, to_query(*change))) {
    if (answer["standing"] == "member") verdict = answer["verdict"];
  }
  const auto number = static_cast<unsigned long long>(change->operation);
  if (verdict != "allowed" && verdict != "done") {
    print_error("refused: " + verdict);
    return 1;
  }
  json now;
  while (!in_force(config, change->operation, now)) {
    if (std::chrono::steady_clock::now() > until) {
      print_error("operation " + std::to_string(number) + " is not done yet" +
                  (verb == ChangeVerb::kRemove
                       ? ""
                       : "; who is to come must be running, and ask to be admitted") +
                  ". Ask again: annulus cluster status --config " + config.path + " --operation " +
                  std::to_string(number));
      return 3;
    }
    std::this_thread::sleep_for(kAskAgain);
  }
  if (arguments.json) {
    std::printf("%s\n", json{{"operation", number}, {"members", now}}.dump().c_str());
  } else {
    std::printf("operation %llu: done, configuration %u in force from instance %llu\n", number,
                now["epoch"].get<unsigned>(), now["from"].get<unsigned long long>());
  }
  return 0;
}

template <typename Run>
void set_callback(CLI::App* command, std::shared_ptr<Arguments> arguments, int& status, Run run) {
  command->add_option("--config", arguments->file, "Configuration file")->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->callback([arguments, &status, run] {
    const Result<Config> config = load_config(arguments->file);
    if (!config) {
      print_error(config.error().message);
      status = 1;
      return;
    }
    status = run(*arguments, *config);
  });
}

}  // namespace

void add_cluster_command(CLI::App& app, int& status) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* cluster = app.add_subcommand("cluster", "Show who the members are, and change them");
  cluster->require_subcommand(1);
  CLI::App* show = cluster->add_subcommand("status", "Members, and how they stand");
  show->add_option("--operation", arguments->operation,
                   "Whether this change was done: exit status 0, or 3");
  set_callback(show, arguments, status, show_status);
  const auto changer = [&](const char* name, const char* text, ChangeVerb verb) {
    CLI::App* command = cluster->add_subcommand(name, text);
    command->add_option("node", arguments->node, "Its name in the configuration file")->required();
    if (verb == ChangeVerb::kReplace) {
      command->add_option("by", arguments->instead, "The name of who comes instead")->required();
    }
    command->add_option("--operation", arguments->operation,
                        "A number of your own for this change: repeated, it is done once");
    command->add_option("--seconds", arguments->seconds, "How long to wait for it");
    set_callback(command, arguments, status, [verb](const Arguments& given, const Config& config) {
      return change_members(given, config, verb);
    });
  };
  changer("add", "Admit an acceptor or a replica that runs and has joins = true", ChangeVerb::kAdd);
  changer("remove", "Take an acceptor or a replica out", ChangeVerb::kRemove);
  changer("replace", "Take an acceptor or a replica out and admit another in its place",
          ChangeVerb::kReplace);
}

}  // namespace annulus::tools
