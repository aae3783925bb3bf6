// The executable annulus-sim: the simulator, with the whole library compiled for it.
#include "tests/sim/sim.h"

int main(int argc, char** argv) { return annulus::sim::run_sim(argc, argv); }
