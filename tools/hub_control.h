// What may be told to a running hub, a line at a time over a Unix socket: faults, partitions,
// counters. A stage on the hub's core, so that faults change between two bursts.
#pragma once

#include <string>

#include "dataplane/dpdk/software_switch.h"
#include "dataplane/stage.h"

namespace annulus::tools {

/// The commands, for --help.
extern const char* const kHubCommands;

/// Carries out one command. The reply's lines, or what is wrong with the command.
Result<std::string> run_hub_command(dataplane::SoftwareSwitch& hub, const std::string& line);

/// Serves one client after the other at DIR/control.sock.
class HubControl final : public dataplane::Stage {
 public:
  explicit HubControl(dataplane::SoftwareSwitch& hub) : hub_(hub) {}
  HubControl(const HubControl&) = delete;
  HubControl& operator=(const HubControl&) = delete;
  ~HubControl() override;

  Status listen(const std::string& directory);
  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "control"; }

 private:
  void serve(int client);

  dataplane::SoftwareSwitch& hub_;
  std::string path_;
  int listener_ = -1;
  Nanos next_look_ = 0;
};

/// Sends one command to the hub of a directory and returns its reply.
Result<std::string> tell_hub(const std::string& directory, const std::string& command);

}  // namespace annulus::tools
