// Typed, checked access to a TOML table: every mistake is noted with file and line, every key that
// was not asked for is a mistake. For config.cc only; toml++ is a heavy header.
#pragma once

#include <toml++/toml.h>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/transport.h"

namespace annulus::tools {

/// Collects the mistakes of one file.
class Mistakes {
 public:
  explicit Mistakes(std::string path) : path_(std::move(path)) {}
  /// Notes `what` at the line of `node`, or of the whole file when there is none.
  void note(const toml::node* node, const std::string& what);
  void note_line(std::uint32_t line, const std::string& what);
  bool none() const { return found_.empty(); }
  std::string text() const;

 private:
  std::string path_;
  std::vector<std::pair<std::uint32_t, std::string>> found_;
};

/// One table. Each getter leaves `out` alone when the key is absent or wrong.
class TomlReader {
 public:
  /// `where` names the table in messages: "[limits]". `table` may be null: all keys absent.
  TomlReader(Mistakes& mistakes, const toml::table* table, std::string where)
      : mistakes_(mistakes), table_(table), where_(std::move(where)) {}

  bool has(const char* key) const { return table_ != nullptr && table_->contains(key); }
  void text(const char* key, std::string& out);
  void number(const char* key, std::uint64_t low, std::uint64_t high, std::uint64_t& out);
  void number(const char* key, std::uint32_t low, std::uint32_t high, std::uint32_t& out);
  void boolean(const char* key, bool& out);
  void endpoint(const char* key, dataplane::Endpoint& out);
  void texts(const char* key, std::vector<std::string>& out);
  /// True when the key holds a list without mistakes.
  bool numbers(const char* key, std::uint64_t high, std::vector<std::uint64_t>& out);
  /// One of `names`; `out` becomes its index.
  void choice(const char* key, const std::vector<std::string>& names, std::size_t& out);
  /// Notes that `key` is missing, with an example of its value.
  void require(const char* key, const char* example);
  const toml::table* table(const char* key);
  /// The elements of an array of tables; empty when absent.
  std::vector<const toml::table*> tables(const char* key);

  /// Call last: notes every key that no getter asked for, with the nearest that exists.
  void finish();

  /// For checks that the getters do not know.
  void note(const char* key, const std::string& what) { mistakes_.note(find(key), what); }
  const toml::node* node() const { return table_; }

 private:
  const toml::node* find(const char* key);
  void wrong_type(const char* key, const toml::node& node, const char* wanted);

  Mistakes& mistakes_;
  const toml::table* table_;
  std::string where_;
  std::vector<std::string> known_;
};

}  // namespace annulus::tools
