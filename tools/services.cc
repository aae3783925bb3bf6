#include "tools/services.h"

#include "statemachine/btree/btree.h"
#include "statemachine/kv/kv.h"
#include "tools/config.h"

namespace annulus::tools {
namespace {

std::unique_ptr<statemachine::Service> make_service(const ServiceConfig& config, std::uint8_t id) {
  const std::uint64_t bytes = std::uint64_t{config.memory_mb} << 20;
  if (config.name == "kv") {
    return std::make_unique<statemachine::kv::KvService>(
        statemachine::kv::KvOptions{.service = id, .limit_bytes = bytes});
  }
  if (config.name == "btree") {
    return std::make_unique<statemachine::btree::BtreeService>(
        statemachine::btree::BtreeOptions{.service = id, .limit_bytes = bytes});
  }
  return nullptr;
}

}  // namespace

const std::vector<std::string>& service_names() {
  static const std::vector<std::string> names = {"kv", "btree"};
  return names;
}

ServiceFactory service_factory(const std::vector<ServiceConfig>& services) {
  return [services] {
    Services made(1);
    for (const ServiceConfig& config : services) {
      made.push_back(make_service(config, static_cast<std::uint8_t>(made.size())));
      CHECK(made.back() != nullptr);
    }
    return made;
  };
}

std::uint8_t service_id(const std::vector<ServiceConfig>& services, const std::string& name) {
  for (std::size_t i = 0; i < services.size(); ++i) {
    if (services[i].name == name) return static_cast<std::uint8_t>(i + 1);
  }
  return 0;
}

}  // namespace annulus::tools
