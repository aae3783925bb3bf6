#include "dataplane/hash.h"

#include <gtest/gtest.h>

#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace annulus::dataplane {
namespace {

std::vector<std::byte> bytes_of(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 131 + (i >> 8));
  return bytes;
}

// Nodes of one cluster run on different processors, and logs are read on others than wrote them.
TEST(Hash, IsTheSameWhateverVectorsTheProcessorHas) {
  for (const std::size_t size : {0, 1, 16, 200, 241, 1'024, 2'047, 2'048, 2'049, 8'192, 65'507}) {
    const std::vector<std::byte> bytes = bytes_of(size);
    for (const std::uint64_t seed : {0ull, 1ull, 250ull, 0xfedcba9876543210ull}) {
      EXPECT_EQ(hash_bytes(bytes, seed), XXH3_64bits_withSeed(bytes.data(), size, seed))
          << size << " bytes, seed " << seed;
    }
  }
}

TEST(Hash, DoesNotDependOnWhereTheBytesLie) {
  const std::vector<std::byte> bytes = bytes_of(4'096);
  std::vector<std::byte> moved(bytes.size() + 64);
  for (std::size_t offset = 0; offset < 64; ++offset) {
    std::copy(bytes.begin(), bytes.end(), moved.begin() + static_cast<std::ptrdiff_t>(offset));
    EXPECT_EQ(hash_bytes(std::span(moved).subspan(offset, bytes.size())), hash_bytes(bytes));
  }
}

}  // namespace
}  // namespace annulus::dataplane
