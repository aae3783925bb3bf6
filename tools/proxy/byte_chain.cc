#include "tools/proxy/byte_chain.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "dataplane/result.h"

namespace annulus::proxy {

ChunkPool::ChunkPool(std::uint32_t count) : count_(count), available_(count) {
  void* memory = mmap(nullptr, std::size_t{count} * sizeof(Chunk), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  memory_ = static_cast<Chunk*>(memory);
}

ChunkPool::~ChunkPool() { munmap(memory_, std::size_t{count_} * sizeof(Chunk)); }

bool ByteChain::grow(ChunkPool& pool) {
  Chunk* chunk = pool.allocate();
  if (chunk == nullptr) return false;
  (tail_ == nullptr ? head_ : tail_->next) = chunk;
  tail_ = chunk;
  return true;
}

bool ByteChain::append(ChunkPool& pool, std::string_view bytes) {
  while (!bytes.empty()) {
    if ((tail_ == nullptr || tail_->end == Chunk::kBytes) && !grow(pool)) return false;
    const auto part =
        static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), Chunk::kBytes - tail_->end));
    std::memcpy(tail_->data + tail_->end, bytes.data(), part);
    commit(part);
    bytes.remove_prefix(part);
  }
  return true;
}

bool ByteChain::take(ChunkPool& pool, ByteChain& other) {
  if (other.bytes_ > Chunk::kBytes / 4) {
    (tail_ == nullptr ? head_ : tail_->next) = other.head_;
    tail_ = other.tail_;
    bytes_ += other.bytes_;
    other = ByteChain{};
    return true;
  }
  bool fits = true;
  for (const Chunk* chunk = other.head_; chunk != nullptr; chunk = chunk->next) {
    fits = fits && append(pool, {chunk->data + chunk->begin, chunk->end - chunk->begin});
  }
  other.clear(pool);
  return fits;
}

void ByteChain::copy_to(char* to) const {
  for (const Chunk* chunk = head_; chunk != nullptr; chunk = chunk->next) {
    std::memcpy(to, chunk->data + chunk->begin, chunk->end - chunk->begin);
    to += chunk->end - chunk->begin;
  }
}

std::uint32_t ByteChain::pieces(std::span<iovec> into) const {
  std::uint32_t count = 0;
  for (Chunk* chunk = head_; chunk != nullptr && count < into.size(); chunk = chunk->next) {
    into[count++] = {chunk->data + chunk->begin, chunk->end - chunk->begin};
  }
  return count;
}

void ByteChain::consume(ChunkPool& pool, std::uint64_t bytes) {
  DCHECK(bytes <= bytes_);
  bytes_ -= bytes;
  // An emptied chain gives back every chunk, also one that was reserved and never written.
  while (head_ != nullptr && (bytes > 0 || bytes_ == 0)) {
    const std::uint64_t part = std::min<std::uint64_t>(bytes, head_->end - head_->begin);
    head_->begin += static_cast<std::uint32_t>(part);
    bytes -= part;
    if (head_->begin < head_->end) break;
    Chunk* const used = head_;
    head_ = used->next;
    pool.release(used);
  }
  if (head_ == nullptr) tail_ = nullptr;
}

}  // namespace annulus::proxy
