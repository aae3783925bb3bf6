#include "tools/chaos/watch.h"

#include <nlohmann/json.hpp>

#include "tools/telemetry.h"

namespace annulus::chaos {

std::optional<Reading> read_node(const std::string& directory, const std::string& name) {
  const auto text = tools::fetch_telemetry(tools::telemetry_path(directory, name));
  if (!text) return std::nullopt;
  const nlohmann::json json = nlohmann::json::parse(text.value(), nullptr, false);
  if (json.is_discarded()) return std::nullopt;
  Reading reading{.pid = json.value("pid", 0)};
  for (const nlohmann::json& group : json["groups"]) {
    const auto add = [&](const char* stage, const char* counter, std::uint64_t& to) {
      if (group["stage"] == stage) to += group["values"].value(counter, std::uint64_t{0});
    };
    add("acceptor", "phase2a_accepted", reading.accepted);
    add("coordinator", "elections_won", reading.elections_won);
  }
  for (const nlohmann::json& gauge : json["gauges"]) {
    if (gauge["name"] == "executed_instance") reading.executed = gauge["value"];
  }
  return reading;
}

}  // namespace annulus::chaos
