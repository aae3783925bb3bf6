// Judges a history. Of each object the commands leave no choice of an order worth the name: values,
// elements and keys are written once, increments are answered with their place. So the order is
// derived in linear time, and history::check_witness() judges whether it explains every reply;
// where it does not, and the object's history is short enough, history::search_order() is asked
// whether any other does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/chaos/history.h"
#include "tools/history/linearizability.h"

namespace annulus::chaos {

/// Of one object: the order in which its commands were executed, if they were executed right.
std::vector<history::Placed> derive_order(const std::vector<Entry>& part);

struct Verdict {
  std::uint64_t operations = 0;  // judged
  std::uint64_t objects = 0;
  /// A line each, for one object: what is wrong, in the shortest beginning of its history that is.
  std::vector<std::string> violations;
  /// The commands of the first such object, in the order they were sent.
  std::vector<std::string> evidence;
};

/// Every object of the history by itself. Times in the verdict count from `begin`.
Verdict verify(const History& history, Nanos begin);

}  // namespace annulus::chaos
