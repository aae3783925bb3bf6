// What an acceptor node needs of stable storage, and what it gets back when it starts again.
// recovery/acceptor_log.h implements it. One core owns a log, that of its acceptor.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "consensus/types.h"
#include "dataplane/buffer.h"
#include "dataplane/clock.h"
#include "dataplane/counters.h"
#include "dataplane/transport.h"

namespace annulus::consensus {

/// Something that must be on stable storage before what depends on it is said: an accept; or, with
/// no instance, a promise or (in `bytes`) a configuration.
struct Keep {
  std::uint64_t number = 0;  // the acceptor counts what it wants kept: 1, 2, 3 ...
  Instance instance{};
  Ballot ballot{};
  /// As the acceptor knew it just before. With a promise or a configuration: what is on stable
  /// storage already.
  Instance chosen_below{};
  Value value;
  dataplane::Slice bytes;
};

/// A value that is no longer in memory, and who wants it.
struct LogRead {
  Instance instance{};
  std::uint64_t fragments = 0;
  dataplane::Endpoint to;
};
struct LogValue {
  LogRead wanted;
  Ballot ballot{};  // at which it was accepted; 0: the log lost it
  Value value;
  dataplane::Slice bytes;
};

/// Half open; empty if `from` is not below `below`.
struct InstanceRange {
  Instance from{};
  Instance below{};
  bool contains(Instance i) const { return from <= i && i < below; }
  bool empty() const { return from >= below; }
  bool operator==(const InstanceRange&) const = default;
};

/// What an acceptor that starts again knows. "Known" is only what was read back undamaged: see
/// Acceptor::restore().
struct RecoveredAcceptor {
  std::vector<std::byte> configuration;  // the last that was kept; none: that of the bootstrap
  std::uint64_t incarnation = 0;         // Member::incarnation of whose log it is
  struct Accept {
    Instance instance{};
    Ballot ballot{};
    Value value;
    std::vector<std::byte> bytes;
  };
  Ballot promised{};
  Instance chosen_below = kFirstInstance;
  std::vector<Accept> accepted;   // from chosen_below on, and the last ones before; ascending
  InstanceRange unknown;          // of these, what `accepted` does not list may have been accepted
  std::vector<Instance> missing;  // below chosen_below: chosen, but not readable here
};

struct LogProgress {
  std::uint64_t durable = 0;  // everything numbered up to here is on stable storage
  std::uint64_t space = 0;    // bytes that may still be kept
  bool busy = false;          // transfers are under way: poll again soon
  bool failed = false;        // nothing that was not durable will ever be
};

class AcceptorLog {
 public:
  virtual ~AcceptorLog() = default;

  /// Valid until the first append.
  virtual const RecoveredAcceptor& recovered() const = 0;

  /// Takes what is to be kept, in the order of the numbers; takes over the references.
  virtual void append(std::span<Keep> keeps) = 0;
  /// Starts the writes of what was appended. Once per burst.
  virtual void submit(Nanos now) = 0;
  virtual LogProgress poll(Nanos now) = 0;

  /// Asks for a value. False if too much was asked for already: whoever wants it will ask again.
  virtual bool read(const LogRead& wanted) = 0;
  virtual bool next_read(LogValue& value) = 0;

  virtual void add_counters(dataplane::Registry& registry, const std::string& node) = 0;
};

/// What keeping a value may take of LogProgress::space: the bytes, and what frames them.
constexpr std::uint64_t log_cost(std::uint32_t bytes) { return 8'192 + bytes + bytes / 32; }

}  // namespace annulus::consensus
