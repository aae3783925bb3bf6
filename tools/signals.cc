#include "tools/signals.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>

#include "dataplane/result.h"

namespace annulus::tools {

StopSignals::StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  CHECK(pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0);
  descriptor_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  CHECK(descriptor_ >= 0);
}

StopSignals::~StopSignals() { close(descriptor_); }

bool StopSignals::wait(int timeout_ms) const {
  pollfd waiting{descriptor_, POLLIN, 0};
  return poll(&waiting, 1, timeout_ms) > 0;
}

}  // namespace annulus::tools
