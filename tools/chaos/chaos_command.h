// `annulus chaos`: a cluster of processes under load while random faults hit it, and then the proof
// that nothing was lost, repeated or out of order.
#pragma once

namespace CLI {
class App;
}

namespace annulus::chaos {

void add_chaos_command(CLI::App& app, int& status);

}  // namespace annulus::chaos
