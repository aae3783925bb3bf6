// Writes replies in RESP2 or RESP3 to the end of a byte chain.
#pragma once

#include <charconv>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "tools/proxy/byte_chain.h"

namespace annulus::proxy {

class RespWriter {
 public:
  RespWriter(ByteChain& out, ChunkPool& pool, bool resp3)
      : out_(&out), pool_(&pool), resp3_(resp3) {}

  bool resp3() const { return resp3_; }
  /// HELLO answers in the protocol it switches to.
  void set_resp3(bool resp3) { resp3_ = resp3; }
  /// The pool ran empty: what was written is incomplete and the connection cannot go on.
  bool failed() const { return failed_; }

  void ok() { raw("+OK\r\n"); }
  void simple(std::string_view text) { framed('+', text); }
  /// `text` starts with its code ("ERR ..."). Line ends inside become spaces, as in Redis.
  void error(std::string_view text);
  void integer(std::int64_t value) { header(':', value); }
  void bulk(std::string_view bytes) {
    if (bytes.size() <= kInlineBytes) {
      short_bulk(bytes);
      return;
    }
    header('$', static_cast<std::int64_t>(bytes.size()));
    raw(bytes);
    raw("\r\n");
  }
  /// Text for a person: a verbatim string in RESP3.
  void verbatim(std::string_view text);
  void null() { raw(resp3_ ? "_\r\n" : "$-1\r\n"); }
  void array(std::uint64_t count) { header('*', static_cast<std::int64_t>(count)); }
  /// `count` pairs; in RESP2 an array of twice as many.
  void map(std::uint64_t count) {
    header(resp3_ ? '%' : '*', static_cast<std::int64_t>(resp3_ ? count : 2 * count));
  }
  void set(std::uint64_t count) { header(resp3_ ? '~' : '*', static_cast<std::int64_t>(count)); }
  /// Bytes that are RESP already.
  void raw(std::string_view bytes) {
    if (!out_->append(*pool_, bytes)) failed_ = true;
  }

 private:
  static constexpr std::uint32_t kInlineBytes = 1'536;
  static constexpr std::uint32_t kHeaderBytes = 24;

  void framed(char type, std::string_view text);
  static char* put_header(char* to, char type, std::int64_t value) {
    *to++ = type;
    to = std::to_chars(to, to + kHeaderBytes - 3, value).ptr;
    *to++ = '\r';
    *to++ = '\n';
    return to;
  }
  void header(char type, std::int64_t value) {
    char* const to = out_->reserve(*pool_, kHeaderBytes);
    if (to == nullptr) {
      failed_ = true;
      return;
    }
    out_->commit(static_cast<std::uint32_t>(put_header(to, type, value) - to));
  }
  // One reservation for header, bytes and end.
  void short_bulk(std::string_view bytes) {
    const auto size = static_cast<std::uint32_t>(bytes.size());
    char* const to = out_->reserve(*pool_, kHeaderBytes + size + 2);
    if (to == nullptr) {
      failed_ = true;
      return;
    }
    char* end = put_header(to, '$', size);
    std::memcpy(end, bytes.data(), size);
    end += size;
    *end++ = '\r';
    *end++ = '\n';
    out_->commit(static_cast<std::uint32_t>(end - to));
  }

  ByteChain* out_;
  ChunkPool* pool_;
  bool resp3_;
  bool failed_ = false;
};

}  // namespace annulus::proxy
