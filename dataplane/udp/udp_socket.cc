#include "dataplane/udp/udp_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace annulus::dataplane {
namespace {

sockaddr_in to_sockaddr(const Endpoint& endpoint) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(endpoint.port);
  address.sin_addr.s_addr = htonl(endpoint.address);
  return address;
}

std::string dotted(const Endpoint& endpoint) {
  std::string text = to_string(endpoint);
  return text.substr(0, text.rfind(':'));
}

template <typename T>
bool set_option(int socket, int level, int name, const T& value) {
  return setsockopt(socket, level, name, &value, sizeof value) == 0;
}

Error no_such_address(const Endpoint& local) {
  return Error{dotted(local) +
               " is not an address of this machine; give the node one that `ip address` lists"};
}

Error failed(const std::string& what) { return Error{what + ": " + std::strerror(errno)}; }

/// Name of the interface that has the address; empty when none has. All of 127/8 is loopback's.
std::string interface_of(const Endpoint& local) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  std::string name;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    const auto* address = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
    const bool loopback = (one->ifa_flags & IFF_LOOPBACK) != 0 && local.address >> 24 == 127;
    if (loopback || ntohl(address->sin_addr.s_addr) == local.address) name = one->ifa_name;
  }
  freeifaddrs(all);
  return name;
}

Status check_mtu(int socket, const std::string& interface, std::uint32_t mtu) {
  ifreq request{};
  std::memcpy(request.ifr_name, interface.data(), std::min<std::size_t>(interface.size(), 15));
  if (ioctl(socket, SIOCGIFMTU, &request) != 0)
    return failed("cannot read the MTU of " + interface);
  if (mtu <= static_cast<std::uint32_t>(request.ifr_mtu)) return {};
  return Error{"mtu = " + std::to_string(mtu) + " is more than " + interface + " carries (" +
               std::to_string(request.ifr_mtu) + "); lower it, or: ip link set " + interface +
               " mtu " + std::to_string(mtu)};
}

Status bind_to(int socket, const Endpoint& endpoint) {
  const sockaddr_in address = to_sockaddr(endpoint);
  if (bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return {};
  const std::string name = to_string(endpoint);
  switch (errno) {
    case EADDRINUSE:
      return Error{name +
                   " is in use; stop the process that has it (`ss -ulpn`) or choose "
                   "another port"};
    case EADDRNOTAVAIL:
      return no_such_address(endpoint);
    case EACCES:
      return Error{name +
                   " may not be bound: ports below 1024 need CAP_NET_BIND_SERVICE; choose "
                   "a higher port"};
    default:
      return failed("cannot bind " + name);
  }
}

/// Keeps a sender from hearing its own multicasts, before they cost buffer space and a copy.
bool refuse_own(int socket, const Endpoint& local) {
  constexpr std::uint32_t kSourceAddress = static_cast<std::uint32_t>(SKF_NET_OFF) + 12;
  std::array<sock_filter, 6> program{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kSourceAddress),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, local.address, 0, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0),  // the UDP header starts with the source port
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, local.port, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
  }};
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return set_option(socket, SOL_SOCKET, SO_ATTACH_FILTER, filter);
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

Result<Descriptor> open_unicast_socket(const Endpoint& local, std::uint32_t mtu) {
  if (local.address == 0 || local.multicast()) {
    return Error{to_string(local) +
                 " cannot be a node's endpoint; give the one address at which others reach it"};
  }
  Descriptor made(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (made.get() < 0) return failed("cannot open a UDP socket");
  const std::string interface = interface_of(local);
  if (interface.empty()) return no_such_address(local);
  if (Status status = check_mtu(made.get(), interface, mtu); !status) return status.error();
  if (Status status = bind_to(made.get(), local); !status) return status.error();
  ip_mreqn through{};
  through.imr_address.s_addr = htonl(local.address);
  through.imr_ifindex = static_cast<int>(if_nametoindex(interface.c_str()));
  const int looped = 1;  // other nodes of this machine are members too
  if (!set_option(made.get(), IPPROTO_IP, IP_MULTICAST_IF, through) ||
      !set_option(made.get(), IPPROTO_IP, IP_MULTICAST_LOOP, looped)) {
    return failed("cannot send multicast through " + interface + " (" + dotted(local) + ")");
  }
  return made;
}

Result<Descriptor> open_group_socket(const Endpoint& group, const Endpoint& local) {
  if (!group.multicast()) {
    return Error{"cannot join " + to_string(group) +
                 ": not a multicast group; take an address from 224.0.0.0 to 239.255.255.255"};
  }
  Descriptor made(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (made.get() < 0) return failed("cannot open a UDP socket");
  const int on = 1;   // each member on this machine binds the group's port
  const int off = 0;  // only the groups of this socket, not all that the machine has joined
  if (!set_option(made.get(), SOL_SOCKET, SO_REUSEADDR, on) ||
      !set_option(made.get(), IPPROTO_IP, IP_MULTICAST_ALL, off) ||
      !refuse_own(made.get(), local)) {
    return failed("cannot set up a socket for " + to_string(group));
  }
  if (Status status = bind_to(made.get(), group); !status) return status.error();
  const std::string interface = interface_of(local);
  ip_mreqn membership{};
  membership.imr_multiaddr.s_addr = htonl(group.address);
  membership.imr_address.s_addr = htonl(local.address);
  membership.imr_ifindex = static_cast<int>(if_nametoindex(interface.c_str()));
  if (set_option(made.get(), IPPROTO_IP, IP_ADD_MEMBERSHIP, membership)) return made;
  const std::string where = dotted(group) + " on " + interface + " (" + dotted(local) + ")";
  if (errno == ENOBUFS) {
    return Error{"cannot join " + where +
                 ": too many groups; raise them: sysctl -w net.ipv4.igmp_max_memberships=100"};
  }
  return Error{"cannot join " + where + ": " + std::strerror(errno) +
               "; if the network has no multicast, set dissemination = \"fanout\""};
}

std::string size_socket_buffer(int socket, SocketBuffer which, std::uint32_t bytes) {
  const bool receive = which == SocketBuffer::kReceive;
  const int wanted = static_cast<int>(bytes);
  // The forced variant needs CAP_NET_ADMIN and ignores the limit.
  if (!set_option(socket, SOL_SOCKET, receive ? SO_RCVBUFFORCE : SO_SNDBUFFORCE, wanted)) {
    set_option(socket, SOL_SOCKET, receive ? SO_RCVBUF : SO_SNDBUF, wanted);
  }
  int granted = 0;
  socklen_t length = sizeof granted;
  getsockopt(socket, SOL_SOCKET, receive ? SO_RCVBUF : SO_SNDBUF, &granted, &length);
  granted /= 2;  // the kernel doubles it for its own bookkeeping
  if (granted >= wanted) return {};
  const std::string limit = receive ? "net.core.rmem_max" : "net.core.wmem_max";
  return std::string("the kernel's ") + (receive ? "receive" : "send") + " buffer is " +
         std::to_string(granted) + " bytes, not " + std::to_string(wanted) +
         ": bursts may be lost; raise it: sysctl -w " + limit + "=" + std::to_string(wanted);
}

std::uint32_t socket_drops(int socket) {
  std::array<std::uint32_t, SK_MEMINFO_VARS> figures{};
  socklen_t length = sizeof figures;
  getsockopt(socket, SOL_SOCKET, SO_MEMINFO, figures.data(), &length);
  return figures[SK_MEMINFO_DROPS];
}

}  // namespace annulus::dataplane
