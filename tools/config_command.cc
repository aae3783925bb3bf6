#include "tools/config_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/config.h"

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
  check_command->callback([arguments, &status] { status = check(*arguments); });
}

}  // namespace annulus::tools
