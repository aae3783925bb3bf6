// How the checker names what it complains of.
#pragma once

#include <string>

#include "consensus/types.h"

namespace annulus::sim {

inline std::string text(const consensus::ValueId& id) {
  return "value " + std::to_string(raw(id.proposer)) + "/" + std::to_string(id.epoch % 10'000) +
         "/" + std::to_string(id.sequence);
}
inline std::string text(consensus::Instance instance) {
  return "instance " + std::to_string(raw(instance));
}
inline std::string text(consensus::Ballot ballot) {
  return "ballot " + std::to_string(consensus::round_of(ballot)) + "." +
         std::to_string(raw(consensus::coordinator_of(ballot)));
}

}  // namespace annulus::sim
