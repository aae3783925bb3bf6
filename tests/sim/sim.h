// Entry of the simulator's command line (`annulus sim`, run by the executable annulus-sim).
#pragma once

namespace annulus::sim {

/// Returns the process's exit status.
int run_sim(int argc, char** argv);

}  // namespace annulus::sim
