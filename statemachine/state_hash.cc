#include "statemachine/state_hash.h"

#include "dataplane/hash.h"

namespace annulus::statemachine {

std::uint64_t fold_hashes(std::uint64_t hash, std::span<const ContentHash> classes) {
  return dataplane::hash_bytes(std::as_bytes(classes), hash);
}

}  // namespace annulus::statemachine
