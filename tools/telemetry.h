// The registry as others see it: JSON for `annulus top` and tests, text for Prometheus, served on a
// unix socket per process, and over HTTP on request. Runs on the process's main thread, which has
// nothing else to do but wait for signals; no core of the data path takes part.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/result.h"
#include "dataplane/transport.h"

namespace annulus::tools {

/// {"process", "pid", "time_ns", "cycles_per_second",
///  "groups": [{"node", "stage", "values": {name: number}}],
///  "gauges": [{"node", "stage", "name", "value"}],
///  "histograms": [{"node", "name", "count", "max", "p50", "p90", "p99", "p999",
///                  "buckets": [[index, count]...]}]}
std::string snapshot_json(const dataplane::Registry& registry, const std::string& process);

/// The text format 0.0.4: `annulus_NAME{node="",stage=""} VALUE`, histograms as summaries.
std::string prometheus_text(const dataplane::Registry& registry);

/// Where a process's socket lies: "DIRECTORY/PROCESS.sock". `directory` "" is
/// default_runtime_directory().
std::string telemetry_path(const std::string& directory, const std::string& process);
/// $XDG_RUNTIME_DIR/annulus, or /tmp/annulus-UID.
std::string default_runtime_directory();

/// Answers `GET /json` and `GET /metrics`, and what a node answers for itself, one request a
/// connection. A client that dawdles is cut off after 200 ms, so that serve() never waits long for
/// anyone.
class TelemetryServer {
 public:
  /// Creates the directory if need be. A socket that a dead process left behind is replaced, one
  /// that is served is an error. `metrics` with port 0: no TCP.
  static Result<std::unique_ptr<TelemetryServer>> start(const dataplane::Registry& registry,
                                                        const std::string& process,
                                                        const std::string& directory,
                                                        const dataplane::Endpoint& metrics);
  TelemetryServer(const TelemetryServer&) = delete;
  TelemetryServer& operator=(const TelemetryServer&) = delete;
  ~TelemetryServer();

  /// Answers requests until `stop_descriptor` is readable or `timeout_ms` is over (-1: never).
  /// True if it was the former.
  bool serve(int stop_descriptor, int timeout_ms);

  /// Answers `GET PATH?QUERY` by what this returns of QUERY, on the thread that serves.
  using Answer = std::function<std::string(const std::string& query)>;
  /// Before serve().
  void answer(const std::string& path, Answer answer) { answers_[path] = std::move(answer); }

  const std::string& path() const { return path_; }

 private:
  TelemetryServer(const dataplane::Registry& registry, std::string process, std::string path)
      : registry_(registry), process_(std::move(process)), path_(std::move(path)) {}
  Status listen_unix();
  Status listen_tcp(const dataplane::Endpoint& metrics);
  void answer_one(int listener);

  const dataplane::Registry& registry_;
  std::string process_;
  std::string path_;
  std::vector<int> listeners_;
  std::map<std::string, Answer> answers_;
  bool bound_ = false;
};

/// The JSON snapshot of the process behind a socket, or what else it is asked for.
Result<std::string> fetch_telemetry(const std::string& socket_path,
                                    const std::string& what = "/json");

}  // namespace annulus::tools
