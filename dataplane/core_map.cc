#include "dataplane/core_map.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <string_view>
#include <tuple>

namespace annulus::dataplane {
namespace {

/// As large as Linux can be built for.
constexpr std::uint32_t kCpusMax = 8'192;

bool contains(const std::vector<std::uint32_t>& list, std::uint32_t cpu) {
  return std::find(list.begin(), list.end(), cpu) != list.end();
}

/// Takes a number and the blanks around it off the front.
bool take_number(std::string_view& text, std::uint32_t& number) {
  const auto skip_blanks = [&] {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  };
  skip_blanks();
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc{}) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  skip_blanks();
  return true;
}

/// The CPU list in a file of sysfs; empty when there is none.
std::vector<std::uint32_t> read_cpu_list(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  Result<std::vector<std::uint32_t>> list = parse_cpu_list(text);
  return list ? std::move(*list) : std::vector<std::uint32_t>{};
}

/// A set of kCpusMax CPUs for the affinity calls.
struct CpuSet {
  static constexpr std::size_t kBytes = kCpusMax / 8;
  alignas(cpu_set_t) std::byte bits[kBytes] = {};
  cpu_set_t* get() { return reinterpret_cast<cpu_set_t*>(bits); }
};

std::vector<std::uint32_t> affinity_cpus() {
  CpuSet set;
  CHECK(sched_getaffinity(0, CpuSet::kBytes, set.get()) == 0);
  std::vector<std::uint32_t> cpus;
  for (std::uint32_t cpu = 0; cpu < kCpusMax; ++cpu) {
    if (CPU_ISSET_S(cpu, CpuSet::kBytes, set.get())) cpus.push_back(cpu);
  }
  return cpus;
}

/// 0 for the first hardware thread of a physical core, 1 for its sibling, and so on.
std::uint32_t sibling_rank(std::uint32_t cpu) {
  const std::vector<std::uint32_t> siblings = read_cpu_list(
      "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
  const auto at = std::find(siblings.begin(), siblings.end(), cpu);
  return at == siblings.end() ? 0 : static_cast<std::uint32_t>(at - siblings.begin());
}

const std::vector<std::uint32_t>* explicit_cpus(const CoreMap& map, const Placement& placement,
                                                std::string& role) {
  for (const std::string& key : {placement.node + "." + placement.stage, placement.stage}) {
    const auto entry = map.roles.find(key);
    if (entry != map.roles.end() && !entry->second.empty()) {
      role = key;
      return &entry->second;
    }
  }
  return nullptr;
}

Status check_cpu(const std::string& role, std::uint32_t cpu, const Host& host) {
  if (!contains(host.online, cpu)) {
    return Error{"[cores] " + role + ": there is no CPU " + std::to_string(cpu) +
                 "; this machine has " + to_cpu_list(host.online)};
  }
  if (!contains(host.cpus, cpu)) {
    return Error{"[cores] " + role + ": this process may not run on CPU " + std::to_string(cpu) +
                 ", only on " + to_cpu_list(host.cpus) +
                 " (its affinity mask); name one of these, or widen the mask (taskset, cpuset)"};
  }
  return {};
}

/// The CPUs over which stages without an entry are spread.
std::vector<std::uint32_t> automatic_cpus(const Host& host,
                                          const std::vector<std::uint32_t>& named) {
  std::vector<std::uint32_t> left;
  for (const std::uint32_t cpu : host.cpus) {
    if (!contains(named, cpu)) left.push_back(cpu);
  }
  if (left.empty()) left = host.cpus;
  // One CPU stays with the clients, the caller's own threads and the kernel: a cluster that polls
  // on all of them delays whom it serves.
  if (host.processes == 1 && named.empty() && left.size() > 1) left.pop_back();
  // Processes that share the machine take turns: each a share of its own while there is one.
  const auto all = static_cast<std::uint32_t>(left.size());
  const std::uint32_t share = std::max(1u, all / host.processes);
  std::rotate(left.begin(), left.begin() + (host.process * share) % all, left.end());
  left.resize(share);
  return left;
}

}  // namespace

Result<std::vector<std::uint32_t>> parse_cpu_list(const std::string& text) {
  const Error error{"'" + text + "' is not a list of CPUs; write numbers and ranges, as in 2-5,9"};
  std::vector<std::uint32_t> cpus;
  std::string_view rest = text;
  do {
    if (!cpus.empty()) rest.remove_prefix(1);  // the comma
    std::uint32_t first = 0;
    if (!take_number(rest, first)) return error;
    std::uint32_t last = first;
    if (rest.starts_with('-')) {
      rest.remove_prefix(1);
      if (!take_number(rest, last)) return error;
    }
    if (last < first || last >= kCpusMax) return error;
    for (std::uint32_t cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  } while (rest.starts_with(','));
  if (!rest.empty()) return error;
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::string to_cpu_list(std::vector<std::uint32_t> cpus) {
  std::sort(cpus.begin(), cpus.end());
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += std::to_string(cpus[i]);
    if (last != i) text += '-' + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

Host this_host() {
  Host host;
  host.cpus = affinity_cpus();
  host.online = read_cpu_list("/sys/devices/system/cpu/online");
  if (host.online.empty()) host.online = host.cpus;  // no sysfs here
  host.isolated = read_cpu_list("/sys/devices/system/cpu/isolated");
  std::vector<std::tuple<std::uint32_t, bool, std::uint32_t>> order;
  for (const std::uint32_t cpu : host.cpus) {
    order.emplace_back(sibling_rank(cpu), cpu == host.online.front(), cpu);
  }
  std::sort(order.begin(), order.end());
  for (std::size_t i = 0; i < order.size(); ++i) host.cpus[i] = std::get<2>(order[i]);
  return host;
}

Result<CorePlan> plan_cores(const CoreMap& map, std::span<const Placement> placements,
                            const Host& host) {
  std::vector<std::uint32_t> cpu_of(placements.size());
  std::vector<std::uint32_t> named;
  std::vector<std::uint32_t> automatic;
  std::map<std::string, std::size_t> used;  // how many stages a role has placed so far
  for (std::uint32_t i = 0; i < placements.size(); ++i) {
    std::string role;
    const std::vector<std::uint32_t>* cpus = explicit_cpus(map, placements[i], role);
    if (cpus == nullptr) {
      automatic.push_back(i);
      continue;
    }
    cpu_of[i] = (*cpus)[used[role]++ % cpus->size()];
    if (Status status = check_cpu(role, cpu_of[i], host); !status) return status.error();
    if (!contains(named, cpu_of[i])) named.push_back(cpu_of[i]);
  }

  // Heaviest first onto the least loaded CPU.
  const std::vector<std::uint32_t> spread = automatic_cpus(host, named);
  std::vector<std::uint64_t> load(spread.size());
  std::vector<std::uint32_t> by_weight = automatic;
  std::stable_sort(by_weight.begin(), by_weight.end(), [&](std::uint32_t a, std::uint32_t b) {
    return placements[a].weight > placements[b].weight;
  });
  for (const std::uint32_t i : by_weight) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    load[least] += std::max(1u, placements[i].weight);
    cpu_of[i] = spread[least];
  }

  std::map<std::uint32_t, CorePlan::Core> cores;
  for (std::uint32_t i = 0; i < placements.size(); ++i) {
    CorePlan::Core& core = cores[cpu_of[i]];
    core.cpu = cpu_of[i];
    core.placements.push_back(i);
  }
  const bool spare = cores.size() * host.processes < host.cpus.size();
  const bool shared = host.processes > host.cpus.size() && cores.size() == 1 && host.wakes;
  const IdlePolicy wanted = shared ? IdlePolicy::kSleep : IdlePolicy::kYield;
  CorePlan plan;
  for (auto& [cpu, core] : cores) {
    // A CPU that was not named may be wanted by anybody; yielding there costs 1 % while it is not.
    const bool alone = contains(host.isolated, cpu) || (spare && contains(named, cpu));
    core.idle = map.idle.value_or(alone ? IdlePolicy::kSpin : wanted);
    plan.cores.push_back(std::move(core));
  }
  return plan;
}

std::string to_string(const CorePlan& plan, std::span<const Placement> placements) {
  std::string text;
  for (const CorePlan::Core& core : plan.cores) {
    std::string cpu = std::to_string(core.cpu);
    cpu.resize(std::max<std::size_t>(cpu.size(), 3), ' ');
    std::string idle = to_string(core.idle);
    idle.resize(5, ' ');
    text += "cpu " + cpu + ' ' + idle;
    for (const std::uint32_t i : core.placements) {
      text += ' ' + placements[i].node + '.' + placements[i].stage;
    }
    text += '\n';
  }
  return text;
}

Status pin_this_thread(std::uint32_t cpu) {
  CpuSet set;
  if (cpu < kCpusMax) CPU_SET_S(cpu, CpuSet::kBytes, set.get());
  const int failure = pthread_setaffinity_np(pthread_self(), CpuSet::kBytes, set.get());
  if (failure != 0) {
    return Error{"cannot bind a thread to CPU " + std::to_string(cpu) + ": " +
                 std::strerror(failure) + "; this process may run on " +
                 to_cpu_list(affinity_cpus())};
  }
  return {};
}

}  // namespace annulus::dataplane
