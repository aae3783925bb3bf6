// A run in a process of its own, so that one that trips a CHECK, or worse, is an outcome too.
#pragma once

#include <string>

#include "dataplane/defect.h"
#include "tests/sim/run.h"

namespace annulus::sim {

/// The first line of what went wrong; empty if nothing did.
std::string outcome_in_child(const RunOptions& options, Defect defect = Defect::kNone);

}  // namespace annulus::sim
