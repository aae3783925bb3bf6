// `annulus node` and `annulus proxy`: one node of a configuration as a process.
#pragma once

namespace CLI {
class App;
}

namespace annulus::tools {

void add_node_commands(CLI::App& app, int& status);

}  // namespace annulus::tools
