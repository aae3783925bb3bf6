#include "tools/proxy/resp_parser.h"

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstring>

namespace annulus::proxy {
namespace {

constexpr std::int64_t kBulkBytesMax = 512LL << 20;  // Redis' proto-max-bulk-len
constexpr std::size_t kNoEnd = ~std::size_t{0};

/// Where the line that starts at `from` ends ('\r'; the byte after it is there too), or kNoEnd.
std::size_t line_end(std::string_view input, std::size_t from) {
  const std::size_t at = input.find('\r', from);
  return at != std::string_view::npos && at + 1 < input.size() ? at : kNoEnd;
}

/// Decodes what nearly every line is, a plain count of one to seven digits from `from`; `end` is
/// then where its '\r' stands. Otherwise false: line_end() and parse_integer() have the last word.
bool short_count(std::string_view input, std::size_t from, std::size_t& end, std::int64_t& value) {
  const std::size_t last = std::min(input.size(), from + 8);
  std::uint32_t sum = 0;
  std::size_t at = from;
  for (; at < last; ++at) {
    const std::uint32_t digit = static_cast<std::uint8_t>(input[at]) - std::uint32_t{'0'};
    if (digit > 9) break;
    sum = sum * 10 + digit;
  }
  if (at == from || at + 1 >= input.size() || input[at] != '\r') return false;
  if (input[from] == '0' && at > from + 1) return false;
  end = at;
  value = sum;
  return true;
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// A vertical tab or form feed separates words, but does not end one.
bool ends_word(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

char escaped(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'b':
      return '\b';
    case 'a':
      return '\a';
    default:
      return c;
  }
}

/// Reads one double-quoted piece that starts after its opening quote; false when unbalanced.
bool read_double_quoted(std::string_view line, std::size_t& at, char*& out) {
  while (at < line.size()) {
    const char c = line[at];
    if (c == '\\' && at + 3 < line.size() && line[at + 1] == 'x' && hex_value(line[at + 2]) >= 0 &&
        hex_value(line[at + 3]) >= 0) {
      *out++ = static_cast<char>(hex_value(line[at + 2]) * 16 + hex_value(line[at + 3]));
      at += 4;
    } else if (c == '\\' && at + 1 < line.size()) {
      *out++ = escaped(line[at + 1]);
      at += 2;
    } else if (c == '"') {
      ++at;
      return at == line.size() || is_space(line[at]);  // nothing may follow but a space
    } else {
      *out++ = c;
      ++at;
    }
  }
  return false;
}

bool read_single_quoted(std::string_view line, std::size_t& at, char*& out) {
  while (at < line.size()) {
    if (line[at] == '\\' && at + 1 < line.size() && line[at + 1] == '\'') {
      *out++ = '\'';
      at += 2;
    } else if (line[at] == '\'') {
      ++at;
      return at == line.size() || is_space(line[at]);
    } else {
      *out++ = line[at++];
    }
  }
  return false;
}

/// One word of an inline command, quotes resolved, into `out`; false when quotes do not balance.
bool read_word(std::string_view line, std::size_t& at, char*& out) {
  while (at < line.size() && !ends_word(line[at])) {
    if (line[at] == '"') {
      if (!read_double_quoted(line, ++at, out)) return false;
      return true;
    }
    if (line[at] == '\'') {
      if (!read_single_quoted(line, ++at, out)) return false;
      return true;
    }
    *out++ = line[at++];
  }
  return true;
}

}  // namespace

bool parse_integer(std::string_view text, std::int64_t& value) {
  if (text.empty() || text.size() > 20) return false;
  const std::size_t first = text[0] == '-' ? 1 : 0;
  if (first == text.size()) return false;
  if (text[first] == '0' && text.size() > 1) return false;  // neither "01" nor "-0"
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

ParseOutcome RespParser::broken(std::string_view why) {
  error_bytes_ = static_cast<std::uint8_t>(std::min(why.size(), error_.size()));
  std::memcpy(error_.data(), why.data(), error_bytes_);
  return ParseOutcome::kBroken;
}

ParseOutcome RespParser::incomplete(std::size_t position, std::size_t needed) {
  walked_ = static_cast<std::uint32_t>(position);
  needed_ = needed;
  return ParseOutcome::kIncomplete;
}

ParseOutcome RespParser::next(std::string_view input, Arguments& arguments, std::size_t& consumed) {
  consumed = 0;
  needed_ = 0;
  arguments.count_ = 0;
  if (skipping_) return skip(input, 0, consumed);
  if (input.empty()) return incomplete(0, 1);
  if (input[0] != '*') return inline_command(input, arguments, consumed);
  if (walked_ != 0) {
    // Part of this command was walked before: walk on to its end, then once more for the arguments.
    const ParseOutcome outcome = walk(input, nullptr, consumed);
    if (outcome != ParseOutcome::kCommand) return outcome;
    walked_ = 0;
  }
  const ParseOutcome outcome = first_line(input, consumed);
  if (outcome != ParseOutcome::kCommand || arguments_left_ == 0) return outcome;
  return walk(input, &arguments, consumed);
}

// The line "*<count>". Leaves walked_ after it and the count in arguments_left_.
ParseOutcome RespParser::first_line(std::string_view input, std::size_t& consumed) {
  std::size_t end = 0;
  std::int64_t count = 0;
  if (!short_count(input, 1, end, count)) {
    end = line_end(input, 1);
    if (end == kNoEnd) {
      if (input.size() > kLineBytesMax) return broken("Protocol error: too big mbulk count string");
      return incomplete(0, input.size() + 1);
    }
    if (!parse_integer(input.substr(1, end - 1), count) || count > INT_MAX) {
      return broken("Protocol error: invalid multibulk length");
    }
  }
  walked_ = static_cast<std::uint32_t>(end + 2);
  arguments_left_ = count <= 0 ? 0 : static_cast<std::uint32_t>(count);
  if (arguments_left_ > kArgumentsMax) return start_skipping(input, 0, consumed);
  if (arguments_left_ == 0) {
    consumed = walked_;
    walked_ = 0;
  }
  return ParseOutcome::kCommand;
}

// The line "$<length>" at `at`: where its argument begins, and how long it is.
ParseOutcome RespParser::bulk_line(std::string_view input, std::size_t at, std::size_t& begin,
                                   std::int64_t& bytes) {
  std::size_t end = 0;
  if (at < input.size() && input[at] == '$' && short_count(input, at + 1, end, bytes)) {
    begin = end + 2;
    return ParseOutcome::kCommand;
  }
  end = at < input.size() ? line_end(input, at) : kNoEnd;
  if (end == kNoEnd) {
    if (input.size() - at <= kLineBytesMax) return ParseOutcome::kIncomplete;
    return broken("Protocol error: too big bulk count string");
  }
  if (input[at] != '$') {
    char text[] = "Protocol error: expected '$', got '?'";
    text[sizeof(text) - 3] = input[at];
    return broken({text, sizeof(text) - 1});
  }
  if (!parse_integer(input.substr(at + 1, end - at - 1), bytes) || bytes < 0 ||
      bytes > kBulkBytesMax) {
    return broken("Protocol error: invalid bulk length");
  }
  begin = end + 2;
  return ParseOutcome::kCommand;
}

ParseOutcome RespParser::walk(std::string_view input, Arguments* arguments, std::size_t& consumed) {
  std::size_t at = walked_;
  while (arguments_left_ > 0) {
    std::size_t begin = 0;
    std::int64_t bytes = 0;
    const ParseOutcome line = bulk_line(input, at, begin, bytes);
    if (line == ParseOutcome::kIncomplete) return incomplete(at, input.size() + 1);
    if (line == ParseOutcome::kBroken) return line;
    const std::size_t after = begin + static_cast<std::size_t>(bytes) + 2;
    if (bytes > kArgumentBytesMax || after > kCommandBytesMax) {
      walked_ = static_cast<std::uint32_t>(begin);
      arguments_left_ -= 1;
      return start_skipping(input, static_cast<std::uint64_t>(bytes) + 2, consumed);
    }
    if (after > input.size()) return incomplete(at, after);
    if (arguments != nullptr) {
      arguments->items_[arguments->count_++] = input.substr(begin, after - 2 - begin);
    }
    arguments_left_ -= 1;
    at = after;
  }
  consumed = at;
  walked_ = 0;
  return ParseOutcome::kCommand;
}

ParseOutcome RespParser::start_skipping(std::string_view input, std::uint64_t bytes_left,
                                        std::size_t& consumed) {
  skipping_ = true;
  skip_bytes_ = bytes_left;
  const std::size_t from = walked_;
  walked_ = 0;
  return skip(input, from, consumed);
}

ParseOutcome RespParser::skip(std::string_view input, std::size_t from, std::size_t& consumed) {
  std::size_t at = from;
  for (;;) {
    const std::size_t dropped = std::min<std::uint64_t>(skip_bytes_, input.size() - at);
    at += dropped;
    skip_bytes_ -= dropped;
    consumed = at;
    if (skip_bytes_ > 0) break;
    if (arguments_left_ == 0) {
      skipping_ = false;
      return ParseOutcome::kTooLarge;
    }
    std::size_t begin = 0;
    std::int64_t bytes = 0;
    const ParseOutcome line = bulk_line(input, at, begin, bytes);
    if (line == ParseOutcome::kIncomplete) break;
    if (line == ParseOutcome::kBroken) return line;
    arguments_left_ -= 1;
    skip_bytes_ = static_cast<std::uint64_t>(bytes) + 2;
    at = begin;
  }
  needed_ = input.size() - consumed + 1;
  return ParseOutcome::kIncomplete;
}

ParseOutcome RespParser::inline_command(std::string_view input, Arguments& arguments,
                                        std::size_t& consumed) {
  const std::size_t newline = input.find('\n');
  if (newline == std::string_view::npos) {
    if (input.size() > kLineBytesMax) return broken("Protocol error: too big inline request");
    return incomplete(0, input.size() + 1);
  }
  if (newline > kLineBytesMax) return broken("Protocol error: too big inline request");
  std::size_t length = newline;
  if (length > 0 && input[length - 1] == '\r') --length;
  std::string_view line = input.substr(0, length);
  line = line.substr(0, line.find('\0'));
  char* out = arguments.unquoted_.data();
  std::size_t at = 0;
  bool too_many = false;
  for (;;) {
    while (at < line.size() && is_space(line[at])) ++at;
    if (at == line.size()) break;
    char* const word = out;
    if (!read_word(line, at, out)) {
      return broken("Protocol error: unbalanced quotes in request");
    }
    if (!arguments.add({word, static_cast<std::size_t>(out - word)})) too_many = true;
  }
  consumed = newline + 1;
  return too_many ? ParseOutcome::kTooLarge : ParseOutcome::kCommand;
}

}  // namespace annulus::proxy
