#include "tools/members_answer.h"

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

namespace annulus::tools {
namespace {

using consensus::Change;
using nlohmann::json;

const char* to_string(consensus::Standing standing) {
  switch (standing) {
    case consensus::Standing::kMember:
      return "member";
    case consensus::Standing::kJoining:
      return "joining";
    case consensus::Standing::kRemoved:
      return "removed";
    case consensus::Standing::kMajorityLost:
      return "majority lost";
  }
  return "unknown";
}

std::map<std::string, std::uint64_t> numbers(const std::string& query) {
  std::map<std::string, std::uint64_t> all;
  for (std::size_t at = 0; at < query.size();) {
    const std::size_t end = std::min(query.find('&', at), query.size());
    const std::size_t equals = query.find('=', at);
    if (equals < end) {
      all[query.substr(at, equals - at)] = std::strtoull(query.c_str() + equals + 1, nullptr, 10);
    }
    at = end + 1;
  }
  return all;
}

/// False if the query is no change.
bool parse(const std::string& query, Change& change) {
  auto all = numbers(query);
  const std::uint64_t verb = all["verb"];
  const std::uint64_t kind = all["kind"];
  if (all["operation"] == 0 || verb < 1 || verb > 3 || kind < 1 || kind > 2) return false;
  change.operation = all["operation"];
  change.verb = static_cast<consensus::ChangeVerb>(verb);
  change.kind = static_cast<consensus::JoinKind>(kind);
  change.member = consensus::NodeId{static_cast<std::uint32_t>(all["member"])};
  change.comes.endpoint = {static_cast<std::uint32_t>(all["address"]),
                           static_cast<std::uint16_t>(all["port"])};
  change.partitions = consensus::PartitionMask{all["partitions"]};
  return true;
}

}  // namespace

std::string to_query(const Change& change) {
  return "operation=" + std::to_string(change.operation) +
         "&verb=" + std::to_string(static_cast<int>(change.verb)) +
         "&kind=" + std::to_string(static_cast<int>(change.kind)) +
         "&member=" + std::to_string(raw(change.member)) +
         "&address=" + std::to_string(change.comes.endpoint.address) +
         "&port=" + std::to_string(change.comes.endpoint.port) +
         "&partitions=" + std::to_string(raw(change.partitions));
}

std::string MembersAnswer::operator()(const std::string& query) {
  const consensus::Configuration now = consensus::decode(node_.board().read(), ring_);
  json answer = {{"epoch", now.epoch},          {"from", raw(now.from)},
                 {"settled", node_.settled()},  {"standing", to_string(node_.standing())},
                 {"operations", json::array()}, {"acceptors", json::array()},
                 {"replicas", json::array()}};
  for (const std::uint64_t operation : now.operations) {
    if (operation != 0) answer["operations"].push_back(operation);
  }
  for (const consensus::Member& each : now.acceptors) {
    answer["acceptors"].push_back(
        {{"id", raw(each.id)}, {"address", dataplane::to_string(each.endpoint)}});
  }
  for (const consensus::LearnerMember& each : now.learners) {
    if (each.id == consensus::kNoNode) continue;
    answer["replicas"].push_back({{"id", raw(each.id)},
                                  {"address", dataplane::to_string(each.endpoint)},
                                  {"partitions", raw(each.partitions)}});
  }
  Change change;
  if (!query.empty()) {
    consensus::ChangeVerdict verdict = consensus::ChangeVerdict::kBusy;
    if (parse(query, change)) {
      verdict = consensus::judge(now, change);
      const bool asked = verdict == consensus::ChangeVerdict::kAllowed && node_.ask_change(change);
      if (verdict == consensus::ChangeVerdict::kAllowed && !asked) {
        verdict = consensus::ChangeVerdict::kBusy;
      }
    }
    answer["verdict"] = consensus::to_string(verdict);
  }
  return answer.dump();
}

}  // namespace annulus::tools
