#include "tools/bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <thread>

namespace annulus::bench {

Status require_program(const std::string& program, const std::string& package) {
  const char* path = std::getenv("PATH");
  std::istringstream directories(path == nullptr ? "" : path);
  for (std::string directory; std::getline(directories, directory, ':');) {
    if (access((directory + "/" + program).c_str(), X_OK) == 0) return {};
  }
  return Error{program + " is not installed: apt-get install " + package};
}

ScratchDirectory::ScratchDirectory() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base == nullptr ? "/tmp" : base) + "/annulus-bench-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) path_.clear();
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;  // nothing is lost if some of it stays
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Child::Child(std::vector<std::string> arguments) : name_(arguments[0]) {
  std::vector<char*> raw;
  for (std::string& argument : arguments) raw.push_back(argument.data());
  raw.push_back(nullptr);
  const char* program = name_ == "annulus" ? "/proc/self/exe" : raw[0];
  int ends[2];
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  const pid_t parent = getpid();
  pid_ = fork();
  CHECK(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    execvp(program, raw.data());
    _exit(127);
  }
  close(ends[1]);
  output_ = ends[0];
}

Child::~Child() {
  stop();
  close(output_);
}

bool Child::read_more(Time until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      until - std::chrono::steady_clock::now());
  pollfd wait{output_, POLLIN, 0};
  if (poll(&wait, 1, std::max(0, static_cast<int>(left.count()))) <= 0) return false;
  char part[4'096];
  const ssize_t bytes = read(output_, part, sizeof part);
  if (bytes <= 0) return false;
  text_.append(part, static_cast<std::size_t>(bytes));
  return true;
}

Status Child::await(const std::string& text, int timeout_seconds) {
  const Time until = std::chrono::steady_clock::now() + std::chrono::seconds(timeout_seconds);
  do {
    if (text_.find(text) != std::string::npos) return {};
  } while (read_more(until));
  return Error{name_ + " does not serve; its output: " + text_};
}

annulus::Result<std::string> Child::finish(int timeout_seconds) {
  const Time until = std::chrono::steady_clock::now() + std::chrono::seconds(timeout_seconds);
  while (read_more(until)) {
  }
  if (std::chrono::steady_clock::now() >= until) {
    stop();
    return Error{name_ + " did not end within " + std::to_string(timeout_seconds) +
                 " s; its output: " + text_};
  }
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text_;
  return Error{name_ + " failed: " + text_};
}

void Child::stop() {
  if (pid_ < 0) return;
  kill(pid_, SIGTERM);
  for (int i = 0; i < 1'000; ++i) {
    // Its output is read on, lest it wait for room to write.
    while (read_more({})) {
    }
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace annulus::bench
