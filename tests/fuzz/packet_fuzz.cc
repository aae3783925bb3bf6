// Fuzz target: hostile Ethernet frames into the packet parser and the net stack behind it. The
// first byte chooses what the sender got right, so that deep branches are reached: addresses, and
// checksums, which random bytes would never match.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dataplane/dpdk/net_stack.h"

namespace {

using namespace annulus;             // NOLINT: a test program
using namespace annulus::dataplane;  // NOLINT

constexpr MacAddress kMac{{2, 0, 0, 0, 0, 1}};
constexpr Endpoint kOwn{0x0a4d0001, 4000};
constexpr Endpoint kGroup{0xef4d0001, 4100};
constexpr std::uint32_t kMtu = 1500;

/// Whatever the stack sends must itself be a packet that a neighbour would take.
class StrictSink final : public PacketSink {
 public:
  void send_packet(std::span<const std::byte> packet) override {
    CHECK(packet.size() <= sizeof(EthernetHeader) + kMtu);
    const auto& ethernet = *reinterpret_cast<const EthernetHeader*>(packet.data());
    CHECK(ethernet.from == kMac);
    PacketFilter filter{.mac = ethernet.to, .own = {0, 0}};
    if (ethernet.type == kEtherTypeIpv4) {
      const auto& ip = *reinterpret_cast<const Ipv4Header*>(packet.data() + sizeof(EthernetHeader));
      filter.own.address = ip.to;
    }
    Packet parsed;
    CHECK(parse_packet(packet, filter, {}, parsed) == PacketFault::kNone);
  }
};

/// Overwrites what `choice` says with right values, as far as the bytes go.
void correct(std::uint8_t choice, std::vector<std::byte>& bytes) {
  if (bytes.size() < sizeof(EthernetHeader)) return;
  auto& ethernet = *reinterpret_cast<EthernetHeader*>(bytes.data());
  if ((choice & 1) != 0) ethernet.to = kMac;
  if ((choice & 2) != 0) ethernet.type = (choice & 4) != 0 ? kEtherTypeArp : kEtherTypeIpv4;
  if ((choice & 2) == 0 || (choice & 4) != 0) return;
  if (bytes.size() < sizeof(EthernetHeader) + sizeof(Ipv4Header)) return;
  auto& ip = *reinterpret_cast<Ipv4Header*>(bytes.data() + sizeof(EthernetHeader));
  if ((choice & 8) != 0) ip.version_words = 0x45;
  if ((choice & 16) != 0) ip.to = (choice & 32) != 0 ? kGroup.address : kOwn.address;
  if ((choice & 64) != 0) {
    ip.total_bytes = static_cast<std::uint16_t>(bytes.size() - sizeof(EthernetHeader));
  }
  const std::size_t body_at = sizeof(EthernetHeader) + ip.header_bytes();
  if ((choice & 128) == 0 || ip.header_bytes() < sizeof(Ipv4Header) || body_at > bytes.size()) {
    return;
  }
  ip.fragment = kDontFragment;
  if (body_at + sizeof(IcmpHeader) <= bytes.size()) {
    auto& icmp = *reinterpret_cast<IcmpHeader*>(bytes.data() + body_at);
    icmp.checksum = std::uint16_t{0};
    InternetChecksum checksum;
    checksum.add(std::span(bytes).subspan(body_at));
    icmp.checksum = checksum.checksum();
  }
  ip.checksum = std::uint16_t{0};
  InternetChecksum checksum;
  checksum.add(std::span(bytes).subspan(sizeof(EthernetHeader), ip.header_bytes()));
  ip.checksum = checksum.checksum();
}

bool within(std::span<const std::byte> inner, std::span<const std::byte> outer) {
  return inner.data() >= outer.data() && inner.data() + inner.size() <= outer.data() + outer.size();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2 || size > sizeof(EthernetHeader) + kMtu + 2) return 0;
  const auto input = std::as_bytes(std::span{data, size});
  // Its own block of exactly that size: AddressSanitizer sees a read of one byte too many.
  std::vector<std::byte> bytes(input.begin() + 2, input.end());
  correct(data[0], bytes);
  PacketFilter filter{.mac = kMac, .own = kOwn};
  filter.groups[filter.group_count++] = kGroup;
  Packet packet;
  const DeviceVerified verified{.ip = (data[1] & 1) != 0, .udp = (data[1] & 2) != 0};
  const PacketFault fault = parse_packet(bytes, filter, verified, packet);
  CHECK(fault < PacketFault::kCount);
  if (fault != PacketFault::kNone) return 0;
  CHECK(within(packet.body, bytes));
  if (packet.kind == PacketKind::kUdp) return 0;
  StrictSink sink;
  NetStack stack(kMac, kOwn.address, kMtu, sink);
  stack.join(kGroup.address);
  stack.on_packet(0, packet);
  for (Nanos now = 0; now < 3 * kSecond; now += 100 * kMillisecond) stack.tick(now);
  stack.resolve(0, 0x0a4d0002);
  return 0;
}
