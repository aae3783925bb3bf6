// Reference-counted, immutable-once-sent memory. A Buffer belongs to the pool that made it and goes
// back there from whichever core drops the last reference; a Slice is one reference to a part of
// it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "dataplane/result.h"

namespace annulus::dataplane {

/// One block of memory with a reference count. Transports that receive into memory of their own
/// (mbufs) embed a Buffer in it, with their own `release`.
struct Buffer {
  std::atomic<std::uint32_t> references{0};
  std::uint32_t capacity = 0;
  std::byte* data = nullptr;
  /// Called once, by the core that dropped the last reference; `references` is 0 or 1 by then.
  void (*release)(Buffer*) = nullptr;
  void* owner = nullptr;
  Buffer* next = nullptr;
};

/// One counted reference to bytes of a Buffer. Writable by its maker until first sent or handed to
/// another core; immutable from then on. Copying counts up, destruction counts down.
class Slice {
 public:
  Slice() = default;
  /// Takes over one reference that the caller holds.
  static Slice adopt(Buffer* buffer, std::uint32_t offset, std::uint32_t length) {
    Slice slice;
    slice.buffer_ = buffer;
    slice.offset_ = offset;
    slice.length_ = length;
    return slice;
  }
  Slice(const Slice& other)
      : buffer_(other.buffer_), offset_(other.offset_), length_(other.length_) {
    // Relaxed: whoever copies already holds a reference.
    if (buffer_ != nullptr) buffer_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Slice(Slice&& other) noexcept
      : buffer_(std::exchange(other.buffer_, nullptr)),
        offset_(std::exchange(other.offset_, 0)),
        length_(std::exchange(other.length_, 0)) {}
  Slice& operator=(Slice other) noexcept {
    std::swap(buffer_, other.buffer_);
    std::swap(offset_, other.offset_);
    std::swap(length_, other.length_);
    return *this;
  }
  ~Slice() { reset(); }

  void reset() {
    // Release pairs with acquire in the load or fetch_sub of the last holder: all reads and writes
    // through other references happen before the memory is used again. Who sees 1 holds the only
    // reference, so nobody can raise the count meanwhile, and the locked instruction is saved.
    if (buffer_ != nullptr && (buffer_->references.load(std::memory_order_acquire) == 1 ||
                               buffer_->references.fetch_sub(1, std::memory_order_acq_rel) == 1)) {
      buffer_->release(buffer_);
    }
    buffer_ = nullptr;
    offset_ = 0;
    length_ = 0;
  }

  explicit operator bool() const { return buffer_ != nullptr; }
  const std::byte* data() const { return buffer_->data + offset_; }
  std::byte* mutable_data() { return buffer_->data + offset_; }
  std::uint32_t size() const { return length_; }
  std::span<const std::byte> bytes() const {
    return buffer_ == nullptr ? std::span<const std::byte>{} : std::span{data(), length_};
  }
  /// A further reference to `length` bytes from `offset` of this slice.
  Slice part(std::uint32_t offset, std::uint32_t length) const {
    DCHECK(offset + length <= length_);
    Slice slice = *this;
    slice.offset_ += offset;
    slice.length_ = length;
    return slice;
  }
  /// Shortens to the first `length` bytes.
  void truncate(std::uint32_t length) {
    DCHECK(length <= length_);
    length_ = length;
  }
  Buffer* buffer() const { return buffer_; }
  std::uint32_t offset() const { return offset_; }
  /// Gives up the reference without dropping it: the caller holds it now. Leaves this slice empty.
  Buffer* detach() {
    offset_ = 0;
    length_ = 0;
    return std::exchange(buffer_, nullptr);
  }

 private:
  Buffer* buffer_ = nullptr;
  std::uint32_t offset_ = 0;
  std::uint32_t length_ = 0;
};

/// A fixed number of equal buffers. One core allocates; any core may drop the last reference.
/// The pool must outlive every slice of it.
class BufferPool {
 public:
  /// `count` buffers of `capacity` bytes each. Memory is touched on first use only.
  BufferPool(std::uint32_t count, std::uint32_t capacity);
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool();

  /// A slice of the whole capacity, or an empty slice when the pool is exhausted.
  /// Owning core only.
  Slice allocate() {
    Buffer* buffer = free_;
    if (buffer == nullptr) [[unlikely]] {
      buffer = refill();
      if (buffer == nullptr) return {};
    }
    free_ = buffer->next;
    buffer->references.store(1, std::memory_order_relaxed);
    return Slice::adopt(buffer, 0, capacity_);
  }
  /// Touches memory of the first `count` buffers, before any is handed out: it then takes no time
  /// of the data path. A page's first touch costs that 2 us, and 10 to 20 on a virtual machine.
  /// `bytes` are divided among the buffers: the beginning of each, a page at least.
  void touch(std::uint32_t count, std::uint64_t bytes);
  std::uint32_t capacity() const { return capacity_; }
  std::uint32_t count() const { return count_; }
  std::uint64_t bytes() const { return std::uint64_t{count_} * stride_; }

 private:
  static void release(Buffer* buffer);
  Buffer* refill();

  std::uint32_t count_;
  std::uint32_t capacity_;
  // A buffer's control block lies in the cache line before its bytes: they travel between cores
  // together, and the odd stride keeps buffers of 2^n bytes from sharing cache sets.
  std::size_t stride_;
  std::byte* memory_;
  std::uint32_t fresh_ = 0;  // buffers from here on were never handed out; owning core only
  Buffer* free_ = nullptr;   // owning core only
  // Buffers dropped: pushed with compare-exchange (release) in release(), taken whole with exchange
  // (acquire) in refill(), so there is no ABA.
  alignas(64) std::atomic<Buffer*> returned_{nullptr};
};

}  // namespace annulus::dataplane
