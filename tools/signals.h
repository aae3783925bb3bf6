// Ctrl-C and SIGTERM as a readable descriptor, so that a main thread can wait for them beside other
// things.
#pragma once

namespace annulus::tools {

/// Blocks SIGINT and SIGTERM for this thread and all that it starts later, and reads them instead.
/// One a process, made before any thread.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();
  /// Readable once a signal came.
  int descriptor() const { return descriptor_; }
  /// True when a signal comes within the time.
  bool wait(int timeout_ms) const;

 private:
  int descriptor_;
};

}  // namespace annulus::tools
