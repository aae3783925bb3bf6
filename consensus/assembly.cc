#include "consensus/assembly.h"

#include <cstring>

#include "dataplane/defect.h"
#include "dataplane/hash.h"

namespace annulus::consensus {

AssemblyOutcome Assembly::add(const Value& value, const Fragment& fragment,
                              const dataplane::Slice& payload, std::uint64_t payload_hash,
                              dataplane::BufferPool& pool) {
  if (!started_) start(value);
  if (value != value_ && !DEFECT(kFragmentOfAnyValue)) return AssemblyOutcome::kMismatch;
  if (complete()) return AssemblyOutcome::kDuplicate;
  if (fragment.count == 1) {
    if (payload_hash != value.content_hash) return AssemblyOutcome::kBadContent;
    bytes_ = payload;
    count_ = 1;
    have_ = 1;
    return AssemblyOutcome::kComplete;
  }
  if (count_ == 0) {
    if (value.bytes > pool.capacity()) return AssemblyOutcome::kNoMemory;
    bytes_ = pool.allocate();
    if (!bytes_) return AssemblyOutcome::kNoMemory;
    bytes_.truncate(value.bytes);
    count_ = fragment.count;
    fragment_bytes_ = fragment.bytes;
  }
  if (fragment.count != count_ || fragment.bytes != fragment_bytes_) {
    return AssemblyOutcome::kMismatch;
  }
  const std::uint64_t bit = std::uint64_t{1} << fragment.index;
  if ((have_ & bit) != 0) return AssemblyOutcome::kDuplicate;
  std::memcpy(bytes_.mutable_data() + fragment.offset(), payload.data(), payload.size());
  have_ |= bit;
  if (!complete()) return AssemblyOutcome::kPartial;
  if (dataplane::hash_bytes(bytes_.bytes()) != value.content_hash) {
    start(value_);
    return AssemblyOutcome::kBadContent;
  }
  return AssemblyOutcome::kComplete;
}

}  // namespace annulus::consensus
