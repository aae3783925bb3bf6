#include "tools/dev.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/cluster.h"
#include "tools/config_command.h"
#include "tools/redis_link.h"
#include "tools/signals.h"
#include "tools/telemetry.h"

namespace annulus::tools {
namespace {

constexpr std::uint32_t kLoopback = 0x7f000001;

struct Arguments {
  std::uint16_t port = 6379;
  bool processes = false;
  std::string transport = "udp";
  std::string directory;
  std::string durability = "memory";
};

Status run_embedded(const Arguments& arguments, const StopSignals& signals) {
  const std::uint16_t port = arguments.port;
  ClusterOptions options;
  options.durability = arguments.durability == "disk" ? Durability::kDisk : Durability::kMemory;
  options.directory = arguments.directory;
  options.log_mb = kDevLogMb;
  for (const std::string& name : service_names()) options.service_names.push_back({name});
  options.services = service_factory(options.service_names);
  auto made = Cluster::create(options);
  if (!made) return made.error();
  Cluster& cluster = *made.value();
  const dataplane::Endpoint listen{kLoopback, port};
  if (Status added = cluster.add_proxy(listen); !added) return added;
  auto telemetry = TelemetryServer::start(cluster.registry(), "dev-" + std::to_string(port),
                                          options.process.runtime, {});
  if (!telemetry) return telemetry.error();
  if (Status started = cluster.start(); !started) return started;
  std::printf(
      "3 acceptors, 2 replicas and a proxy in this process; durability %s\n%s"
      "telemetry %s\n",
      arguments.durability.c_str(), cluster.plan().c_str(), telemetry.value()->path().c_str());
  if (Status served = wait_until_served(listen, signals); !served) return served;
  std::printf("ready\n");
  std::fflush(stdout);
  telemetry.value()->serve(signals.descriptor(), -1);
  return {};
}

int run(const Arguments& arguments) {
  const StopSignals signals;
  Status status;
  const bool disk = arguments.durability == "disk";
  const bool files = arguments.processes || disk;
  if (files && arguments.directory.empty()) {
    status =
        Error{"--processes and --durability disk keep files: name a directory for them with --dir"};
  } else if (!files && !arguments.directory.empty()) {
    status = Error{"--dir: nothing is kept there without --processes or --durability disk"};
  } else if (!arguments.processes) {
    status = run_embedded(arguments, signals);
  } else {
    status = run_dev_processes({.directory = arguments.directory,
                                .disk = disk,
                                .memif = arguments.transport == "memif",
                                .port = arguments.port},
                               signals);
  }
  if (status) return 0;
  print_error(status.error().message);
  return 1;
}

}  // namespace

Status wait_until_served(const dataplane::Endpoint& proxy, const StopSignals& signals,
                         const std::function<Status()>& watch) {
  std::string last;
  for (int attempt = 0; attempt < 600; ++attempt) {
    const Status goes_on = watch ? watch() : Status{};
    if (!goes_on) return goes_on;
    auto link = RedisLink::connect(proxy);
    if (link) {
      const auto replies = std::move(link).value().call({{"GET", "annulus:ready"}});
      if (replies && replies->front()[0] != '-') return {};
      last = replies ? replies->front() : replies.error().message;
    } else {
      last = link.error().message;
    }
    if (signals.wait(100)) return Error{"interrupted before the cluster served"};
  }
  return Error{"the cluster does not serve at " + dataplane::to_string(proxy) + ": " + last +
               "; see the nodes' logs, and 'annulus top' for what they wait for"};
}

void add_dev_command(CLI::App& app, int& status) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* dev = app.add_subcommand(
      "dev", "A cluster on this machine until interrupted; prints `ready` when it serves");
  dev->add_option("--port", arguments->port, "Redis protocol, on 127.0.0.1")
      ->check(CLI::Range(1, 65'535))
      ->capture_default_str();
  CLI::Option* processes = dev->add_flag(
      "--processes", arguments->processes,
      "One process a node. Writes DIR/cluster.toml, DIR/pids and logs; a node that was killed is "
      "started again by: annulus node --config DIR/cluster.toml --name NAME");
  dev->add_option("--transport", arguments->transport, "Between processes")
      ->check(CLI::IsMember({"udp", "memif"}))
      ->needs(processes)
      ->capture_default_str();
  dev->add_option("--dir", arguments->directory,
                  "Where --processes and --durability disk keep their files");
  dev->add_option("--durability", arguments->durability,
                  "What votes survive; with disk, a cluster that is in DIR is started again")
      ->check(CLI::IsMember({"memory", "disk"}))
      ->capture_default_str();
  dev->callback([arguments, &status] { status = run(*arguments); });
}

}  // namespace annulus::tools
