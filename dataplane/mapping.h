// Memory for what is rarely there and may be large: address space reserved at start, touched as it
// is used, and given back to the host afterwards. One core at a time uses it.
#pragma once

#include <cstddef>

namespace annulus::dataplane {

class Mapping {
 public:
  explicit Mapping(std::size_t bytes);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

  /// The bytes of [from, to) are not needed any more; they read as zero from now on. Both are
  /// multiples of kGrain, or `to` is the end.
  void give_back(std::size_t from, std::size_t to);
  /// A huge page: giving back parts of one would cost its speed.
  static constexpr std::size_t kGrain = std::size_t{2} << 20;

 private:
  std::size_t size_;
  std::size_t mapped_bytes_;
  std::byte* mapped_;
  std::byte* data_;
};

}  // namespace annulus::dataplane
