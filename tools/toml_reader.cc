#include "tools/toml_reader.h"

#include <algorithm>

#include "tools/config.h"

namespace annulus::tools {
namespace {

const char* type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return node.is_array_of_tables() ? "an array of tables" : "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a floating-point number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

std::string range(std::uint64_t low, std::uint64_t high) {
  return std::to_string(low) + " to " + std::to_string(high);
}

}  // namespace

void Mistakes::note(const toml::node* node, const std::string& what) {
  note_line(node == nullptr ? 0 : node->source().begin.line, what);
}

void Mistakes::note_line(std::uint32_t line, const std::string& what) {
  found_.emplace_back(line, what);
}

std::string Mistakes::text() const {
  std::vector<std::pair<std::uint32_t, std::string>> sorted = found_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (const auto& [line, what] : sorted) {
    if (!text.empty()) text += '\n';
    text += path_ + (line == 0 ? "" : ":" + std::to_string(line)) + ": " + what;
  }
  return text;
}

const toml::node* TomlReader::find(const char* key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
  return table_ == nullptr ? nullptr : table_->get(key);
}

void TomlReader::wrong_type(const char* key, const toml::node& node, const char* wanted) {
  mistakes_.note(&node, "'" + std::string(key) + "' in " + where_ + " is " + type_name(node) +
                            "; it must be " + wanted);
}

void TomlReader::text(const char* key, std::string& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  if (!node->is_string()) return wrong_type(key, *node, "a string");
  out = node->as_string()->get();
}

void TomlReader::boolean(const char* key, bool& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  if (!node->is_boolean()) return wrong_type(key, *node, "true or false");
  out = node->as_boolean()->get();
}

void TomlReader::number(const char* key, std::uint64_t low, std::uint64_t high,
                        std::uint64_t& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  if (!node->is_integer()) return wrong_type(key, *node, "an integer");
  const std::int64_t value = node->as_integer()->get();
  if (value < 0 || static_cast<std::uint64_t>(value) < low ||
      static_cast<std::uint64_t>(value) > high) {
    mistakes_.note(node, "'" + std::string(key) + "' in " + where_ + " is " +
                             std::to_string(value) + "; it must be " + range(low, high));
    return;
  }
  out = static_cast<std::uint64_t>(value);
}

void TomlReader::number(const char* key, std::uint32_t low, std::uint32_t high,
                        std::uint32_t& out) {
  std::uint64_t wide = out;
  number(key, std::uint64_t{low}, std::uint64_t{high}, wide);
  out = static_cast<std::uint32_t>(wide);
}

void TomlReader::endpoint(const char* key, dataplane::Endpoint& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  if (!node->is_string()) return wrong_type(key, *node, "a string such as \"10.0.0.1:4000\"");
  Result<dataplane::Endpoint> parsed = dataplane::parse_endpoint(node->as_string()->get());
  if (!parsed) {
    mistakes_.note(node, "'" + std::string(key) + "' in " + where_ + ": " + parsed.error().message);
    return;
  }
  out = *parsed;
}

void TomlReader::texts(const char* key, std::vector<std::string>& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  const toml::array* array = node->as_array();
  if (array == nullptr || (!array->empty() && !array->is_homogeneous<std::string>())) {
    return wrong_type(key, *node, "an array of strings");
  }
  out.clear();
  for (const toml::node& element : *array) out.push_back(element.as_string()->get());
}

bool TomlReader::numbers(const char* key, std::uint64_t high, std::vector<std::uint64_t>& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return false;
  const toml::array* array = node->as_array();
  if (array == nullptr || (!array->empty() && !array->is_homogeneous<std::int64_t>())) {
    wrong_type(key, *node, "an array of integers");
    return false;
  }
  out.clear();
  bool right = true;
  for (const toml::node& element : *array) {
    const std::int64_t value = element.as_integer()->get();
    if (value < 0 || static_cast<std::uint64_t>(value) > high) {
      mistakes_.note(&element, "'" + std::string(key) + "' in " + where_ + " holds " +
                                   std::to_string(value) + "; each must be " + range(0, high));
      right = false;
      continue;
    }
    out.push_back(static_cast<std::uint64_t>(value));
  }
  return right;
}

void TomlReader::choice(const char* key, const std::vector<std::string>& names, std::size_t& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  if (!node->is_string()) return wrong_type(key, *node, "a string");
  const std::string& value = node->as_string()->get();
  const auto found = std::find(names.begin(), names.end(), value);
  if (found != names.end()) {
    out = static_cast<std::size_t>(found - names.begin());
    return;
  }
  std::string wanted;
  for (const std::string& name : names) wanted += (wanted.empty() ? "" : ", ") + name;
  const std::string near = nearest_name(value, names);
  mistakes_.note(node, "'" + std::string(key) + "' in " + where_ + " is '" + value +
                           "'; it must be one of: " + wanted +
                           (near.empty() ? "" : "; did you mean '" + near + "'?"));
}

void TomlReader::require(const char* key, const char* example) {
  if (find(key) != nullptr) return;
  mistakes_.note(table_,
                 where_ + " has no '" + key + "'; add, for example: " + key + " = " + example);
}

const toml::table* TomlReader::table(const char* key) {
  const toml::node* node = find(key);
  if (node == nullptr) return nullptr;
  if (!node->is_table()) {
    mistakes_.note(node, "'" + std::string(key) + "' is " + type_name(*node) +
                             "; it must be a table: [" + key + "]");
    return nullptr;
  }
  return node->as_table();
}

std::vector<const toml::table*> TomlReader::tables(const char* key) {
  std::vector<const toml::table*> found;
  const toml::node* node = find(key);
  if (node == nullptr) return found;
  if (!node->is_array_of_tables()) {
    mistakes_.note(node, "'" + std::string(key) + "' is " + type_name(*node) +
                             "; it must be an array of tables: [[" + key + "]]");
    return found;
  }
  for (const toml::node& element : *node->as_array()) found.push_back(element.as_table());
  return found;
}

void TomlReader::finish() {
  if (table_ == nullptr) return;
  for (const auto& [key, node] : *table_) {
    const std::string name(key.str());
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    const std::string near = nearest_name(name, known_);
    std::string known;
    for (const std::string& one : known_) known += (known.empty() ? "" : ", ") + one;
    mistakes_.note_line(
        key.source().begin.line,
        "unknown key '" + name + "' in " + where_ +
            (near.empty() ? "; known keys: " + known : "; did you mean '" + near + "'?"));
  }
}

}  // namespace annulus::tools
