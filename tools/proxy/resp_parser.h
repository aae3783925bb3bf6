// Reads the client's side of the Redis protocol in place: arrays of bulk strings and inline
// commands. One parser a connection, a few words of state; arguments point into the input.
//
// Where Redis is lax (the two bytes that end a line or a bulk string are skipped, not compared),
// so is this parser, because its verdicts and its error texts are those of Redis 7.0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace annulus::proxy {

/// One argument longer than this is skipped as it arrives; no command accepts it.
constexpr std::uint32_t kArgumentBytesMax = 65'536;
/// A command, with its protocol framing, longer than this is skipped as it arrives.
constexpr std::uint32_t kCommandBytesMax = 131'072;
constexpr std::uint32_t kArgumentsMax = 8'192;
/// A line (inline command, count or length) without an end after this many bytes is an error.
constexpr std::uint32_t kLineBytesMax = 65'536;
/// Input that a caller must be able to hold for one connection: whatever next() leaves unconsumed
/// is shorter.
constexpr std::uint32_t kInputBytesMax = kCommandBytesMax + kLineBytesMax + 64;

/// The arguments of one command. Valid while the input they point into is.
class Arguments {
 public:
  std::uint32_t size() const { return count_; }
  std::string_view operator[](std::uint32_t i) const { return items_[i]; }
  std::span<const std::string_view> all() const { return {items_.data(), count_}; }
  void clear() { count_ = 0; }
  bool add(std::string_view argument) {
    if (count_ == kArgumentsMax) return false;
    items_[count_++] = argument;
    return true;
  }

 private:
  friend class RespParser;
  std::uint32_t count_ = 0;
  std::array<std::string_view, kArgumentsMax> items_;
  std::array<char, kLineBytesMax + 1> unquoted_;  // arguments of an inline command, quotes removed
};

enum class ParseOutcome : std::uint8_t {
  kCommand,     // a whole command (possibly of no arguments: nothing to answer)
  kIncomplete,  // more input is needed
  kTooLarge,    // a command was skipped because of its size; the stream continues after it
  kBroken,      // the stream cannot be followed any further: error() says why, then close
};

class RespParser {
 public:
  /// Looks for one command at the start of `input`, the connection's unconsumed bytes. `consumed`
  /// is what the caller must drop from the input's start, after it has used the arguments. If it
  /// does not drop a kCommand, the next call finds the same command again.
  ParseOutcome next(std::string_view input, Arguments& arguments, std::size_t& consumed);

  /// After kBroken: the error as Redis words it, without "-ERR ".
  std::string_view error() const { return {error_.data(), error_bytes_}; }

  /// After kIncomplete: input shorter than this cannot hold the command; no need to call before.
  std::size_t needed() const { return needed_; }

 private:
  ParseOutcome inline_command(std::string_view input, Arguments& arguments, std::size_t& consumed);
  ParseOutcome walk(std::string_view input, Arguments* arguments, std::size_t& consumed);
  ParseOutcome first_line(std::string_view input, std::size_t& consumed);
  ParseOutcome bulk_line(std::string_view input, std::size_t at, std::size_t& begin,
                         std::int64_t& bytes);
  ParseOutcome start_skipping(std::string_view input, std::uint64_t bytes_left,
                              std::size_t& consumed);
  ParseOutcome skip(std::string_view input, std::size_t from, std::size_t& consumed);
  ParseOutcome broken(std::string_view why);
  ParseOutcome incomplete(std::size_t position, std::size_t needed);

  // The command at the input's start, as far as it was walked: bytes, and arguments still to come.
  std::uint32_t walked_ = 0;
  std::uint32_t arguments_left_ = 0;
  std::size_t needed_ = 0;
  // While skipping a command: what is left of its current argument, with its line end.
  bool skipping_ = false;
  std::uint64_t skip_bytes_ = 0;
  std::uint8_t error_bytes_ = 0;
  std::array<char, 63> error_;
};

/// Strict decimal as Redis reads it: optional minus, no plus, no leading zeros, no spaces.
bool parse_integer(std::string_view text, std::int64_t& value);

}  // namespace annulus::proxy
