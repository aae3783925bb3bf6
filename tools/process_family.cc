#include "tools/process_family.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tools/telemetry.h"

namespace annulus::tools {

pid_t telemetry_pid(const std::string& directory, const std::string& node) {
  const Result<std::string> text = fetch_telemetry(telemetry_path(directory, node));
  if (!text) return 0;
  const nlohmann::json json = nlohmann::json::parse(text.value(), nullptr, false);
  return json.is_discarded() ? 0 : json.value("pid", 0);
}

std::string last_line(const std::string& path) {
  std::ifstream file(path);
  std::string last;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

void ProcessFamily::start(const std::string& name, std::vector<std::string> arguments,
                          std::vector<std::string> prefix) {
  const char* const self = "/proc/self/exe";
  std::error_code failure;
  arguments.insert(arguments.begin(), prefix.empty()
                                          ? std::string("annulus")
                                          : std::filesystem::read_symlink(self, failure).string());
  arguments.insert(arguments.begin(), prefix.begin(), prefix.end());
  std::vector<char*> raw;
  for (std::string& argument : arguments) raw.push_back(argument.data());
  raw.push_back(nullptr);
  const auto earlier = std::find_if(children_.begin(), children_.end(),
                                    [&](const Child& child) { return child.name == name; });
  CHECK(earlier == children_.end() || !earlier->runs);
  const std::string log = log_path(name);
  if (earlier == children_.end()) std::filesystem::remove(log);
  const pid_t parent = getpid();
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    exec(prefix.empty() ? self : raw[0], raw.data(), log.c_str(), parent, death_signal_);
  }
  if (earlier == children_.end()) {
    children_.push_back({name, child, true});
  } else {
    *earlier = {name, child, true};
  }
}

pid_t ProcessFamily::pid(const std::string& name) const {
  for (const Child& child : children_) {
    if (child.name == name && child.runs) return child.pid;
  }
  return 0;
}

void ProcessFamily::signal(const std::string& name, int signal) const {
  if (const pid_t running = pid(name); running > 0) kill(running, signal);
}

Status ProcessFamily::write_pids() const {
  std::ofstream file(directory_ + "/pids");
  for (const Child& child : children_) file << child.name << ' ' << child.pid << '\n';
  file.close();
  if (!file) return Error{directory_ + "/pids: cannot be written: " + std::strerror(errno)};
  return {};
}

std::string ProcessFamily::reap() {
  for (Child& child : children_) {
    siginfo_t ended{};
    if (!child.runs) continue;
    if (waitid(P_PID, child.pid, &ended, WEXITED | WNOHANG | WNOWAIT) != 0) continue;
    if (ended.si_pid != child.pid) continue;
    child.runs = false;
    // The kernel has been seen to take 106 s to free one that ended in a namespace of its own.
    ++*being_freed_;
    std::thread([pid = child.pid, left = being_freed_] {
      waitpid(pid, nullptr, 0);
      --*left;
    }).detach();
    return child.name;
  }
  return "";
}

void ProcessFamily::stop() {
  std::vector<pid_t> strangers;
  for (const Child& child : children_) {
    if (child.runs) {
      kill(child.pid, SIGTERM);
      kill(child.pid, SIGCONT);  // one that is stopped would not hear the first
    } else if (const pid_t pid = telemetry_pid(directory_, child.name); pid > 0) {
      strangers.push_back(pid);
      kill(pid, SIGTERM);
    }
  }
  const auto running = [&] {
    while (!reap().empty()) {
    }
    std::erase_if(strangers, [](pid_t pid) { return kill(pid, 0) != 0; });
    return !strangers.empty() || *being_freed_ != 0 ||
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

void ProcessFamily::exec(const char* program, char** arguments, const char* log, pid_t parent,
                         int death_signal) {
  // Ctrl-C is for the parent, which ends its children in order; if it dies, so do they.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, death_signal);
  if (getppid() != parent) _exit(1);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  close_range(STDERR_FILENO + 1, ~0u, 0);  // DPDK's descriptors would outlive the port they are of
  const int output = open(log, O_CREAT | O_WRONLY | O_APPEND, 0644);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  close(output);
  execvp(program, arguments);
  _exit(127);
}

}  // namespace annulus::tools
