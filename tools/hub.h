// `annulus hub`: the software switch that joins memif nodes on one machine, and the client of its
// control socket.
#pragma once

namespace CLI {
class App;
}

namespace annulus::tools {

/// Adds the subcommand; `status` becomes the process's exit status when it ran.
void add_hub_command(CLI::App& app, int& status);

}  // namespace annulus::tools
