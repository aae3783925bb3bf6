// Kernel UDP sockets and what can go wrong while they are made. Start-up only, but for drops().
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "dataplane/result.h"
#include "dataplane/transport.h"

namespace annulus::dataplane {

/// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();
  int get() const { return number_; }

 private:
  int number_ = -1;
};

/// A non-blocking socket bound to `local`, sending multicast through the interface that has its
/// address. Fails when the address is not of this machine, in use, or when frames of `mtu` bytes
/// do not fit the interface.
Result<Descriptor> open_unicast_socket(const Endpoint& local, std::uint32_t mtu);

/// A non-blocking socket that receives what others (not `local` itself) send to `group` on the
/// interface that has local's address.
Result<Descriptor> open_group_socket(const Endpoint& group, const Endpoint& local);

enum class SocketBuffer : std::uint8_t { kReceive, kSend };
/// Asks for a kernel buffer of `bytes`. When the kernel grants less: what it granted, and how to
/// raise the limit. Empty when all is well.
std::string size_socket_buffer(int socket, SocketBuffer which, std::uint32_t bytes);

/// Datagrams the kernel has dropped at this socket so far, filtered ones included.
std::uint32_t socket_drops(int socket);

}  // namespace annulus::dataplane
