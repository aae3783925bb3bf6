#include "dataplane/dpdk/eal.h"

#include <fcntl.h>
#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <sstream>

#include "dataplane/dpdk/host_checks.h"

namespace annulus::dataplane {
namespace {

constexpr std::size_t kLogBytesMax = 64 * 1024;

/// Written by whichever thread DPDK logs from.
struct Log {
  std::mutex mutex;
  std::uint32_t capturing = 0;
  std::string text;
};

Log& log() {
  static Log* instance = new Log;  // never destroyed: DPDK logs until the very end
  return *instance;
}

ssize_t write_log(void*, const char* bytes, std::size_t count) {
  Log& sink = log();
  const std::lock_guard lock(sink.mutex);
  if (sink.capturing > 0) {
    sink.text.append(bytes,
                     std::min(count, kLogBytesMax - std::min(kLogBytesMax, sink.text.size())));
  } else if (rte_log_cur_msg_loglevel() <= static_cast<int>(RTE_LOG_WARNING)) {
    std::fwrite(bytes, 1, count, stderr);
  }
  return static_cast<ssize_t>(count);
}

void capture_log() {
  static const bool opened = [] {
    FILE* stream = fopencookie(nullptr, "w", {.write = &write_log});
    if (stream == nullptr) return false;
    std::setvbuf(stream, nullptr, _IOLBF, 0);
    rte_openlog_stream(stream);
    return true;
  }();
  (void)opened;
}

/// While one exists, stdout leads nowhere: for one wrong argument the EAL prints its whole usage.
class MutedStdout {
 public:
  MutedStdout() {
    std::fflush(stdout);
    kept_ = dup(STDOUT_FILENO);
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(nowhere, STDOUT_FILENO);
    close(nowhere);
  }
  ~MutedStdout() {
    std::fflush(stdout);
    dup2(kept_, STDOUT_FILENO);
    close(kept_);
  }
  MutedStdout(const MutedStdout&) = delete;
  MutedStdout& operator=(const MutedStdout&) = delete;

 private:
  int kept_;
};

/// The CPU that the EAL's main lcore is bound to: one that we may use.
int first_allowed_cpu() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) return cpu;
  }
  return 0;
}

std::vector<std::string> arguments_of(const EalConfig& config, std::uint32_t memory_mib) {
  std::vector<std::string> arguments = {
      "annulus", "--lcores=0@" + std::to_string(first_allowed_cpu()),
      "--file-prefix=" + config.file_prefix, "-m", std::to_string(memory_mib)};
  if (config.hugepages) {
    // One file of all segments is what memif needs to share them without a copy.
    if (config.in_memory)
      arguments.insert(arguments.end(), {"--in-memory", "--single-file-segments"});
  } else {
    arguments.push_back("--no-huge");
    if (config.in_memory) arguments.push_back("--no-shconf");  // --in-memory is refused here
  }
  if (config.pci_devices.empty()) arguments.push_back("--no-pci");
  for (const std::string& device : config.pci_devices) {
    arguments.insert(arguments.end(), {"-a", device});
  }
  arguments.insert(arguments.end(), config.arguments.begin(), config.arguments.end());
  return arguments;
}

Error explain(const EalConfig& config, const std::vector<std::string>& arguments,
              const EalLog& said) {
  const std::string text = said.text();
  const auto mentions = [&](const char* words) { return text.find(words) != std::string::npos; };
  if (mentions("Cannot create lock on") || mentions("another primary process")) {
    return {"dpdk: another process runs with file prefix '" + config.file_prefix +
            "'; give this one a file_prefix of its own, or set in_memory = true, which shares no "
            "files"};
  }
  if (mentions("unrecognized option") || mentions("invalid option") ||
      mentions("Invalid 'command line' arguments") || mentions("invalid parameters")) {
    std::string all;
    for (const std::string& argument : config.arguments) all += " " + argument;
    return {"dpdk: an EAL argument of" +
            (all.empty() ? " the transport" : " '" + all.substr(1) + "'") +
            " is not known to this DPDK; 'dpdk-testpmd --help' lists what is" + said.quoted()};
  }
  std::string all;
  for (const std::string& argument : arguments) all += " " + argument;
  return {"dpdk: the environment layer did not start (" + std::string(rte_strerror(rte_errno)) +
          "); it was given '" + all.substr(1) + "'" + said.quoted()};
}

}  // namespace

EalLog::EalLog() {
  capture_log();
  const std::lock_guard lock(log().mutex);
  if (log().capturing++ == 0) log().text.clear();
}

EalLog::~EalLog() {
  const std::lock_guard lock(log().mutex);
  --log().capturing;
}

std::string EalLog::text() const {
  const std::lock_guard lock(log().mutex);
  return log().text;
}

std::string EalLog::quoted() const {
  std::istringstream in(text());
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  if (lines.empty()) return {};
  std::string quote = " (DPDK:";
  constexpr std::size_t kLinesQuoted = 4;
  for (std::size_t i = lines.size() - std::min(lines.size(), kLinesQuoted); i < lines.size(); ++i) {
    quote += " " + lines[i] + (i + 1 < lines.size() ? ";" : "");
  }
  return quote + ")";
}

Status start_eal(const EalConfig& config, std::uint32_t memory_mib) {
  static std::mutex mutex;
  static bool started = false;
  static bool failed = false;
  const std::lock_guard lock(mutex);
  if (started) return {};
  if (failed) return Error{"dpdk: the environment layer failed before, and starts once a process"};
  for (const std::string& device : config.pci_devices) {
    if (Status status = check_pci_device("/sys", device); !status) return status;
  }
  if (config.hugepages) {
    if (Status status = check_hugepages("/sys", memory_mib); !status) return status;
  }
  // rte_eal_init() reorders the pointers and keeps the strings.
  static std::vector<std::string> arguments;
  arguments = arguments_of(config, memory_mib);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  cpu_set_t affinity;
  const bool restore = pthread_getaffinity_np(pthread_self(), sizeof affinity, &affinity) == 0;
  const EalLog said;
  const int result = [&] {
    const MutedStdout muted;
    return rte_eal_init(static_cast<int>(argv.size()), argv.data());
  }();
  // The EAL binds its main thread to a CPU; which CPU a thread runs on is the core map's to say.
  if (restore) pthread_setaffinity_np(pthread_self(), sizeof affinity, &affinity);
  if (result < 0) {
    failed = true;
    return explain(config, arguments, said);
  }
  started = true;
  std::atexit([] { rte_eal_cleanup(); });
  return {};
}

void register_dpdk_thread() {
  // Gives the thread an lcore id, and with it a cache in every pool; handed back at its end.
  struct Registration {
    Registration() : registered(rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0) {}
    ~Registration() {
      if (registered) rte_thread_unregister();
    }
    bool registered;
  };
  thread_local const Registration registration;
  (void)registration;
}

}  // namespace annulus::dataplane
