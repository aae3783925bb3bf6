// Little-endian integers of alignment 1: the only field types of messages and of anything stored.
// A struct of them is packed by construction and may be laid over received bytes.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace annulus {

static_assert(std::endian::native == std::endian::little, "the wire order is the host's");

template <std::unsigned_integral T>
class WireInt {
 public:
  WireInt() = default;
  constexpr WireInt(T value) { *this = value; }  // NOLINT: implicit by design
  constexpr WireInt& operator=(T value) {
    bytes_ = std::bit_cast<Bytes>(value);
    return *this;
  }
  constexpr operator T() const { return std::bit_cast<T>(bytes_); }  // NOLINT: implicit by design
  constexpr T get() const { return *this; }

 private:
  struct Bytes {
    std::byte b[sizeof(T)];
  };
  Bytes bytes_;
};

using u16le = WireInt<std::uint16_t>;
using u32le = WireInt<std::uint32_t>;
using u64le = WireInt<std::uint64_t>;

static_assert(sizeof(u64le) == 8 && alignof(u64le) == 1);

}  // namespace annulus
