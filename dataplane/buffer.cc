#include "dataplane/buffer.h"

#include <sys/mman.h>

namespace annulus::dataplane {

BufferPool::BufferPool(std::uint32_t count, std::uint32_t capacity)
    : count_(count), capacity_((capacity + 63) & ~63u), buffers_(new Buffer[count]) {
  memory_bytes_ = std::size_t{count_} * capacity_;
  void* memory = mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  madvise(memory, memory_bytes_, MADV_HUGEPAGE);  // fewer TLB misses; refused is fine
  memory_ = static_cast<std::byte*>(memory);
  // The first buffer ends up first in the free list, so a lightly used pool stays small and warm.
  for (std::uint32_t i = count_; i-- > 0;) {
    Buffer& buffer = buffers_[i];
    buffer.capacity = capacity_;
    buffer.data = memory_ + std::size_t{i} * capacity_;
    buffer.release = &BufferPool::release;
    buffer.owner = this;
    buffer.next = free_;
    free_ = &buffer;
  }
}

BufferPool::~BufferPool() { munmap(memory_, memory_bytes_); }

Slice BufferPool::allocate() {
  if (free_ == nullptr) free_ = returned_.exchange(nullptr, std::memory_order_acquire);
  if (free_ == nullptr) return {};
  Buffer* buffer = std::exchange(free_, free_->next);
  buffer->references.store(1, std::memory_order_relaxed);
  return Slice::adopt(buffer, 0, capacity_);
}

void BufferPool::release(Buffer* buffer) {
  auto* pool = static_cast<BufferPool*>(buffer->owner);
  Buffer* head = pool->returned_.load(std::memory_order_relaxed);
  do {
    buffer->next = head;
  } while (!pool->returned_.compare_exchange_weak(head, buffer, std::memory_order_release,
                                                  std::memory_order_relaxed));
}

}  // namespace annulus::dataplane
