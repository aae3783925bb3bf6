// One client's connection, and the slots in which its commands await their replies. Plain state:
// the proxy moves it.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <string>

#include "dataplane/clock.h"
#include "tools/proxy/byte_chain.h"
#include "tools/proxy/command_table.h"
#include "tools/proxy/counters.h"
#include "tools/proxy/resp_parser.h"
#include "tools/proxy/transaction.h"

namespace annulus::proxy {

constexpr std::uint32_t kNone = 0xffffffff;

/// Distance of two connections' input blocks: whole pages.
constexpr std::uint32_t kInputStride = (kInputBytesMax + 4'095) / 4'096 * 4'096;

/// One command that its connection has not been answered yet. Slots of a connection form a queue in
/// the order of its commands; a slot's index is the command's tag at the cluster's client.
struct Slot {
  static constexpr std::uint32_t kShortBytes = 26;

  std::uint32_t connection = kNone;  // kNone: the connection is gone, or the slot is free
  std::uint32_t next = kNone;        // of the connection's queue, or of the free list
  ReplyShape shape{};
  bool resp3 = false;
  bool done = false;  // the reply is here, and waits for those before it
  std::uint8_t short_bytes = 0;
  char short_reply[kShortBytes];  // a done reply of few bytes,
  ByteChain bytes;                // a longer one; before: the notes of a transaction
};
static_assert(sizeof(Slot) <= 64);

struct Connection {
  int descriptor = -1;
  std::uint32_t index = 0;
  std::uint64_t id = 0;  // as CLIENT ID reports it; never reused

  // What may happen next.
  bool readable = false;       // the kernel may have bytes, or the end of the stream
  bool hung_up = false;        // the peer has ended its side: read until the end
  bool ended = false;          // the end was read
  bool write_blocked = false;  // the kernel took less than it was given; wait for room
  bool closing = false;        // no more commands; close once everything is answered and sent
  bool aborted = false;        // close at the end of the turn, whatever is left
  bool refuse_next = false;    // the cluster did not take the first waiting command in time
  bool resp3 = false;
  ProxyCounter close_reason = ProxyCounter::kCloseByClient;

  // Which of the proxy's queues hold it. True until taken out, whoever has the slot by then.
  bool in_ready = false;
  bool in_dirty = false;
  bool in_waiting = false;
  bool in_stalled = false;

  RespParser parser;
  std::uint32_t input_begin = 0;  // unconsumed bytes, in the connection's own input block
  std::uint32_t input_end = 0;
  std::uint32_t input_high = 0;  // most bytes the block has held

  ByteChain out;
  std::uint32_t slots_first = kNone;
  std::uint32_t slots_last = kNone;
  std::uint32_t pending = 0;
  std::uint32_t reply_bytes_expected = 0;  // decaying maximum, for what is pending
  std::uint64_t bytes_sent = 0;
  Nanos waiting_since = 0;

  Transaction transaction;

  // For CLIENT LIST.
  sockaddr_in peer{};
  Nanos opened_at = 0;
  Nanos active_at = 0;
  const CommandInfo* last_command = nullptr;
  std::string name;

  bool open() const { return descriptor >= 0; }
};

}  // namespace annulus::proxy
