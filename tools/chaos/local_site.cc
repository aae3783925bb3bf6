// Nodes as `annulus dev --processes` starts them; the hub breaks the links between them.
#include <algorithm>
#include <cstdio>

#include "tools/chaos/site.h"
#include "tools/hub_control.h"

namespace annulus::chaos {
namespace {

class LocalSite final : public Site {
 public:
  explicit LocalSite(tools::ProcessCluster cluster) : cluster_(std::move(cluster)) {}

  Status start(tools::ProcessFamily& family, const tools::StopSignals& signals) override {
    return cluster_.start(family, signals);
  }
  void restart(tools::ProcessFamily& family, const tools::NodeConfig& node,
               const std::string& config) override {
    std::vector<std::string> arguments = cluster_.arguments(node, false);
    if (!config.empty()) *(std::ranges::find(arguments, "--config") + 1) = config;
    family.start(node.name, std::move(arguments));
  }
  const tools::Config& config() const override { return cluster_.config(); }
  tools::NodeConfig client() const override {
    return tools::extra_client(cluster_.config().cluster, cluster_.directory());
  }

  Status break_network(const Drawn& drawn) override {
    char text[100] = "";
    const std::uint32_t port = drawn.node + 1;  // of the hub
    switch (drawn.row->fault) {
      case Fault::kLinkDown:
        std::snprintf(text, sizeof text, "isolate %u", port);
        break;
      case Fault::kOneWay:
        std::snprintf(text, sizeof text, "cut %u %u", port, drawn.other + 1);
        break;
      case Fault::kLoss:
        std::snprintf(text, sizeof text, "loss %.3f", 0.005 + 0.1 * drawn.strength);
        break;
      case Fault::kDelay:
        std::snprintf(text, sizeof text, "delay %.0f %.0f", 2'000 * drawn.strength,
                      5'000 * drawn.strength);
        break;
      case Fault::kReorder:
        std::snprintf(text, sizeof text, "reorder %.3f %.0f", 0.01 + 0.2 * drawn.strength, 500.0);
        break;
      case Fault::kDuplicate:
        std::snprintf(text, sizeof text, "duplicate %.3f", 0.01 + 0.2 * drawn.strength);
        break;
      default:
        return Error{std::string(drawn.row->name) + ": is not done to links"};
    }
    return tell(text);
  }
  Status mend_network(const Drawn&) override { return tell("clear"); }

 private:
  Status tell(const std::string& command) const {
    const auto told = tools::tell_hub(cluster_.directory() + "/hub", command);
    if (!told) return told.error();
    return {};
  }

  tools::ProcessCluster cluster_;
};

}  // namespace

Result<std::unique_ptr<Site>> make_local_site(const SiteOptions& options) {
  auto prepared = tools::ProcessCluster::prepare({.directory = options.directory,
                                                  .disk = options.disk,
                                                  .memif = options.medium == Medium::kMemif,
                                                  .port = options.port,
                                                  .log_mb = options.log_mb,
                                                  .hub_ports_more = 1,
                                                  .death_signal = SIGKILL});
  if (!prepared) return prepared.error();
  return std::unique_ptr<Site>(std::make_unique<LocalSite>(std::move(prepared).value()));
}

}  // namespace annulus::chaos
