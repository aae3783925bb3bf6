// `annulus demo`: an embedded cluster under real client traffic, and a table of what it did.
#pragma once

namespace CLI {
class App;
}

namespace annulus::tools {

void add_demo_command(CLI::App& app, int& status);

}  // namespace annulus::tools
