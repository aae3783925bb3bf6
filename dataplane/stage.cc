#include "dataplane/stage.h"

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(StageCounter::kCount)>
    CounterNames<StageCounter>::names = {"turns",         "useful_turns", "items",
                                         "useful_cycles", "idle_cycles",  "longest_turn_cycles"};

}  // namespace annulus::dataplane
