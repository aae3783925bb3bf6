// The trace hash: one word that stands for everything that happened in a run. Two runs of a seed
// must end with the same; the first difference is then found by printing it as it grows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/clock.h"

namespace annulus::sim {

/// What is mixed in, so that two kinds of event with equal figures differ.
enum class TraceEvent : std::uint64_t {
  kFrame = 1,   // a frame reached its receiver
  kPoll,        // a stage did work
  kDelivery,    // a learner handed a value to execution
  kCompletion,  // a client's command ended
  kFault,       // a fault began or ended
  kState,       // a state hash at the end
};

class Trace {
 public:
  void mix(TraceEvent event, std::uint64_t a, std::uint64_t b = 0, std::uint64_t c = 0) {
    mix_word(static_cast<std::uint64_t>(event));
    mix_word(a);
    mix_word(b);
    mix_word(c);
    ++events_;
  }
  /// For people: what mattered, if anybody wants to read it.
  void tell() { told_ = true; }
  void note(Nanos now, const std::string& what) {
    if (told_) notes_.push_back(std::to_string(now / 1'000) + " us  " + what);
  }
  const std::vector<std::string>& notes() const { return notes_; }
  std::uint64_t hash() const { return hash_; }
  std::uint64_t events() const { return events_; }

 private:
  void mix_word(std::uint64_t word) {
    hash_ = (hash_ ^ word) * 0x9fb21c651e98df25ull;
    hash_ ^= hash_ >> 29;
  }
  std::uint64_t hash_ = 0x243f6a8885a308d3ull;
  std::uint64_t events_ = 0;
  bool told_ = false;
  std::vector<std::string> notes_;
};

}  // namespace annulus::sim
