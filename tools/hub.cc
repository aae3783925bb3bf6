#include "tools/hub.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <thread>

#include "dataplane/core_loop.h"
#include "dataplane/dpdk/software_switch.h"
#include "tools/config_command.h"
#include "tools/hub_control.h"

namespace annulus::tools {
namespace {

struct Arguments {
  dataplane::SwitchConfig hub;
  std::vector<std::string> faults;  // commands carried out before traffic starts
  std::string tell;
  std::string idle = "yield";
};

int tell(const Arguments& arguments) {
  const Result<std::string> reply = tell_hub(arguments.hub.directory, arguments.tell);
  if (!reply) {
    print_error(reply.error().message);
    return 1;
  }
  std::fputs(reply.value().c_str(), stdout);
  return 0;
}

int serve(const Arguments& arguments) {
  const auto idle = dataplane::parse_idle_policy(arguments.idle);
  if (!idle) {
    print_error("--idle: " + idle.error().message);
    return 1;
  }
  // The threads that DPDK starts inherit the mask, so the signals reach sigwait() below alone.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  auto hub = dataplane::SoftwareSwitch::open(arguments.hub);
  if (!hub) {
    print_error(hub.error().message);
    return 1;
  }
  HubControl control(*hub.value());
  if (const Status status = control.listen(arguments.hub.directory); !status) {
    print_error(status.error().message);
    return 1;
  }
  for (const std::string& command : arguments.faults) {
    if (const auto done = run_hub_command(*hub.value(), command); !done) {
      print_error(done.error().message);
      return 1;
    }
  }
  dataplane::TscClock clock;
  dataplane::CoreLoop loop({hub.value().get(), &control}, {.idle = idle.value()}, clock);
  std::thread core([&] {
    dataplane::register_dpdk_thread();
    loop.run();
  });
  std::printf("ready\n");
  std::fflush(stdout);
  int received = 0;
  sigwait(&stop_signals, &received);
  loop.stop();
  core.join();
  return 0;
}

}  // namespace

void add_hub_command(CLI::App& app, int& status) {
  CLI::App* hub = app.add_subcommand(
      "hub", "A software switch that joins memif nodes on this machine, and breaks on request");
  auto arguments = std::make_shared<Arguments>();
  dataplane::SwitchConfig& config = arguments->hub;
  config.eal.file_prefix = "annulus_hub";
  hub->add_option("--dir", config.directory, "Directory of the ports' sockets")->required();
  CLI::Option* ports =
      hub->add_option("--ports", config.ports, "Ports to serve: 1.sock, 2.sock ...");
  hub->add_option("--mtu", config.mtu, "Largest IPv4 packet")->capture_default_str();
  hub->add_option("--seed", config.seed, "Seed of what the faults draw")->capture_default_str();
  hub->add_option("--idle", arguments->idle, "spin, yield or sleep")->capture_default_str();
  hub->add_option("--fault", arguments->faults,
                  "A command to start with, such as 'loss 0.01'; may be repeated");
  hub->add_option("--tell", arguments->tell, "Sends one command to the running hub of --dir")
      ->excludes(ports);
  hub->footer(kHubCommands);
  hub->callback([arguments, &status] {
    status = arguments->tell.empty() ? serve(*arguments) : tell(*arguments);
  });
}

}  // namespace annulus::tools
