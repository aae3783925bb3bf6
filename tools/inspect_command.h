// `annulus inspect`: what lies in the files of a node, alive or dead, with every checksum verified.
#pragma once

namespace CLI {
class App;
}

namespace annulus::tools {

void add_inspect_command(CLI::App& app, int& status);

}  // namespace annulus::tools
