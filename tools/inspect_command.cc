#include "tools/inspect_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "recovery/log_scan.h"
#include "recovery/uring_disk.h"
#include "tools/config_command.h"

namespace annulus::tools {
namespace {

using consensus::Instance;
using recovery::BlockState;
using recovery::LogIdentity;
using recovery::LogScan;

struct Arguments {
  std::string path;
  bool json = false;
};

nlohmann::json describe(const std::string& path, const LogIdentity& identity, const LogScan& scan) {
  nlohmann::json damage = nlohmann::json::array();
  for (const recovery::DamagedBlocks& lost : scan.damage) {
    damage.push_back(
        {{"from", lost.from}, {"below", lost.below}, {"state", to_string(lost.state)}});
  }
  nlohmann::json missing = nlohmann::json::array();
  for (const Instance instance : scan.recovered.missing) missing.push_back(raw(instance));
  const bool superblocks =
      scan.superblocks[0] == BlockState::kValid && scan.superblocks[1] == BlockState::kValid;
  return {{"path", path},
          {"intact", scan.damage.empty() && superblocks},
          {"cluster", identity.cluster},
          {"node", raw(identity.node)},
          {"epoch", scan.superblock.header.epoch.get()},
          {"superblocks", {to_string(scan.superblocks[0]), to_string(scan.superblocks[1])}},
          {"promised_round", round_of(scan.recovered.promised)},
          {"promised_to", raw(coordinator_of(scan.recovered.promised))},
          {"blocks", scan.superblock.blocks.get()},
          {"blocks_used", scan.tail},
          {"blocks_durable_at_least", scan.superblock.covered.get()},
          {"records", scan.records},
          {"records_cut", scan.cut_records},
          {"value_bytes", scan.value_bytes},
          {"chosen_below", raw(scan.recovered.chosen_below)},
          {"accepted_below", raw(scan.accepted_below)},
          {"undecided", scan.recovered.accepted.size()},
          {"unknown", {raw(scan.recovered.unknown.from), raw(scan.recovered.unknown.below)}},
          {"missing", std::move(missing)},
          {"damage", std::move(damage)}};
}

void print(const nlohmann::json& log) {
  const auto number = [&](const char* key) { return log[key].get<std::uint64_t>(); };
  std::printf("%s: acceptor %llu of cluster %016llx, epoch %llu\n",
              log["path"].get<std::string>().c_str(),
              static_cast<unsigned long long>(number("node")),
              static_cast<unsigned long long>(number("cluster")),
              static_cast<unsigned long long>(number("epoch")));
  std::printf("  promised   round %llu of node %llu; superblocks %s, %s\n",
              static_cast<unsigned long long>(number("promised_round")),
              static_cast<unsigned long long>(number("promised_to")),
              log["superblocks"][0].get<std::string>().c_str(),
              log["superblocks"][1].get<std::string>().c_str());
  std::printf("  blocks     %llu of %llu used, each of %u bytes\n",
              static_cast<unsigned long long>(number("blocks_used")),
              static_cast<unsigned long long>(number("blocks")), recovery::kBlockBytes);
  std::printf("  records    %llu, with %llu bytes of values; %llu cut at a tail\n",
              static_cast<unsigned long long>(number("records")),
              static_cast<unsigned long long>(number("value_bytes")),
              static_cast<unsigned long long>(number("records_cut")));
  std::printf("  instances  below %llu; known decided below %llu, %llu held beyond\n",
              static_cast<unsigned long long>(number("accepted_below")),
              static_cast<unsigned long long>(number("chosen_below")),
              static_cast<unsigned long long>(number("undecided")));
  for (const auto& lost : log["damage"]) {
    std::printf("  damaged    blocks %llu to %llu: %s\n",
                static_cast<unsigned long long>(lost["from"].get<std::uint64_t>()),
                static_cast<unsigned long long>(lost["below"].get<std::uint64_t>() - 1),
                lost["state"].get<std::string>().c_str());
  }
  if (!log["missing"].empty()) {
    std::printf("  missing    %zu decided instances, from %llu on: others have them\n",
                log["missing"].size(),
                static_cast<unsigned long long>(log["missing"][0].get<std::uint64_t>()));
  }
  if (log["unknown"][1] != 0) {
    std::printf("  unknown    accepts of instances %llu to %llu\n",
                static_cast<unsigned long long>(log["unknown"][0].get<std::uint64_t>()),
                static_cast<unsigned long long>(log["unknown"][1].get<std::uint64_t>() - 1));
  }
  std::printf("%s\n", log["intact"].get<bool>() ? "intact" : "DAMAGED");
}

Result<nlohmann::json> inspect(const std::string& path) {
  const std::string file = std::filesystem::is_directory(path) ? path + "/acceptor.log" : path;
  auto disk = recovery::UringDisk::open_to_read(file);
  if (!disk) return disk.error();
  const auto identity = recovery::read_identity(**disk);
  if (!identity) return identity.error();
  const auto scan = recovery::scan_log(**disk, *identity);
  if (!scan) return scan.error();
  return describe(file, *identity, **scan);
}

int run(const Arguments& arguments) {
  const auto log = inspect(arguments.path);
  if (!log) {
    if (arguments.json) {
      const nlohmann::json failed = {{"path", arguments.path}, {"error", log.error().message}};
      std::printf("%s\n", failed.dump(2).c_str());
    }
    print_error(log.error().message);
    return 1;
  }
  if (arguments.json) {
    std::printf("%s\n", log->dump(2).c_str());
  } else {
    print(*log);
  }
  return (*log)["intact"].get<bool>() ? 0 : 1;
}

}  // namespace

void add_inspect_command(CLI::App& app, int& status) {
  CLI::App* inspect =
      app.add_subcommand("inspect", "Read a node's files and verify every checksum");
  inspect->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* log = inspect->add_subcommand(
      "log", "An acceptor's log, of a running acceptor too; exit 1 if it is damaged");
  log->add_option("path", arguments->path, "The log, or the directory it is in")->required();
  log->add_flag("--json", arguments->json, "Report as one JSON object");
  log->callback([arguments, &status] { status = run(*arguments); });
}

}  // namespace annulus::tools
