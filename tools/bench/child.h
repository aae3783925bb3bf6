// Programs that an experiment runs beside itself: found, started, read, ended by their pid.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "dataplane/result.h"

namespace annulus::bench {

/// Fails, with the Debian package to install, if the program is not in PATH.
Status require_program(const std::string& program, const std::string& package);

/// A directory in $TMPDIR, or /tmp, that is gone at the end with all that is in it. Its path is
/// empty if none could be made.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// A program whose standard output this process reads. It dies with this process.
class Child {
 public:
  /// `arguments[0]` is searched in PATH; "annulus" is this program. Standard error goes where
  /// standard output goes.
  explicit Child(std::vector<std::string> arguments);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  /// Waits until the output contains `text`. Fails with the output if it ends before, or time does.
  Status await(const std::string& text, int timeout_seconds);
  /// All output until the program ends; fails with it if the exit status is not 0. A program that
  /// takes longer is stopped.
  annulus::Result<std::string> finish(int timeout_seconds);
  /// SIGTERM, and SIGKILL if that does not help for 10 s. Without effect once ended.
  void stop();

 private:
  using Time = std::chrono::steady_clock::time_point;
  /// False at the end of the output, or when it is `until`.
  bool read_more(Time until);

  std::string name_;
  pid_t pid_ = -1;
  int output_ = -1;
  std::string text_;  // output so far
};

}  // namespace annulus::bench
