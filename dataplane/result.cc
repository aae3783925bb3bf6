#include "dataplane/result.h"

#include <cstdio>
#include <cstdlib>

namespace annulus {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "annulus: broken invariant: %s at %s:%d\n", condition, file, line);
  std::abort();
}

}  // namespace annulus
