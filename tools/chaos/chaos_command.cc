#include "tools/chaos/chaos_command.h"

#include <sys/random.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "tools/chaos/run.h"
#include "tools/config_command.h"
#include "tools/signals.h"

namespace annulus::chaos {
namespace {

struct Arguments {
  RunOptions run;
  std::string transport = "udp";
  std::string durability = "memory";
  std::string json;
  bool keep = false;
};

/// Below $TMPDIR, or /tmp.
Result<std::string> make_directory() {
  const char* parent = std::getenv("TMPDIR");
  std::string path =
      std::string(parent != nullptr && *parent != 0 ? parent : "/tmp") + "/annulus-chaos-XXXXXX";
  if (mkdtemp(path.data()) != nullptr) return path;
  return Error{path + ": cannot be made (" + std::strerror(errno) +
               "); set TMPDIR to a directory that this user may write to"};
}

int run(Arguments arguments) {
  // Before DPDK starts threads, which must inherit the mask.
  const tools::StopSignals signals;
  RunOptions& options = arguments.run;
  options.disk = arguments.durability == "disk";
  options.medium = arguments.transport == "udp"     ? Medium::kUdp
                   : arguments.transport == "memif" ? Medium::kMemif
                                                    : Medium::kVeth;
  while (options.seed == 0) {
    std::uint32_t seed = 0;  // few digits, as it will be typed again
    CHECK(getrandom(&seed, sizeof seed, 0) == sizeof seed);
    options.seed = seed;
  }
  auto directory = make_directory();
  if (!directory) {
    tools::print_error(directory.error().message);
    return 1;
  }
  options.directory = directory.value();
  auto report = run_chaos(options, signals);
  bool keep = true;
  bool written = true;
  if (report) {
    print_report(options, report.value());
    keep = arguments.keep || (report.value().failed() && !report.value().interrupted);
    if (keep) keep_evidence(options, report.value());
    if (!arguments.json.empty()) {
      const Status wrote = write_report(options, report.value(), arguments.json);
      if (!wrote) tools::print_error(wrote.error().message);
      written = wrote.ok();
    }
  } else {
    const bool interrupted = signals.wait(0);
    keep = !interrupted;
    tools::print_error(report.error().message + (keep ? "; logs are in " + options.directory : ""));
  }
  std::error_code failure;
  if (!keep) std::filesystem::remove_all(options.directory, failure);
  return report && !report.value().failed() && written ? 0 : 1;
}

}  // namespace

void add_chaos_command(CLI::App& app, int& status) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* chaos = app.add_subcommand(
      "chaos", "A cluster of processes under load and random faults; then every reply is verified");
  chaos->add_option("--minutes", arguments->run.minutes, "of faults")
      ->check(CLI::Range(0.05, 10'000.0))
      ->capture_default_str();
  chaos
      ->add_option("--transport", arguments->transport,
                   "between processes. veth: in the namespaces of tests/cluster/netns.sh")
      ->check(CLI::IsMember({"udp", "memif", "veth"}))
      ->capture_default_str();
  chaos->add_option("--durability", arguments->durability, "what the acceptors' votes survive")
      ->check(CLI::IsMember({"memory", "disk"}))
      ->capture_default_str();
  chaos
      ->add_option("--seed", arguments->run.seed,
                   "of faults and commands; when they meet is the machine's choice. 0: a new one")
      ->capture_default_str();
  chaos->add_option("--rate", arguments->run.rate, "commands a second, half through the proxy")
      ->check(CLI::Range(10.0, 100'000.0))
      ->capture_default_str();
  chaos->add_option("--namespaces", arguments->run.namespaces,
                    "veth: what the names of the network namespaces begin with");
  chaos->add_option("--json", arguments->json, "write the report to this file, too");
  chaos->add_flag("--keep", arguments->keep,
                  "keep the directory also of a run that went well: logs, faults, history");
  chaos->footer(
      "Kills (-9), stops and restarts nodes, one or more at a time, but never more than the\n"
      "cluster is to bear; over memif it also cuts, delays, loses, swaps and repeats frames, over\n"
      "veth it takes links down; with durability disk, and as root, one acceptor finds its disk\n"
      "full. A native client and a Redis client write and read the same keys all the while. Then\n"
      "all heals, every object is read through both, replicas are compared, and the history is\n"
      "checked: linearizable, nothing acknowledged lost, nothing executed twice. Exits with 1 if\n"
      "not, and keeps its directory.");
  chaos->callback([arguments, &status] { status = run(*arguments); });
}

}  // namespace annulus::chaos
