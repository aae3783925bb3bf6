// The key-value service reads bodies by anyone.
#include "statemachine/kv/kv.h"
#include "tests/fuzz/service_bodies.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace annulus::statemachine::kv;
  static KvService service(KvOptions{.limit_bytes = 64 << 20});
  annulus::fuzz::execute_bodies(service, data, size);
  return 0;
}
