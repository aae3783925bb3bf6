// Wire integers: layout and byte order.
#include "dataplane/wire_int.h"

#include <gtest/gtest.h>

#include <array>
#include <type_traits>

namespace annulus {
namespace {

struct Mixed {
  std::uint8_t one;
  u64le eight;
  u16le two;
  u32le four;
};
static_assert(sizeof(Mixed) == 15 && alignof(Mixed) == 1);
static_assert(std::is_trivially_copyable_v<Mixed>);

TEST(WireInt, IsLittleEndianAndUnaligned) {
  Mixed mixed{};
  mixed.eight = 0x0102030405060708;
  mixed.two = 0xfffe;
  mixed.four = 0xdeadbeef;
  const auto bytes = std::bit_cast<std::array<std::uint8_t, 15>>(mixed);
  const std::array<std::uint8_t, 15> expected{0, 8,    7,    6,    5,    4,    3,   2,
                                              1, 0xfe, 0xff, 0xef, 0xbe, 0xad, 0xde};
  EXPECT_EQ(bytes, expected);
}

TEST(WireInt, RoundTripsTheExtremes) {
  EXPECT_EQ(u64le(UINT64_MAX).get(), UINT64_MAX);
  EXPECT_EQ(u32le(0u).get(), 0u);
  EXPECT_EQ(u16le(std::uint16_t{0x8000}).get(), 0x8000);
  static_assert(u32le(7u) == 7u);
}

TEST(WireInt, MayBeLaidOverReceivedBytes) {
  const std::array<std::byte, 9> bytes{std::byte{0xff}, std::byte{1}, std::byte{0},
                                       std::byte{0},    std::byte{0}, std::byte{0},
                                       std::byte{0},    std::byte{0}, std::byte{2}};
  EXPECT_EQ(reinterpret_cast<const u64le*>(bytes.data() + 1)->get(), 0x0200000000000001u);
}

}  // namespace
}  // namespace annulus
