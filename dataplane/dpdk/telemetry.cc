// The counter registry on DPDK's telemetry socket, for the stock client: dpdk-telemetry.py -f
// PREFIX.
#include <rte_telemetry.h>

#include <atomic>
#include <cerrno>

#include "dataplane/dpdk/dpdk.h"

namespace annulus::dataplane {
namespace {

// Set once, before the commands that read it are registered; telemetry's thread reads.
std::atomic<const Registry*> served{nullptr};

std::string label(const Registry::Group& group) { return group.node + "/" + group.stage; }
std::string label(const Registry::NamedHistogram& named) { return named.node + "/" + named.name; }

template <typename Entries>
int list_labels(const Entries& entries, rte_tel_data* reply) {
  rte_tel_data_start_array(reply, RTE_TEL_STRING_VAL);
  for (const auto& entry : entries) {
    if (rte_tel_data_add_array_string(reply, label(entry).c_str()) != 0) return -ENOSPC;
  }
  return 0;
}

int answer_counters(const char*, const char* wanted, rte_tel_data* reply) {
  const auto groups = served.load()->groups();
  if (wanted == nullptr || *wanted == '\0') return list_labels(groups, reply);
  for (const Registry::Group& group : groups) {
    if (label(group) != wanted) continue;
    rte_tel_data_start_dict(reply);
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      rte_tel_data_add_dict_u64(reply, group.names[i], group.values[i].get());
    }
    return 0;
  }
  return -ENOENT;
}

int answer_latency(const char*, const char* wanted, rte_tel_data* reply) {
  const auto histograms = served.load()->histograms();
  if (wanted == nullptr || *wanted == '\0') return list_labels(histograms, reply);
  for (const Registry::NamedHistogram& named : histograms) {
    if (label(named) != wanted) continue;
    const Histogram::Snapshot snapshot = named.histogram->snapshot();
    rte_tel_data_start_dict(reply);
    rte_tel_data_add_dict_u64(reply, "count", snapshot.count);
    rte_tel_data_add_dict_u64(reply, "p50", snapshot.at(0.50));
    rte_tel_data_add_dict_u64(reply, "p99", snapshot.at(0.99));
    rte_tel_data_add_dict_u64(reply, "p999", snapshot.at(0.999));
    rte_tel_data_add_dict_u64(reply, "max", snapshot.max);
    return 0;
  }
  return -ENOENT;
}

}  // namespace

Status serve_registry_on_telemetry(const Registry& registry) {
  if (served.exchange(&registry) != nullptr) return {};  // the commands stand already
  if (rte_telemetry_register_cmd("/annulus/counters", &answer_counters,
                                 "Lists NODE/STAGE names; with one, its counters") != 0 ||
      rte_telemetry_register_cmd("/annulus/latency", &answer_latency,
                                 "Lists NODE/NAME histograms; with one, its percentiles") != 0) {
    return Error{"dpdk: telemetry takes no more commands; start without other users of it"};
  }
  return {};
}

}  // namespace annulus::dataplane
