#include "tools/state_answer.h"

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "tools/telemetry.h"

namespace annulus::tools {

std::string StateAnswer::operator()(const std::string& query) {
  const bool named = query.rfind("at=", 0) == 0;
  const std::uint64_t at = named ? std::strtoull(query.c_str() + 3, nullptr, 10) : 0;
  if (!asked_ || at != at_) {
    ticket_ = worker_.ask_state_hashes(consensus::Instance{at});
    at_ = at;
    asked_ = true;
  }
  statemachine::StateHashes hashes;
  for (int i = 0; i < 150; ++i) {
    if (worker_.state_hashes(ticket_, hashes)) {
      asked_ = false;
      return nlohmann::json{{"executed", raw(hashes.executed)},
                            {"kept", hashes.kept},
                            {"recomputed", hashes.recomputed},
                            {"sessions", hashes.sessions}}
          .dump();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return nlohmann::json{{"pending", true}}.dump();
}

Result<StateTold> fetch_state(const std::string& socket_path, std::uint64_t at) {
  const Result<std::string> text = fetch_telemetry(socket_path, "/state?at=" + std::to_string(at));
  if (!text) return text.error();
  const nlohmann::json json = nlohmann::json::parse(text.value(), nullptr, false);
  if (json.is_discarded() || !json.contains("executed")) {
    return Error{socket_path + ": has not executed instance " + std::to_string(at) + " yet"};
  }
  return StateTold{json["executed"], json["kept"], json["recomputed"]};
}

}  // namespace annulus::tools
