#include "tests/sim/child.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace annulus::sim {

std::string outcome_in_child(const RunOptions& options, Defect defect) {
  int ends[2];
  if (pipe(ends) != 0) return "pipe() failed";
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);
    planted_defect = defect;
    const std::string failure = run_seed(options).failure;
    const std::size_t line = std::min(failure.find('\n'), failure.size());
    if (write(ends[1], failure.data(), line) < 0) _exit(2);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t bytes; (bytes = read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(bytes));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) text = "crash: " + text;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace annulus::sim
