// `annulus config check|show`: validates a configuration and prints what it comes to.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace annulus::tools {

/// Adds the subcommand; `status` becomes the process's exit status when it ran.
void add_config_command(CLI::App& app, int& status);

/// Prints an error of a subcommand the one way.
void print_error(const std::string& message);

}  // namespace annulus::tools
