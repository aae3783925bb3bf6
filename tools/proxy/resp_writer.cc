#include "tools/proxy/resp_writer.h"

#include <string>

namespace annulus::proxy {

void RespWriter::framed(char type, std::string_view text) {
  raw({&type, 1});
  raw(text);
  raw("\r\n");
}

void RespWriter::error(std::string_view text) {
  raw("-");
  while (!text.empty()) {
    const std::size_t line = std::min(text.find_first_of("\r\n"), text.size());
    raw(text.substr(0, line));
    if (line == text.size()) break;
    raw(" ");
    text.remove_prefix(line + 1);
  }
  raw("\r\n");
}

void RespWriter::verbatim(std::string_view text) {
  if (!resp3_) {
    bulk(text);
    return;
  }
  header('=', static_cast<std::int64_t>(text.size() + 4));
  raw("txt:");
  raw(text);
  raw("\r\n");
}

}  // namespace annulus::proxy
