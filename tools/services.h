// The services that a configuration can name, made from it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "statemachine/service.h"

namespace annulus::tools {

struct ServiceConfig;

/// A replica's services by id; index 0 is the engine's own and null.
using Services = std::vector<std::unique_ptr<statemachine::Service>>;
/// Makes the services of one replica; called once for each.
using ServiceFactory = std::function<Services()>;

/// The names that [[services]] accepts.
const std::vector<std::string>& service_names();

ServiceFactory service_factory(const std::vector<ServiceConfig>& services);

/// The id that commands for the service `name` carry, or 0 when the cluster has none of it.
std::uint8_t service_id(const std::vector<ServiceConfig>& services, const std::string& name);

}  // namespace annulus::tools
