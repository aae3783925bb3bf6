// `annulus top`: live counters of every process of this machine, from their telemetry sockets.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace annulus::tools {

void add_top_command(CLI::App& app, int& status);

/// The screen, line by line: what happened between two rounds of snapshots (as telemetry.h's JSON,
/// one a process). A process that is in `current` only counts from its start.
std::vector<std::string> render_top(const std::vector<std::string>& previous,
                                    const std::vector<std::string>& current);

}  // namespace annulus::tools
