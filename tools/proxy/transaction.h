// The commands a connection queued after MULTI: replicated ones as entries of one atomic command,
// the proxy's own as their arguments, and for each a note of how to answer it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "statemachine/batch.h"
#include "tools/proxy/byte_chain.h"
#include "tools/proxy/request.h"
#include "tools/proxy/resp_writer.h"

namespace annulus::proxy {

class Transaction {
 public:
  bool open() const { return open_; }
  /// A command could not be queued: EXEC will refuse.
  bool failed() const { return failed_; }
  void begin() { open_ = true; }
  void fail() { failed_ = true; }
  std::uint32_t count() const { return count_; }
  bool any_replicated() const { return replicated_ > 0; }
  /// For the atomic command's header: a transaction of nothing but reads is a read.
  std::uint8_t flags() const { return writes_ ? 0 : statemachine::kReadOnly; }

  /// False when the transaction would become too large, or memory ran out: it cannot go on.
  /// `scratch` holds the request's body for a moment.
  bool add(ChunkPool& pool, const Request& request, std::span<std::byte> scratch,
           std::uint32_t body_bytes_max);
  /// A command that the proxy answers itself, when the transaction is executed.
  bool add_local(ChunkPool& pool, std::span<const std::string_view> arguments);

  /// The atomic command's body.
  std::uint32_t body_bytes() const;
  void encode(std::span<std::byte> body) const;

  /// What render_transaction() needs; the caller owns it from then on.
  ByteChain take_notes();
  void clear(ChunkPool& pool);

 private:
  static constexpr std::uint32_t kNotesBytesMax = 65'536;

  bool open_ = false;
  bool failed_ = false;
  bool writes_ = false;
  std::uint32_t count_ = 0;
  std::uint32_t replicated_ = 0;
  ByteChain entries_;
  ByteChain notes_;
};

/// Executes and answers a command of the proxy itself.
class LocalExecutor {
 public:
  virtual ~LocalExecutor() = default;
  virtual void execute(std::span<const std::string_view> arguments, RespWriter& writer) = 0;
};

/// Writes the reply to EXEC. `notes` as taken (read from `flat`, into which they are copied, and
/// which outlives the call); `reply` is what the cluster answered, empty if it was not asked.
void render_transaction(std::span<const char> flat, statemachine::CommandStatus status,
                        std::span<const std::byte> reply, LocalExecutor& local, RespWriter& writer);

}  // namespace annulus::proxy
