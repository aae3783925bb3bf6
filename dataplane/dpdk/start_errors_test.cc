// Start-up failures as an operator meets them: DPDK starts once a process, so each has its own.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <string>

#include "dataplane/dpdk/dpdk.h"
#include "dataplane/dpdk/software_switch.h"

namespace annulus::dataplane {
namespace {

DpdkConfig config(const std::string& device) {
  return {.eal = {.file_prefix = "annulus_errors_" + std::to_string(getpid())},
          .device = device,
          .endpoint = {0x0a4d0001, 4000},
          .rx_queue_frames = 128,
          .tx_queue_frames = 128,
          .rx_frames_held = 128,
          .threads = 1,
          .link_wait_ms = 100};
}

/// What `body` says in a process of its own; stderr included, for nothing else may be printed.
std::string in_child(const std::function<std::string()>& body) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    const std::string text = body();
    CHECK(write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char bytes[4096];
  for (ssize_t n; (n = read(ends[0], bytes, sizeof bytes)) > 0;) {
    text.append(bytes, static_cast<std::size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << text;
  return text;
}

std::string open_in_child(const DpdkConfig& wanted) {
  return in_child([&] {
    auto opened = open_dpdk_transport(wanted);
    return opened ? std::string("opened") : opened.error().message;
  });
}

void expect_parts(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
  }
}

TEST(StartErrors, NothingIsPrintedWhenAllIsWell) {
  EXPECT_EQ(open_in_child(config("net_null0")), "opened");
}

TEST(StartErrors, NoHugepages) {
  DpdkConfig wanted = config("net_null0");
  wanted.eal.hugepages = true;
  wanted.eal.memory_mib = 1'000'000;
  expect_parts(open_in_child(wanted),
               {"hugepages:", "1000000 MiB are needed", "sysctl -w vm.nr_hugepages=500000"});
}

TEST(StartErrors, NoSuchVirtualDevice) {
  expect_parts(open_in_child(config("net_nonesuch0")),
               {"'net_nonesuch0'", "no such port", "net_memif0,role=client"});
}

TEST(StartErrors, NoSuchPciDevice) {
  expect_parts(open_in_child(config("0000:fe:1f.7")),
               {"'0000:fe:1f.7'", "no such PCI device", "dpdk-devbind.py"});
}

TEST(StartErrors, WrongDeviceArgument) {
  expect_parts(open_in_child(config("net_memif0,role=leader")),
               {"net_memif0,role=leader", "arguments that its driver knows", "DPDK:"});
}

TEST(StartErrors, NoSuchInterface) {
  expect_parts(open_in_child(config("net_af_packet0,iface=nosuch0")),
               {"'nosuch0'", "none of that name", "ip link"});
}

TEST(StartErrors, PortDown) {
  const std::string socket =
      (std::filesystem::temp_directory_path() / ("annulus_none_" + std::to_string(getpid())))
          .string();
  expect_parts(open_in_child(config("net_memif0,role=client,socket=" + socket)),
               {"no link after 100 ms", socket.c_str(), "start 'annulus hub'"});
}

TEST(StartErrors, WrongEalArgument) {
  DpdkConfig wanted = config("net_null0");
  wanted.eal.arguments = {"--no-such-thing"};
  expect_parts(open_in_child(wanted), {"EAL argument", "--no-such-thing", "dpdk-testpmd --help"});
}

TEST(StartErrors, SecondProcessWithTheSamePrefix) {
  DpdkConfig wanted = config("net_null0");
  wanted.eal.in_memory = false;
  const std::string text = in_child([&] {
    auto first = open_dpdk_transport(wanted);
    if (!first) return "first: " + first.error().message;
    // A fresh process, not a copy of this one: fork() and the started EAL do not mix.
    const std::string again = std::filesystem::read_symlink("/proc/self/exe");
    setenv("ANNULUS_SECOND_PREFIX", wanted.eal.file_prefix.c_str(), 1);
    FILE* second = popen((again + " --gtest_filter=StartErrors.DISABLED_Second "
                                  "--gtest_also_run_disabled_tests 2>&1")
                             .c_str(),
                         "r");
    std::string said;
    char bytes[4096];
    while (std::fgets(bytes, sizeof bytes, second) != nullptr) said += bytes;
    pclose(second);
    return said;
  });
  expect_parts(text, {"another process runs with file prefix", "file_prefix of its own",
                      "in_memory = true"});
}

/// The other process of the test above.
TEST(StartErrors, DISABLED_Second) {
  DpdkConfig wanted = config("net_null0");
  wanted.eal.in_memory = false;
  wanted.eal.file_prefix = getenv("ANNULUS_SECOND_PREFIX");
  auto opened = open_dpdk_transport(wanted);
  std::printf("%s\n", opened ? "opened" : opened.error().message.c_str());
}

TEST(StartErrors, BadNumbers) {
  DpdkConfig wanted = config("net_null0");
  wanted.mtu = 100;
  expect_parts(open_in_child(wanted), {"mtu = 100", "between 1280 and"});
  wanted = config("net_null0");
  wanted.endpoint = {0xef000001, 4000};
  expect_parts(open_in_child(wanted), {"239.0.0.1:4000", "not an endpoint of a host"});
  wanted = config("net_null0");
  wanted.rx_queue_frames = 1;
  expect_parts(open_in_child(wanted), {"rx_queue_frames = 1", "between 64 and 32768"});
  wanted = config("net_null0");
  wanted.eal.memory_mib = 32;
  wanted.rx_frames_held = 100'000;
  expect_parts(open_in_child(wanted), {"no memory for", "raise memory_mib"});
}

TEST(StartErrors, Hub) {
  const auto open_hub = [](const SwitchConfig& wanted) {
    return in_child([&] {
      auto opened = SoftwareSwitch::open(wanted);
      return opened ? std::string("opened") : opened.error().message;
    });
  };
  expect_parts(open_hub({.directory = "/tmp", .ports = 1}), {"between 2 and 64 ports"});
  expect_parts(open_hub({.directory = "/proc/annulus", .ports = 2}),
               {"directory '/proc/annulus'", "this user may write"});
  expect_parts(
      open_hub({.directory = "/tmp/" + std::string(60, 'a') + std::string(60, 'b'), .ports = 2}),
      {"the path is longer than 107", "shorter directory"});
}

}  // namespace
}  // namespace annulus::dataplane
