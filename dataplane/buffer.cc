#include "dataplane/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace annulus::dataplane {
namespace {

constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kPageBytes = 4'096;
static_assert(sizeof(Buffer) <= kLineBytes);

/// What slices still reach when the pool itself is gone: the first lines of its memory.
struct Shared {
  // Buffers dropped: pushed with compare-exchange (release) in release(), taken whole with exchange
  // (acquire) in refill(), so there is no ABA. Closed for good by the pool's destructor.
  alignas(kLineBytes) std::atomic<Buffer*> returned{nullptr};
  // Once closed: buffers that are still out. May pass below zero before the destructor has added
  // their number.
  std::atomic<std::int64_t> out{0};
  std::size_t memory_bytes = 0;
};

// Ends the list of returned buffers of a pool that is gone.
Buffer closed;

Shared& shared_of(std::byte* memory) { return *std::launder(reinterpret_cast<Shared*>(memory)); }

void destroy(Shared& shared) { munmap(&shared, shared.memory_bytes); }

}  // namespace

BufferPool::BufferPool(std::uint32_t count, std::uint32_t capacity)
    : count_(count), capacity_((capacity + 63) & ~63u), stride_(kLineBytes + capacity_) {
  const std::size_t bytes = sizeof(Shared) + count_ * stride_;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  // Blocks are large and mostly used in part. Huge pages would cost memory for all of it, and stop
  // the data path for as long as the kernel clears one: 0.2 to 7 ms.
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  memory_ = static_cast<std::byte*>(memory);
  (new (memory_) Shared)->memory_bytes = bytes;
}

// Slices may outlive the pool, as those that nodes of one process hold of each other do when they
// are taken down: the memory goes with the last of them.
BufferPool::~BufferPool() {
  std::int64_t out = fresh_;
  for (Buffer* buffer = free_; buffer != nullptr; buffer = buffer->next) --out;
  Shared& shared = shared_of(memory_);
  // Acquire: pairs with the pushes of release().
  Buffer* returned = shared.returned.exchange(&closed, std::memory_order_acq_rel);
  for (; returned != nullptr; returned = returned->next) --out;
  // Whoever brings the number to zero, here or in release(), is the last to reach the memory.
  if (shared.out.fetch_add(out, std::memory_order_acq_rel) + out == 0) destroy(shared);
}

void BufferPool::touch(std::uint32_t count, std::uint64_t bytes) {
  CHECK(fresh_ == 0);
  count = std::min(count, count_);
  // Written, so that each page is the pool's own; from the far end, so that what is handed out
  // first is what was touched last.
  for (std::uint32_t i = count; i-- != 0;) {
    const std::size_t begin = sizeof(Shared) + i * stride_;
    const std::size_t end = begin + std::clamp<std::size_t>(bytes / count, 1, stride_);
    for (std::size_t at = (end - 1) / kPageBytes * kPageBytes; at != 0; at -= kPageBytes) {
      *static_cast<volatile std::byte*>(memory_ + at) = std::byte{0};
      if (at <= begin) break;
    }
  }
}

// Used buffers before fresh ones, so that a lightly used pool stays small and warm.
Buffer* BufferPool::refill() {
  Shared& shared = shared_of(memory_);
  free_ = shared.returned.exchange(nullptr, std::memory_order_acquire);
  if (free_ != nullptr || fresh_ == count_) return free_;
  std::byte* place = memory_ + sizeof(Shared) + fresh_++ * stride_;
  free_ = new (place) Buffer;
  free_->capacity = capacity_;
  free_->data = place + kLineBytes;
  free_->release = &BufferPool::release;
  free_->owner = &shared;
  return free_;
}

void BufferPool::release(Buffer* buffer) {
  auto& shared = *static_cast<Shared*>(buffer->owner);
  Buffer* head = shared.returned.load(std::memory_order_relaxed);
  do {
    if (head == &closed) [[unlikely]] {
      if (shared.out.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(shared);
      return;
    }
    buffer->next = head;
  } while (!shared.returned.compare_exchange_weak(head, buffer, std::memory_order_release,
                                                  std::memory_order_relaxed));
}

}  // namespace annulus::dataplane
