#include "tools/chaos/small_disk.h"

#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace annulus::chaos {
namespace {

std::string size_option(std::uint32_t megabytes) {
  return "size=" + std::to_string(megabytes) + "m";
}

}  // namespace

Result<SmallDisk> SmallDisk::mount(const std::string& directory, std::uint32_t megabytes) {
  const auto failed = [&](const char* what) {
    return Error{directory + ": " + what + " (" + std::strerror(errno) +
                 "); a small disk needs root"};
  };
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (unshare(CLONE_NEWNS) != 0) return failed("no mounts of our own");
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return failed("mounts cannot be kept private");
  }
  if (::mount("tmpfs", directory.c_str(), "tmpfs", 0, size_option(megabytes).c_str()) != 0) {
    return failed("cannot be mounted");
  }
  return SmallDisk(directory);
}

SmallDisk::SmallDisk(SmallDisk&& other) noexcept
    : directory_(std::exchange(other.directory_, std::string())) {}

SmallDisk::~SmallDisk() {
  if (!directory_.empty()) umount2(directory_.c_str(), MNT_DETACH);
}

Status SmallDisk::resize(std::uint32_t megabytes) {
  if (::mount("tmpfs", directory_.c_str(), "tmpfs", MS_REMOUNT, size_option(megabytes).c_str()) ==
      0) {
    return {};
  }
  return Error{directory_ + ": cannot be resized (" + std::strerror(errno) + ")"};
}

}  // namespace annulus::chaos
