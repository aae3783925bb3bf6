#include "tools/proxy/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace annulus::proxy {
namespace {

constexpr Nanos kSessionCheckInterval = 10 * kMillisecond;
constexpr std::uint32_t kOtherDescriptors = 64;  // not connections: log files, transports, epoll
constexpr std::uint32_t kServedPerTurnMax = 256;
/// No further connection is served in a turn that has taken so many commands: a few batches. What
/// their values were hashed and copied by is then still in the cache for those they go to on this
/// core, and the first clients have their replies while the next are served.
constexpr std::uint64_t kCommandsPerTurn = 192;

Error system_error(const std::string& what, const std::string& mend) {
  return Error{what + ": " + std::strerror(errno) + "; " + mend};
}

/// As many descriptors as `clients_max` connections need, or fewer connections.
std::uint32_t raise_descriptor_limit(std::uint32_t clients_max) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return clients_max;
  const rlim_t wanted = clients_max + kOtherDescriptors;
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = std::min(wanted, limit.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur >= wanted) return clients_max;
  return limit.rlim_cur > kOtherDescriptors + 1
             ? static_cast<std::uint32_t>(limit.rlim_cur - kOtherDescriptors)
             : 1;
}

ProxyOptions effective(ProxyOptions options) {
  options.clients_max = raise_descriptor_limit(std::max(options.clients_max, 1u));
  return options;
}

statemachine::ClientOptions with_sessions(statemachine::ClientOptions client,
                                          const ProxyOptions& options) {
  client.sessions_max = std::max(client.sessions_max, 2 * options.sessions);
  client.session_window_max = std::max(client.session_window_max, options.session_window);
  return client;
}

}  // namespace

Proxy::Proxy(const ProxyOptions& options, const statemachine::ClientOptions& client_options,
             const consensus::Configuration& configuration, dataplane::Transport& transport)
    : options_(effective(options)),
      body_bytes_max_(client_options.value_bytes_max - sizeof(statemachine::BatchHeader) -
                      sizeof(statemachine::CommandHeader)),
      client_(with_sessions(client_options, options), configuration, transport, *this),
      transport_descriptor_(client_.wait_descriptor()),
      chunks_(options.output_chunks),
      // Every command outstanding, and as many that are answered but wait for an earlier one.
      slots_(2 * options.sessions * options.session_window),
      connections_(options_.clients_max),
      ready_(options_.clients_max),
      waiting_(options_.clients_max),
      dirty_(options_.clients_max),
      stalled_(options_.clients_max),
      stalls_(options_.clients_max),
      local_(connections_, counters_),
      arguments_(std::make_unique<Arguments>()),
      request_(std::make_unique<Request>(options.services)) {
  for (std::uint32_t i = 0; i < slots_.size(); ++i) give_back(i);
  for (std::uint32_t i = options_.clients_max; i-- > 0;) {
    connections_[i].index = i;
    connections_free_.push_back(i);
  }
}

Result<std::unique_ptr<Proxy>> Proxy::create(const ProxyOptions& options,
                                             const statemachine::ClientOptions& client_options,
                                             const consensus::Configuration& configuration,
                                             dataplane::Transport& transport) {
  std::unique_ptr<Proxy> proxy(new Proxy(options, client_options, configuration, transport));
  if (Status listening = proxy->listen(); !listening) return listening.error();
  proxy->local_.set_facts({options.address, proxy->port_, proxy->options_.clients_max,
                           client_options.client_server ? "client-server" : "replicated"});
  return proxy;
}

Status Proxy::listen() {
  const std::string place = options_.address + ":" + std::to_string(options_.port);
  // One block for each connection that may ever be; a page is touched when a command comes in
  // pieces.
  void* blocks = mmap(nullptr, std::size_t{options_.clients_max} * kInputStride,
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (blocks == MAP_FAILED) {
    return system_error("proxy: cannot reserve input memory for " +
                            std::to_string(options_.clients_max) + " connections",
                        "lower the maximum of connections");
  }
  input_blocks_ = static_cast<char*>(blocks);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options_.port);
  if (inet_pton(AF_INET, options_.address.c_str(), &address.sin_addr) != 1) {
    return Error{"proxy: '" + options_.address +
                 "' is not an IPv4 address; write one such as 127.0.0.1 or 0.0.0.0"};
  }
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (listener_ < 0 || epoll_ < 0) {
    return system_error("proxy: cannot create a socket", "raise the limit of open files");
  }
  const int one = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (options_.share_port) setsockopt(listener_, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_, 1'024) != 0) {
    return system_error("proxy: cannot listen on " + place,
                        "choose another port, or stop the program that holds it");
  }
  socklen_t length = sizeof(address);
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
  port_ = ntohs(address.sin_port);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kNone;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, listener_, &event);
  if (transport_descriptor_ >= 0) {
    event.data.u64 = kNone - 1;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, transport_descriptor_, &event);
  }
  return {};
}

Proxy::~Proxy() {
  for (Connection& connection : connections_) {
    if (connection.open()) destroy(connection, ProxyCounter::kCloseShutdown);
  }
  if (listener_ >= 0) close(listener_);
  if (epoll_ >= 0) close(epoll_);
  if (input_blocks_ != nullptr) {
    munmap(input_blocks_, std::size_t{options_.clients_max} * kInputStride);
  }
}

char* Proxy::input_block(const Connection& connection) const {
  return input_blocks_ + std::size_t{connection.index} * kInputStride;
}

int Proxy::wait_descriptor() const { return transport_descriptor_ >= 0 ? epoll_ : -1; }

dataplane::PollResult Proxy::poll(Nanos now, std::uint32_t budget) {
  if (!started_) {
    started_ = true;
    local_.set_started(now);
    sessions_checked_at_ = now - kSessionCheckInterval;
  }
  keep_sessions(now);
  std::uint32_t work = take_events(now);
  retry_waiting(now);
  work += serve_ready(now);
  const dataplane::PollResult client = client_.poll(now, budget);
  work += client.work + dirty_.size();
  flush_dirty(now);
  drop_stalled(now);
  return {work, next_deadline(now, client.deadline)};
}

Nanos Proxy::next_deadline(Nanos now, Nanos client_deadline) const {
  if (!ready_.empty() || !dirty_.empty()) return now;
  Nanos deadline = std::min(client_deadline, sessions_checked_at_ + kSecond);
  if (!waiting_.empty()) {
    deadline = std::min(deadline, connections_[waiting_.front()].waiting_since + options_.deadline);
  }
  if (!stalled_.empty()) {
    deadline = std::min(deadline, stalls_[stalled_.front()].since + options_.output_stall);
  }
  return std::min(deadline, accept_again_at_);
}

/// Opens the sessions, and replaces those that the cluster forgot.
void Proxy::keep_sessions(Nanos now) {
  if (now - sessions_checked_at_ < kSessionCheckInterval) return;
  sessions_checked_at_ = now;
  for (statemachine::SessionHandle& session : sessions_) {
    const statemachine::SessionState state = client_.session_state(session);
    if (state == statemachine::SessionState::kReady ||
        state == statemachine::SessionState::kOpening) {
      continue;
    }
    if (state != statemachine::SessionState::kClosed) client_.close_session(session, now);
    session = sessions_.back();
    sessions_.pop_back();
    session_ = 0;
    break;  // the rest is looked at next time
  }
  while (sessions_.size() < options_.sessions) {
    auto opened = client_.open_session(options_.session_window);
    if (!opened) return;
    counters_[ProxyCounter::kSessionsOpened].add();
    sessions_.push_back(*opened);
  }
}

/// Connections that the cluster made wait, in the order in which they began to.
void Proxy::retry_waiting(Nanos now) {
  while (!waiting_.empty()) {
    Connection& connection = connections_[waiting_.front()];
    if (connection.open() && !connection.closing) {
      if (now - connection.waiting_since >= options_.deadline) connection.refuse_next = true;
      connection.in_waiting = false;
      const Progress progress = serve(connection, now);
      if (progress == Progress::kWaiting) {
        connection.in_waiting = true;
        return;
      }
    }
    connection.in_waiting = false;
    waiting_.pop();
  }
}

std::uint32_t Proxy::serve_ready(Nanos now) {
  const auto taken = [this] {
    return counters_[ProxyCounter::kCommandsReplicated].get() +
           counters_[ProxyCounter::kCommandsLocal].get();
  };
  const std::uint64_t enough = taken() + kCommandsPerTurn;
  const std::uint32_t count = std::min(ready_.size(), kServedPerTurnMax);
  std::uint32_t served = 0;
  for (; served < count && taken() < enough; ++served) {
    Connection& connection = connections_[ready_.front()];
    ready_.pop();
    connection.in_ready = false;
    if (!connection.open() || connection.closing || connection.in_waiting) continue;
    if (serve(connection, now) == Progress::kWaiting) {
      counters_[ProxyCounter::kBackPressure].add();
      connection.in_waiting = true;
      connection.waiting_since = now;
      waiting_.push(connection.index);
    }
  }
  return served;
}

}  // namespace annulus::proxy
