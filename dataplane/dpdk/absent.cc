// dpdk.h and software_switch.h in a build without DPDK: everything says so.
#include "dataplane/dpdk/dpdk.h"
#include "dataplane/dpdk/software_switch.h"

namespace annulus::dataplane {
namespace {

Error absent() {
  return {
      "transport 'dpdk': this program was built without DPDK; install libdpdk-dev (22.11 or "
      "later), "
      "run 'meson setup --reconfigure build -Ddpdk=enabled' and build again"};
}

}  // namespace

std::uint64_t MemoryPlan::bytes() const { return 0; }
std::string MemoryPlan::to_string() const { return {}; }
MemoryPlan plan_dpdk_memory(const DpdkConfig&) { return {}; }
Result<std::unique_ptr<Transport>> open_dpdk_transport(const DpdkConfig&) { return absent(); }
void register_dpdk_thread() {}
Status serve_registry_on_telemetry(const Registry&) { return absent(); }
Result<std::unique_ptr<SoftwareSwitch>> SoftwareSwitch::open(const SwitchConfig&) {
  return absent();
}

}  // namespace annulus::dataplane
