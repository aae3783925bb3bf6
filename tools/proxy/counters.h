// What a proxy counts. Every connection that ends is counted by why; every command by how.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/counters.h"

namespace annulus::proxy {

enum class ProxyCounter : std::uint8_t {
  kConnectionsAccepted,
  kConnectionsOpen,
  kCloseByClient,       // end of stream, everything answered
  kCloseReset,          // the network or the client broke the connection
  kCloseQuit,           // QUIT
  kCloseProtocolError,  // the stream could not be followed
  kCloseOutputFull,     // more unread replies than a connection may hold
  kCloseOutputStalled,  // did not read its replies for too long
  kCloseNoMemory,       // the pool of reply memory ran empty
  kCloseShutdown,       // the proxy ended
  kRefuseClientsMax,    // over the limit of connections
  kRefuseNoDescriptor,  // accept failed: no file descriptor, no kernel memory
  kBytesIn,
  kBytesOut,
  kCommandsLocal,       // answered by the proxy itself, errors included
  kCommandsReplicated,  // given to the cluster
  kTransactions,        // of these, EXECs
  kRepliesOutOfOrder,   // held back for an earlier command of the same connection
  kErrorReplies,        // of commands that the cluster answered otherwise than kOk and conditions
  kOversizedSkipped,    // commands skipped because of their size
  kBackPressure,        // a connection had to wait for the cluster
  kPausedOutput,        // a connection was not read because of its unread replies
  kNotAcceptedInTime,   // commands refused because the cluster did not take them in time
  kSessionsOpened,
  kCount,
};

}  // namespace annulus::proxy

template <>
struct annulus::dataplane::CounterNames<annulus::proxy::ProxyCounter> {
  static constexpr std::array<const char*,
                              static_cast<std::size_t>(annulus::proxy::ProxyCounter::kCount)>
      names = {"connections_accepted",
               "connections_open",
               "close_by_client",
               "close_reset",
               "close_quit",
               "close_protocol_error",
               "close_output_full",
               "close_output_stalled",
               "close_no_memory",
               "close_shutdown",
               "refuse_clients_max",
               "refuse_no_descriptor",
               "bytes_in",
               "bytes_out",
               "commands_local",
               "commands_replicated",
               "transactions",
               "replies_out_of_order",
               "error_replies",
               "oversized_skipped",
               "back_pressure",
               "paused_output",
               "not_accepted_in_time",
               "sessions_opened"};
};
