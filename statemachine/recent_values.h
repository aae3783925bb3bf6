// Which values a replica executed lately, and where the replies it sent lie. Not replicated state:
// it only lets a replica answer a query about a value that it knows. Part of the worker.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "consensus/types.h"
#include "statemachine/reply_writer.h"

namespace annulus::statemachine {

/// Each value has one place, by its id; a later value that shares it takes it over.
class RecentValues {
 public:
  struct Entry {
    consensus::ValueId id;
    ReplyWriter::Kept replies;  // none when another replica replied
  };

  /// `places`: a power of two.
  explicit RecentValues(std::uint32_t places) : entries_(places) {
    CHECK(std::has_single_bit(places));
  }
  void insert(const consensus::ValueId& id, const ReplyWriter::Kept& replies) {
    entries_[place_of(id)] = {id, replies};
  }
  /// Null when the value is not known to have been executed here.
  const Entry* find(const consensus::ValueId& id) const {
    const Entry& entry = entries_[place_of(id)];
    return entry.id == id && id.sequence != 0 ? &entry : nullptr;
  }

 private:
  std::size_t place_of(const consensus::ValueId& id) const {
    // Values of one proposer lie in a row; proposers start anywhere.
    const std::uint64_t start = (id.epoch ^ raw(id.proposer)) * 0x9e3779b97f4a7c15ull >> 32;
    return (start + id.sequence) & (entries_.size() - 1);
  }
  std::vector<Entry> entries_;
};

}  // namespace annulus::statemachine
