#include "tools/sim_command.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace annulus::tools {
namespace {

/// Becomes annulus-sim, which lies beside this binary. Returns only if that fails.
int run_simulator(std::vector<std::string> arguments) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string path = (self.parent_path() / "annulus-sim").string();
  arguments.insert(arguments.begin(), path);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  execv(path.c_str(), pointers.data());
  std::fprintf(stderr,
               "annulus sim: cannot run %s: %s; build it with 'ninja -C build annulus-sim'\n",
               path.c_str(), std::strerror(errno));
  return 1;
}

}  // namespace

void add_sim_command(CLI::App& app, int& status) {
  CLI::App* sim =
      app.add_subcommand("sim", "one simulated run, or a range of seeds (--help says more)");
  sim->set_help_flag();
  sim->prefix_command();
  sim->callback([sim, &status] { status = run_simulator(sim->remaining()); });
}

}  // namespace annulus::tools
