// Bytes on their way to a client: chains of equal chunks from one pool, so that an idle connection
// holds none and a busy one as many as its unsent replies need.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace annulus::proxy {

struct Chunk {
  static constexpr std::uint32_t kBytes = 2'032;
  Chunk* next = nullptr;
  std::uint32_t begin = 0;  // first byte not yet consumed
  std::uint32_t end = 0;
  char data[kBytes];
};
static_assert(sizeof(Chunk) == 2'048);

/// A fixed number of chunks, last returned first taken. Memory is touched on first use only.
class ChunkPool {
 public:
  explicit ChunkPool(std::uint32_t count);
  ChunkPool(const ChunkPool&) = delete;
  ChunkPool& operator=(const ChunkPool&) = delete;
  ~ChunkPool();

  /// An empty chunk, or null when all are in use.
  Chunk* allocate() {
    Chunk* chunk = free_;
    if (chunk != nullptr) {
      free_ = chunk->next;
    } else if (fresh_ < count_) {
      chunk = &memory_[fresh_++];
    } else {
      return nullptr;
    }
    --available_;
    chunk->next = nullptr;
    chunk->begin = 0;
    chunk->end = 0;
    return chunk;
  }
  void release(Chunk* chunk) {
    chunk->next = free_;
    free_ = chunk;
    ++available_;
  }
  std::uint32_t available() const { return available_; }
  std::uint32_t count() const { return count_; }

 private:
  Chunk* memory_;
  Chunk* free_ = nullptr;
  std::uint32_t count_;
  std::uint32_t fresh_ = 0;
  std::uint32_t available_;
};

/// A queue of bytes. Plain data: whoever drops one with bytes in it clears it first.
class ByteChain {
 public:
  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }

  /// Room for `wanted` (at most Chunk::kBytes) bytes in one piece, to be followed by commit(). Null
  /// when the pool is empty.
  char* reserve(ChunkPool& pool, std::uint32_t wanted) {
    if (tail_ == nullptr || Chunk::kBytes - tail_->end < wanted) {
      if (!grow(pool)) return nullptr;
    }
    return tail_->data + tail_->end;
  }
  void commit(std::uint32_t written) {
    tail_->end += written;
    bytes_ += written;
  }
  /// False when the pool ran empty; part of the bytes may then have been appended.
  bool append(ChunkPool& pool, std::string_view bytes);
  /// Appends all of `other` and leaves it empty. Short content is copied, long content is relinked.
  bool take(ChunkPool& pool, ByteChain& other);
  /// Copies out everything, in order; `to` holds bytes().
  void copy_to(char* to) const;
  /// The first pieces, for writev; returns how many.
  std::uint32_t pieces(std::span<iovec> into) const;
  /// Drops the first `bytes`.
  void consume(ChunkPool& pool, std::uint64_t bytes);
  void clear(ChunkPool& pool) { consume(pool, bytes_); }

 private:
  bool grow(ChunkPool& pool);

  Chunk* head_ = nullptr;
  Chunk* tail_ = nullptr;
  std::uint64_t bytes_ = 0;
};

}  // namespace annulus::proxy
