// Fuzz target: hostile bytes into the Redis protocol parser, whole and cut into pieces. The first
// byte chooses the size of the pieces; both ways must find the same commands.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "dataplane/result.h"
#include "tools/proxy/resp_parser.h"

namespace {

using annulus::proxy::Arguments;
using annulus::proxy::ParseOutcome;
using annulus::proxy::RespParser;

/// What the parser made of the stream, as text.
std::string transcript(std::string_view stream, std::size_t piece, Arguments& arguments) {
  RespParser parser;
  std::string input;
  std::string seen;
  while (!stream.empty()) {
    input += stream.substr(0, piece);
    stream.remove_prefix(stream.size() < piece ? stream.size() : piece);
    for (;;) {
      std::size_t consumed = 0;
      const ParseOutcome outcome = parser.next(input, arguments, consumed);
      CHECK(consumed <= input.size());
      if (outcome == ParseOutcome::kBroken) return seen + "!" + std::string(parser.error());
      if (outcome == ParseOutcome::kTooLarge) seen += "#";
      if (outcome == ParseOutcome::kCommand) {
        seen += "*";
        for (std::string_view argument : arguments.all()) {
          seen += std::to_string(argument.size()) + ":";
          seen += argument;
        }
      }
      input.erase(0, consumed);
      if (outcome == ParseOutcome::kIncomplete) break;
    }
    CHECK(input.size() <= annulus::proxy::kInputBytesMax);
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const auto arguments = std::make_unique<Arguments>();
  const std::string_view stream(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string whole = transcript(stream, size, *arguments);
  CHECK(whole == transcript(stream, 1 + data[0] % 16, *arguments));
  return 0;
}
