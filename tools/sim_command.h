// `annulus sim`: the deterministic simulator, which is an executable of its own because it compiles
// the whole library with planted defects.
#pragma once

namespace CLI {
class App;
}

namespace annulus::tools {

void add_sim_command(CLI::App& app, int& status);

}  // namespace annulus::tools
