#include "dataplane/buffer.h"

#include <sys/mman.h>

#include <new>

namespace annulus::dataplane {
namespace {

constexpr std::size_t kLineBytes = 64;
static_assert(sizeof(Buffer) <= kLineBytes);

}  // namespace

BufferPool::BufferPool(std::uint32_t count, std::uint32_t capacity)
    : count_(count), capacity_((capacity + 63) & ~63u), stride_(kLineBytes + capacity_) {
  void* memory = mmap(nullptr, count_ * stride_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  madvise(memory, count_ * stride_, MADV_HUGEPAGE);  // fewer TLB misses; refused is fine
  memory_ = static_cast<std::byte*>(memory);
}

BufferPool::~BufferPool() { munmap(memory_, count_ * stride_); }

// Used buffers before fresh ones, so that a lightly used pool stays small and warm.
Buffer* BufferPool::refill() {
  free_ = returned_.exchange(nullptr, std::memory_order_acquire);
  if (free_ != nullptr || fresh_ == count_) return free_;
  std::byte* place = memory_ + fresh_++ * stride_;
  free_ = new (place) Buffer;
  free_->capacity = capacity_;
  free_->data = place + kLineBytes;
  free_->release = &BufferPool::release;
  free_->owner = this;
  return free_;
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
