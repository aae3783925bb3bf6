#include "dataplane/hash_wide.h"

#if defined(__x86_64__)

// What the rest of the program shares must not be compiled for the wide target: it would be linked
// into places that run anywhere. So nothing but the hash itself, whose functions are all static, is
// between the pragmas.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12: false, of its own intrinsics
#endif
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
#define XXH_INLINE_ALL
#define XXH_VECTOR 3  // XXH_AVX512
#include <xxhash.h>

namespace annulus::dataplane {

std::uint64_t hash_wide(const void* bytes, std::size_t size, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes, size, seed);
}

}  // namespace annulus::dataplane

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace annulus::dataplane {

bool hash_wide_supported() { return __builtin_cpu_supports("avx512f"); }

}  // namespace annulus::dataplane

#else

namespace annulus::dataplane {

bool hash_wide_supported() { return false; }
std::uint64_t hash_wide(const void*, std::size_t, std::uint64_t) { return 0; }

}  // namespace annulus::dataplane

#endif
