// How fast the simulator is where little happens: the figure beside simulated time.
#pragma once

namespace annulus::sim {

/// Runs a healthy cluster of three acceptors and two replicas with one client for so long a
/// simulated time, and prints how many times faster than real time that was. True if every check
/// passed.
bool run_light(double seconds);

}  // namespace annulus::sim
