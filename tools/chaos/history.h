// What `annulus chaos` asks of the cluster, and what its clients saw: every command with when it
// was meant to start, when it was sent, when and how it ended. One thread writes; read at the end.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/clock.h"
#include "statemachine/client.h"
#include "tools/history/linearizability.h"

namespace annulus::chaos {

/// What commands are about. Objects are independent of each other, so each is verified by itself.
enum class ObjectType : std::uint8_t {
  kRegister,  // a key that is set to values, no two alike
  kCounter,   // a key that is incremented by one
  kList,      // a key to whose value elements are appended, no two alike
  kGroup,     // a range of the B-tree into which keys are inserted, each once
};
struct Object {
  ObjectType type{};
  std::uint32_t number = 0;
  auto operator<=>(const Object&) const = default;
};
/// "r12": the key of all but groups, and the name of them all.
std::string name_of(const Object& object);

/// An object's write and its read.
struct Command {
  Object object;
  bool write = false;
  std::uint64_t number = 0;  // of a write: its value, its element, its place in the group
};
/// For the native client, and for the proxy.
std::uint8_t service_of(const Command& command);
std::string body_of(const Command& command);
std::vector<std::string> words_of(const Command& command);

enum class End : std::uint8_t {
  kOpen,         // not ended
  kAnswered,     // with the outcome that is recorded
  kExecuted,     // but its reply is lost
  kUnknown,      // may or may not have been executed
  kNotExecuted,  // says whoever refused it
  kRefused,      // with an error that a working cluster does not give
};

/// How a reply of the native client, or of the proxy in wire form, ends the command.
End end_of(const statemachine::Completion& completion, history::Outcome& outcome);
End end_of(const Command& command, std::string_view reply, history::Outcome& outcome);

struct Entry {
  Command command;
  bool native = false;  // else through the proxy
  End end = End::kOpen;
  Nanos intended = 0;
  Nanos ended = kNever;          // however it did
  history::Operation operation;  // its id is the entry's place in the history, from 1
};
/// One line for people; times count from `begin`. Of a longer reply, both ends are shown.
std::string describe(const Entry& entry, Nanos begin, std::size_t reply_most = SIZE_MAX);

class History {
 public:
  /// A command is about to be sent. Returns its id.
  std::uint64_t begin(const Command& command, bool native, Nanos intended, Nanos now);
  void finish(std::uint64_t id, End end, history::Outcome outcome, Nanos now);

  const std::deque<Entry>& entries() const { return entries_; }
  std::deque<Entry>& entries() { return entries_; }

 private:
  std::deque<Entry> entries_;
};

/// The number in a register's value ("v17"), 0 if it has none; and how a value is written.
std::uint64_t value_number(std::string_view value);
std::string value_text(std::uint64_t number);
/// Elements of lists are this long.
constexpr std::size_t kElementBytes = 9;
std::string element_text(std::uint64_t number);
/// The number of a counter in text, or of an 8-byte reply.
std::uint64_t counter_number(std::string_view text);
std::uint64_t reply_number(std::string_view reply);
/// The places of a group that a range's reply shows.
std::vector<std::uint64_t> places_of(const Object& group, const std::string& reply);

}  // namespace annulus::chaos
