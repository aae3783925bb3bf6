// `annulus cluster status|add|remove|replace`: who the members are, and changing them.
#pragma once

namespace CLI {
class App;
}

namespace annulus::tools {

/// Adds the subcommand; `status` becomes the process's exit status when it ran.
void add_cluster_command(CLI::App& app, int& status);

}  // namespace annulus::tools
