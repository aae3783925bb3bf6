// The processes of one cluster on this machine: children of this one, each started, signalled and
// started again by name. For `annulus dev --processes` and `annulus chaos`.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/result.h"

namespace annulus::tools {

/// The pid of the process that answers for a node, or 0.
pid_t telemetry_pid(const std::string& directory, const std::string& node);

/// The last line of a file that is not empty, or "".
std::string last_line(const std::string& path);

/// One thread, which outlives the family: children die with it.
class ProcessFamily {
 public:
  /// `death_signal`: what children get when this process dies before it could end them.
  explicit ProcessFamily(std::string directory, int death_signal = SIGTERM)
      : directory_(std::move(directory)), death_signal_(death_signal) {}
  ProcessFamily(const ProcessFamily&) = delete;
  ProcessFamily& operator=(const ProcessFamily&) = delete;
  ~ProcessFamily() { stop(); }

  /// Starts this program anew with `arguments`; its output goes to DIR/NAME.log. A name that has
  /// ended may be started again; its log goes on. With a `prefix` ("ip netns exec X"), that program
  /// starts it.
  void start(const std::string& name, std::vector<std::string> arguments,
             std::vector<std::string> prefix = {});
  /// Of a name that runs; 0 if it does not.
  pid_t pid(const std::string& name) const;
  void signal(const std::string& name, int signal) const;
  /// Notices children that have ended; the name of one that has just done so, or "".
  std::string reap();
  /// Ends everything: SIGTERM, and SIGKILL for what is left after 5 s. A node started again by hand
  /// is no child, but its telemetry tells its pid.
  void stop();

  std::string log_path(const std::string& name) const { return directory_ + "/" + name + ".log"; }
  /// DIR/pids: a "name pid" line each.
  Status write_pids() const;

 private:
  struct Child {
    std::string name;
    pid_t pid;
    bool runs;
  };

  [[noreturn]] static void exec(const char* program, char** arguments, const char* log,
                                pid_t parent, int death_signal);

  std::string directory_;
  int death_signal_;
  std::vector<Child> children_;
  // Threads that wait for the kernel; they may outlive the family.
  std::shared_ptr<std::atomic<int>> being_freed_ = std::make_shared<std::atomic<int>>(0);
};

}  // namespace annulus::tools
