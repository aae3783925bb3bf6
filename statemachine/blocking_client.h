// A client for code that would rather wait: one session, one command at a time. For throughput use
// Client, whose commands overlap.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/result.h"
#include "statemachine/client.h"

namespace annulus::statemachine {

/// One thread at a time; the calling thread does the client's work while it waits.
class BlockingClient {
 public:
  struct Reply {
    CommandStatus status{};
    std::vector<std::byte> bytes;
  };

  BlockingClient(const ClientOptions& options, const consensus::Configuration& configuration,
                 dataplane::Transport& transport, dataplane::Clock& clock);

  /// Executes one command. Opens a session first when there is none, and after one has expired. The
  /// error says that no session could be had before the deadline; the command was not sent then.
  /// CommandStatus::kOutcomeUnknown: sent, but not answered in time; it may still be executed.
  Result<Reply> call(std::uint8_t service, std::uint8_t flags, std::span<const std::byte> body,
                     Nanos deadline = 0);

  const Client& client() const { return client_; }

 private:
  class Sink final : public CompletionSink {
   public:
    void on_completions(std::span<const Completion> completions, Nanos now) override;
    bool done = false;
    Reply reply;
  };

  Status ready_session(Nanos until);
  void turn();

  const Nanos deadline_;
  dataplane::Clock& clock_;
  Sink sink_;
  Client client_;
  SessionHandle session_{};
  bool have_session_ = false;
};

}  // namespace annulus::statemachine
