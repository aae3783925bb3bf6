#include "tools/config_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/config.h"
#include "tools/node.h"
#include "tools/transports.h"

namespace annulus::tools {
namespace {

struct Arguments {
  std::string file;
  std::string name;
  bool json = false;
};

/// Loads, and prints warnings or the mistakes. Nothing on failure.
std::optional<Config> load(const std::string& file) {
  Result<Config> config = load_config(file);
  if (!config) {
    print_error(config.error().message);
    return std::nullopt;
  }
  for (const std::string& warning : config->warnings) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  return std::move(config).value();
}

/// Every line as a TOML comment, so that what `show` prints is a configuration.
std::string commented(const std::string& text) {
  std::string out;
  bool begins = true;
  for (const char c : text) {
    if (begins) out += "#   ";
    out += c;
    begins = c == '\n';
  }
  return out;
}

int check(const Arguments& arguments) {
  if (arguments.json) {
    const Result<Config> config = load_config(arguments.file);
    nlohmann::json report = {{"file", arguments.file}, {"valid", config.ok()}};
    report["warnings"] = config ? config->warnings : std::vector<std::string>{};
    if (!config) report["error"] = config.error().message;
    std::printf("%s\n", report.dump(2).c_str());
    return config ? 0 : 1;
  }
  const std::optional<Config> config = load(arguments.file);
  if (!config) return 1;
  const ClusterConfig& cluster = config->cluster;
  std::printf("%s is valid: %u acceptors, %u replicas, %u proxies; fingerprint %016llx\n",
              arguments.file.c_str(), cluster.count(NodeKind::kAcceptor),
              cluster.count(NodeKind::kReplica), cluster.count(NodeKind::kProxy),
              static_cast<unsigned long long>(fingerprint(cluster)));
  return 0;
}

/// The effective configuration; for one node also where it runs and what memory it takes.
int show(const Arguments& arguments) {
  const std::optional<Config> config = load(arguments.file);
  if (!config) return 1;
  std::printf("%s", to_toml(*config).c_str());
  bool found = arguments.name.empty();
  for (const NodeConfig& node : config->cluster.nodes) {
    if (!arguments.name.empty() && node.name != arguments.name) continue;
    found = true;
    const Result<std::string> plan =
        core_plan_text(config->process, node, host_of(config->cluster, node));
    if (!plan) {
      print_error(arguments.file + ": " + plan.error().message);
      return 1;
    }
    std::printf("\n# %s: cores\n%s# %s: memory\n%s", node.name.c_str(), commented(*plan).c_str(),
                node.name.c_str(), commented(memory_plan(config->cluster, node)).c_str());
  }
  if (found) return 0;
  print_error(arguments.file + ": has no node '" + arguments.name +
              "'; its nodes are: " + config->cluster.names());
  return 1;
}

}  // namespace

void print_error(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
}

void add_config_command(CLI::App& app, int& status) {
  CLI::App* config = app.add_subcommand("config", "Validate and explain a configuration file");
  config->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();

  CLI::App* check_command =
      config->add_subcommand("check", "Report every mistake with its line; exit 1 if there is one");
  check_command->add_option("file", arguments->file, "Configuration file")->required();
  check_command->add_flag("--json", arguments->json, "Report as one JSON object");
  CLI::App* show_command = config->add_subcommand(
      "show", "Print the effective configuration, and each node's core plan and memory");
  show_command->add_option("file", arguments->file, "Configuration file")->required();
  show_command->add_option("--name", arguments->name, "Of this node only");
  show_command->callback([arguments, &status] { status = show(*arguments); });
  check_command->callback([arguments, &status] { status = check(*arguments); });
}

}  // namespace annulus::tools
