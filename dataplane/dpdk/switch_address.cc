// Names of the switch's sockets and of the devices that connect to them; there with and without
// DPDK.
#include "dataplane/dpdk/software_switch.h"

namespace annulus::dataplane {

std::string switch_socket(const std::string& directory, std::uint32_t port) {
  return directory + "/" + std::to_string(port) + ".sock";
}

std::string switch_client_device(const std::string& directory, std::uint32_t port) {
  static constexpr char kDigits[] = "0123456789abcdef";
  const char last[] = {kDigits[(port >> 4) & 0xf], kDigits[port & 0xf], '\0'};
  return "net_memif0,role=client,id=0,socket=" + switch_socket(directory, port) +
         ",socket-abstract=no,mac=02:00:00:00:00:" + last;
}

template <>
const std::array<const char*, static_cast<std::size_t>(SwitchCounter::kCount)>
    CounterNames<SwitchCounter>::names = {
        "rx_frames",  "rx_bytes",         "tx_frames",     "tx_bytes",
        "rx_flooded", "rx_drop_bad",      "tx_drop_full",  "fault_lost",
        "fault_cut",  "fault_duplicated", "fault_delayed", "tx_drop_delay_full"};

}  // namespace annulus::dataplane
