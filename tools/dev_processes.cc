// `annulus dev --processes`: writes a configuration, starts a process a node, stops them all.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "tools/config.h"
#include "tools/dev.h"
#include "tools/services.h"
#include "tools/signals.h"
#include "tools/telemetry.h"

namespace annulus::tools {
namespace {

constexpr std::uint32_t kLoopback = 0x7f000001;
constexpr std::uint32_t kMemifNetwork = 0x0a4d0000;  // 10.77.0.0
constexpr std::uint32_t kAcceptors = 3;
constexpr std::uint32_t kReplicas = 2;
constexpr std::uint16_t kMemifPort = 4'000;
constexpr std::size_t kDirectoryBytesMax = 80;  // sockets in it have paths of at most 107

/// UDP ports that nobody uses now.
std::vector<std::uint16_t> free_ports(std::size_t count) {
  std::vector<std::uint16_t> ports;
  std::vector<int> held;  // until all are chosen, so that they differ
  while (ports.size() < count) {
    const int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    held.push_back(probe);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(kLoopback);
    socklen_t length = sizeof address;
    CHECK(bind(probe, reinterpret_cast<const sockaddr*>(&address), length) == 0);
    CHECK(getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int probe : held) close(probe);
  return ports;
}

Config make_config(const DevProcesses& options, const std::string& directory) {
  Config config;
  config.path = directory + "/cluster.toml";
  ClusterConfig& cluster = config.cluster;
  CHECK(getrandom(&cluster.id, sizeof cluster.id, 0) == sizeof cluster.id);
  cluster.id = (cluster.id >> 1) | 1;  // TOML integers are signed
  cluster.durability = options.disk ? Durability::kDisk : Durability::kMemory;
  cluster.transport = options.memif ? TransportKind::kDpdk : TransportKind::kUdp;
  const std::vector<std::uint16_t> ports = free_ports(kAcceptors + kReplicas + 2);
  const auto group = static_cast<std::uint32_t>(cluster.id & 0xffff);
  cluster.group = {0xefc00000u | group, ports.back()};  // 239.192.0.0/14 is for organisations
  if (options.memif) cluster.group.port = kMemifPort;
  for (const std::string& name : service_names()) cluster.services.push_back({name});
  const auto add = [&](NodeKind kind) {
    NodeConfig node;
    node.kind = kind;
    const auto number = static_cast<std::uint32_t>(cluster.nodes.size() + 1);
    node.id = consensus::NodeId{number};
    node.name = to_string(kind) + std::to_string(cluster.count(kind) + 1);
    node.address = {kLoopback, ports[number - 1]};
    if (options.memif) {
      const std::string text = std::to_string(number);
      node.address = {kMemifNetwork + number, kMemifPort};
      node.device = "net_memif0,role=client,id=0,socket=" + directory + "/hub/" + text +
                    ".sock,socket-abstract=no,mac=02:00:00:00:00:0" + text;
    }
    if (kind == NodeKind::kProxy) node.listen = {kLoopback, options.port};
    if (kind == NodeKind::kAcceptor && options.disk) {
      node.directory = directory + "/" + node.name;
      node.log_mb = kDevLogMb;
    }
    cluster.nodes.push_back(node);
  };
  for (std::uint32_t i = 0; i < kAcceptors; ++i) add(NodeKind::kAcceptor);
  for (std::uint32_t i = 0; i < kReplicas; ++i) add(NodeKind::kReplica);
  add(NodeKind::kProxy);
  config.process.runtime = directory;
  return config;
}

/// The pid of the process that answers for a node, or 0.
pid_t telemetry_pid(const std::string& directory, const std::string& node) {
  const Result<std::string> text = fetch_telemetry(telemetry_path(directory, node));
  if (!text) return 0;
  const nlohmann::json json = nlohmann::json::parse(text.value(), nullptr, false);
  return json.is_discarded() ? 0 : json.value("pid", 0);
}

/// The processes of one cluster.
class Family {
 public:
  explicit Family(std::string directory) : directory_(std::move(directory)) {}
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  ~Family() { stop(); }

  /// Starts this program anew with `arguments`; its output goes to DIR/NAME.log.
  void start(const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "annulus");
    std::vector<char*> raw;
    for (std::string& argument : arguments) raw.push_back(argument.data());
    raw.push_back(nullptr);
    const std::string log = log_path(name);
    std::filesystem::remove(log);
    const pid_t parent = getpid();
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) exec(raw.data(), log.c_str(), parent);
    children_.push_back({name, child, true});
  }

  std::string log_path(const std::string& name) const { return directory_ + "/" + name + ".log"; }

  Status write_pids() const {
    std::ofstream file(directory_ + "/pids");
    for (const Child& child : children_) file << child.name << ' ' << child.pid << '\n';
    file.close();
    if (!file) return Error{directory_ + "/pids: cannot be written; is the disk full?"};
    return {};
  }

  /// Notices children that have ended; the name of one that has just done so, or "".
  std::string reap() {
    for (Child& child : children_) {
      if (!child.runs || waitpid(child.pid, nullptr, WNOHANG) != child.pid) continue;
      child.runs = false;
      return child.name;
    }
    return "";
  }

  /// Ends everything: SIGTERM, and SIGKILL for what is left after 5 s. A node started again by hand
  /// is no child, but its telemetry tells its pid.
  void stop() {
    std::vector<pid_t> strangers;
    for (const Child& child : children_) {
      if (child.runs) {
        kill(child.pid, SIGTERM);
      } else if (const pid_t pid = telemetry_pid(directory_, child.name); pid > 0) {
        strangers.push_back(pid);
        kill(pid, SIGTERM);
      }
    }
    const auto running = [&] {
      while (!reap().empty()) {
      }
      std::erase_if(strangers, [](pid_t pid) { return kill(pid, 0) != 0; });
      return !strangers.empty() ||
             std::any_of(children_.begin(), children_.end(), [](const Child& c) { return c.runs; });
    };
    for (int i = 0; i < 500 && running(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    for (const pid_t pid : strangers) kill(pid, SIGKILL);
    for (const Child& child : children_) {
      if (child.runs && kill(child.pid, SIGKILL) == 0) waitpid(child.pid, nullptr, 0);
    }
    children_.clear();
  }

 private:
  struct Child {
    std::string name;
    pid_t pid;
    bool runs;
  };

  [[noreturn]] static void exec(char** arguments, const char* log, pid_t parent) {
    // Ctrl-C is for the parent, which ends its children in order; if it dies, so do they.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    const int output = open(log, O_CREAT | O_WRONLY | O_APPEND, 0644);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    close(output);
    execv("/proc/self/exe", arguments);
    _exit(127);
  }

  std::string directory_;
  std::vector<Child> children_;
};

std::string last_line(const std::string& path) {
  std::ifstream file(path);
  std::string last;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

/// `again`: the directory holds a cluster whose acceptors have logs.
Status prepare(const DevProcesses& options, std::string& directory, Config& config, bool& again) {
  std::error_code failure;
  std::filesystem::create_directories(options.directory + (options.memif ? "/hub" : ""), failure);
  if (failure) {
    return Error{options.directory + ": cannot be created (" + failure.message() +
                 "); name a directory that this user may write to with --dir"};
  }
  directory = std::filesystem::canonical(options.directory);
  if (directory.size() > kDirectoryBytesMax) {
    return Error{directory +
                 ": too long for the sockets that go there; name a directory of at "
                 "most " +
                 std::to_string(kDirectoryBytesMax) + " bytes with --dir"};
  }
  const std::string path = directory + "/cluster.toml";
  again = options.disk && std::filesystem::exists(path);
  if (again) {
    auto loaded = load_config(path);
    if (!loaded) return loaded.error();
    config = std::move(loaded).value();
    const bool memif = config.cluster.transport == TransportKind::kDpdk;
    if (config.cluster.durability != Durability::kDisk || memif != options.memif) {
      return Error{path +
                   ": is of a cluster with another durability or transport; name another directory "
                   "with --dir"};
    }
    for (NodeConfig& node : config.cluster.nodes) {
      if (node.kind == NodeKind::kProxy) node.listen.port = options.port;
    }
  } else {
    config = make_config(options, directory);
  }
  for (const NodeConfig& node : config.cluster.nodes) {
    if (telemetry_pid(directory, node.name) == 0) continue;
    return Error{directory + ": '" + node.name +
                 "' of an earlier cluster still runs there; stop that one, or name another "
                 "directory with --dir"};
  }
  std::ofstream file(config.path);
  file << "# Written by `annulus dev`"
       << (options.disk ? ".\n" : "; a new cluster each time it starts.\n") << to_toml(config);
  file.close();
  if (!file) return Error{config.path + ": cannot be written; is the disk full?"};
  return {};
}

Status start_hub(Family& family, const std::string& directory, std::size_t ports, std::uint32_t mtu,
                 const StopSignals& signals) {
  family.start("hub", {"hub", "--dir", directory + "/hub", "--ports", std::to_string(ports),
                       "--mtu", std::to_string(mtu)});
  for (int i = 0; i < 300; ++i) {
    const std::string told = last_line(family.log_path("hub"));
    if (told == "ready") return {};
    if (!family.reap().empty()) return Error{"the hub has ended: " + told};
    if (signals.wait(100)) return Error{"interrupted before the hub served"};
  }
  return Error{"the hub is not ready after 30 s; see " + family.log_path("hub")};
}

}  // namespace

Status run_dev_processes(const DevProcesses& options, const StopSignals& signals) {
  std::string directory;
  Config config;
  bool again = false;
  if (Status prepared = prepare(options, directory, config, again); !prepared) return prepared;
  Family family(directory);
  if (options.memif) {
    Status hub =
        start_hub(family, directory, config.cluster.nodes.size(), config.cluster.mtu, signals);
    if (!hub) return hub;
  }
  for (const NodeConfig& node : config.cluster.nodes) {
    std::vector<std::string> arguments = {node.kind == NodeKind::kProxy ? "proxy" : "node",
                                          "--config", config.path, "--name", node.name};
    if (node.kind == NodeKind::kAcceptor && !again) arguments.push_back("--bootstrap");
    family.start(node.name, std::move(arguments));
  }
  if (Status written = family.write_pids(); !written) return written;
  if (Status served = wait_until_served({kLoopback, options.port}, signals); !served) {
    const std::string ended = family.reap();
    if (ended.empty()) return served;
    return Error{"'" + ended + "' has ended: " + last_line(family.log_path(ended))};
  }
  std::printf("ready\n");
  std::fflush(stdout);
  while (!signals.wait(200)) {
    const std::string ended = family.reap();
    if (ended.empty()) continue;
    std::printf("%s has ended; start it again with: annulus node --config %s --name %s\n",
                ended.c_str(), config.path.c_str(), ended.c_str());
    std::fflush(stdout);
  }
  return {};
}

}  // namespace annulus::tools
