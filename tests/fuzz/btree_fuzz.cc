// The B-tree service reads bodies by anyone.
#include "statemachine/btree/btree.h"
#include "tests/fuzz/service_bodies.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace annulus::statemachine::btree;
  static BtreeService service(BtreeOptions{.limit_bytes = 1 << 20});
  annulus::fuzz::execute_bodies(service, data, size);
  return 0;
}
