#include "tools/hub_control.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <functional>
#include <sstream>
#include <vector>

namespace annulus::tools {

using dataplane::Counters;
using dataplane::LinkFaults;
using dataplane::SoftwareSwitch;
using dataplane::SwitchCounter;

const char* const kHubCommands =
    "Commands, for the traffic between all ports, or from port A to port B (from 1):\n"
    "  loss P [A B]              drop with probability P (0 .. 1)\n"
    "  duplicate P [A B]         send twice with probability P\n"
    "  reorder P US [A B]        hold back by US microseconds with probability P\n"
    "  delay MIN MAX [A B]       delay by MIN to MAX microseconds\n"
    "  cut A B                   pass nothing from A to B\n"
    "  isolate A                 pass nothing from or to A\n"
    "  heal                      undo every cut and isolate\n"
    "  clear                     undo all of the above\n"
    "  counters                  print every counter of every port";

namespace {

constexpr int kPatienceMs = 200;  // a client that says nothing does not hold the hub up for longer
constexpr std::size_t kLineBytesMax = 256;

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

bool read_number(const std::string& word, double most, double& number) {
  const char* end = word.data() + word.size();
  const auto [at, failure] = std::from_chars(word.data(), end, number);
  return failure == std::errc{} && at == end && number >= 0 && number <= most;
}

/// One command with its numbers read; `wrong` is set when they cannot be.
class Command {
 public:
  Command(SoftwareSwitch& hub, const std::string& line) : hub_(hub), words_(words_of(line)) {}

  bool is(const char* verb, std::size_t numbers, std::size_t ports_min, std::size_t ports_max) {
    if (words_.empty() || words_[0] != verb) return false;
    const std::size_t given = words_.size() - 1;
    numbers_.clear();
    ports_.clear();
    const bool links = given == numbers + ports_min || given == numbers + ports_max;
    bool good = links;
    for (std::size_t i = 1; good && i < words_.size(); ++i) {
      double number = 0;
      if (i <= numbers) {
        good = read_number(words_[i], 1e9, number);
        numbers_.push_back(number);
      } else {
        good = read_number(words_[i], hub_.ports(), number) && number >= 1 &&
               number == static_cast<std::uint32_t>(number);
        ports_.push_back(static_cast<std::uint32_t>(number));
      }
    }
    if (!good) wrong_ = true;
    return good;
  }
  bool wrong() const { return wrong_; }
  void refuse() { wrong_ = true; }
  double number(std::size_t at) const { return numbers_[at]; }
  Nanos microseconds(std::size_t at) const {
    return static_cast<Nanos>(numbers_[at] * kMicrosecond);
  }
  std::uint32_t port(std::size_t at) const { return ports_[at]; }
  bool probability() {
    if (numbers_[0] > 1) wrong_ = true;
    return !wrong_;
  }

  /// Applies `change` to the link named, or to all.
  void change(const std::function<void(LinkFaults&)>& change) {
    for (std::uint32_t from = 1; from <= hub_.ports(); ++from) {
      for (std::uint32_t to = 1; to <= hub_.ports(); ++to) {
        const bool meant = ports_.size() != 2 || (ports_[0] == from && ports_[1] == to);
        if (meant) change(hub_.faults(from, to));
      }
    }
  }

 private:
  SoftwareSwitch& hub_;
  std::vector<std::string> words_;
  std::vector<double> numbers_;
  std::vector<std::uint32_t> ports_;
  bool wrong_ = false;
};

std::string counters_text(const SoftwareSwitch& hub) {
  std::string text;
  for (std::uint32_t port = 1; port <= hub.ports(); ++port) {
    const auto& counters = hub.port_counters(port);
    for (std::size_t i = 0; i < Counters<SwitchCounter>::kSize; ++i) {
      text += std::to_string(port) + " " + Counters<SwitchCounter>::names()[i] + " " +
              std::to_string(counters.values()[i].get()) + "\n";
    }
  }
  return text;
}

Result<sockaddr_un> control_address(const std::string& directory) {
  sockaddr_un address{.sun_family = AF_UNIX};
  const std::string path = directory + "/control.sock";
  if (path.size() >= sizeof address.sun_path) {
    return Error{"socket '" + path + "': the path is too long; choose a shorter directory"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

void bound_waits(int descriptor, int milliseconds) {
  const timeval patience{.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

bool send_all(int descriptor, const std::string& text) {
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(descriptor, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

Result<std::string> run_hub_command(SoftwareSwitch& hub, const std::string& line) {
  Command command(hub, line);
  if (command.is("counters", 0, 0, 0)) return counters_text(hub);
  if (command.is("loss", 1, 0, 2) && command.probability()) {
    command.change([&](LinkFaults& link) { link.loss = command.number(0); });
  } else if (command.is("duplicate", 1, 0, 2) && command.probability()) {
    command.change([&](LinkFaults& link) { link.duplicate = command.number(0); });
  } else if (command.is("reorder", 2, 0, 2) && command.probability()) {
    command.change([&](LinkFaults& link) {
      link.reorder = command.number(0);
      link.reorder_by = command.microseconds(1);
    });
  } else if (command.is("delay", 2, 0, 2) && command.number(0) <= command.number(1)) {
    command.change([&](LinkFaults& link) {
      link.delay_min = command.microseconds(0);
      link.delay_max = command.microseconds(1);
    });
  } else if (command.is("cut", 0, 2, 2)) {
    command.change([](LinkFaults& link) { link.cut = true; });
  } else if (command.is("isolate", 0, 1, 1)) {
    for (std::uint32_t other = 1; other <= hub.ports(); ++other) {
      hub.faults(command.port(0), other).cut = true;
      hub.faults(other, command.port(0)).cut = true;
    }
  } else if (command.is("heal", 0, 0, 0)) {
    command.change([](LinkFaults& link) { link.cut = false; });
  } else if (command.is("clear", 0, 0, 0)) {
    command.change([](LinkFaults& link) { link = {}; });
  } else {
    return Error{"'" + line + "' is not a command of this hub of " + std::to_string(hub.ports()) +
                 " ports.\n" + kHubCommands};
  }
  return std::string{};
}

HubControl::~HubControl() {
  if (listener_ < 0) return;
  close(listener_);
  unlink(path_.c_str());
}

Status HubControl::listen(const std::string& directory) {
  const auto address = control_address(directory);
  if (!address) return address.error();
  path_ = address.value().sun_path;
  unlink(path_.c_str());  // the memif sockets have shown that no other hub serves this directory
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener_ < 0 ||
      bind(listener_, reinterpret_cast<const sockaddr*>(&address.value()), sizeof(sockaddr_un)) !=
          0 ||
      ::listen(listener_, 4) != 0) {
    return Error{"socket '" + path_ + "': " + std::strerror(errno) +
                 "; choose a directory that this user may write"};
  }
  return {};
}

dataplane::PollResult HubControl::poll(Nanos now, std::uint32_t) {
  constexpr Nanos kLookEvery = 5 * kMillisecond;
  if (now < next_look_) return {.deadline = next_look_};
  next_look_ = now + kLookEvery;
  const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return {.deadline = next_look_};
  serve(client);
  close(client);
  return {.work = 1, .deadline = next_look_};
}

void HubControl::serve(int client) {
  bound_waits(client, kPatienceMs);
  std::string line(kLineBytesMax, '\0');
  const ssize_t n = recv(client, line.data(), line.size(), 0);
  if (n <= 0) return;
  line.resize(static_cast<std::size_t>(n));
  line.resize(std::min(line.find('\n'), line.size()));
  const Result<std::string> reply = run_hub_command(hub_, line);
  send_all(client, reply ? reply.value() + "ok\n" : "error: " + reply.error().message + "\n");
}

Result<std::string> tell_hub(const std::string& directory, const std::string& command) {
  const auto address = control_address(directory);
  if (!address) return address.error();
  if (command.size() >= kLineBytesMax || command.find('\n') != std::string::npos) {
    return Error{"a hub command is one line of less than 256 characters\n" +
                 std::string(kHubCommands)};
  }
  const int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bound_waits(descriptor, 5000);
  if (connect(descriptor, reinterpret_cast<const sockaddr*>(&address.value()),
              sizeof(sockaddr_un)) != 0) {
    const std::string why = std::strerror(errno);
    close(descriptor);
    return Error{"directory '" + directory + "': no hub answers there (" + why +
                 "); start one with 'annulus hub --dir " + directory + " --ports N'"};
  }
  std::string reply;
  if (send_all(descriptor, command + "\n")) {
    char bytes[4096];
    for (ssize_t n; (n = recv(descriptor, bytes, sizeof bytes, 0)) > 0;) {
      reply.append(bytes, static_cast<std::size_t>(n));
    }
  }
  close(descriptor);
  constexpr std::string_view kOk = "ok\n";
  constexpr std::string_view kError = "error: ";
  if (reply.ends_with(kOk)) return reply.substr(0, reply.size() - kOk.size());
  if (reply.starts_with(kError)) return Error{reply.substr(kError.size())};
  return Error{"the hub of '" + directory + "' did not answer in time; is it overloaded?"};
}

}  // namespace annulus::tools
