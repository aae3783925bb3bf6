// `annulus bench`: one experiment, a table, and JSON on request.
#pragma once

namespace CLI {
class App;
}

namespace annulus::bench {

void add_bench_command(CLI::App& app, int& status);

}  // namespace annulus::bench
