#include "dataplane/mapping.h"

#include <sys/mman.h>

#include <cstdint>

#include "dataplane/result.h"

namespace annulus::dataplane {

Mapping::Mapping(std::size_t bytes) : size_(bytes) {
  // A grain more than needed, so that the first byte can start one.
  mapped_bytes_ = bytes + kGrain;
  void* const mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(mapped != MAP_FAILED);
  mapped_ = static_cast<std::byte*>(mapped);
  const auto address = reinterpret_cast<std::uintptr_t>(mapped);
  data_ = mapped_ + ((address + kGrain - 1) / kGrain * kGrain - address);
  // Refused where the kernel has no huge pages: slower, not wrong.
  (void)madvise(data_, mapped_bytes_ - kGrain, MADV_HUGEPAGE);
}

Mapping::~Mapping() { munmap(mapped_, mapped_bytes_); }

void Mapping::give_back(std::size_t from, std::size_t to) {
  CHECK(from % kGrain == 0 && (to % kGrain == 0 || to == size_) && from <= to && to <= size_);
  if (from != to) CHECK(madvise(data_ + from, to - from, MADV_DONTNEED) == 0);
}

}  // namespace annulus::dataplane
