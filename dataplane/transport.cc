#include "dataplane/transport.h"

#include <arpa/inet.h>

#include <charconv>

namespace annulus::dataplane {

std::string to_string(const Endpoint& endpoint) {
  char text[INET_ADDRSTRLEN];
  const in_addr address{htonl(endpoint.address)};
  inet_ntop(AF_INET, &address, text, sizeof text);
  return std::string(text) + ":" + std::to_string(endpoint.port);
}

Result<Endpoint> parse_endpoint(const std::string& text) {
  const Error error{"'" + text +
                    "' is not an endpoint; write ADDRESS:PORT, for example 10.0.0.1:4000"};
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return error;
  in_addr address;
  if (inet_pton(AF_INET, text.substr(0, colon).c_str(), &address) != 1) return error;
  Endpoint endpoint{ntohl(address.s_addr), 0};
  const char* first = text.data() + colon + 1;
  const char* last = text.data() + text.size();
  const auto [end, failure] = std::from_chars(first, last, endpoint.port);
  if (failure != std::errc{} || end != last || endpoint.port == 0) return error;
  return endpoint;
}

template <>
const std::array<const char*, static_cast<std::size_t>(TransportCounter::kCount)>
    CounterNames<TransportCounter>::names = {"rx_frames",          "rx_bytes",
                                             "tx_frames",          "tx_bytes",
                                             "rx_drop_no_buffer",  "rx_drop_not_ours",
                                             "rx_drop_bad_header", "rx_drop_too_long",
                                             "tx_drop_full",       "tx_drop_no_route",
                                             "tx_drop_too_long",   "tx_drop_no_buffer",
                                             "tx_drop_error",      "socket_buffers_clamped"};

}  // namespace annulus::dataplane
