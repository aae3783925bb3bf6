#include "tools/log_file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "dataplane/hash.h"
#include "recovery/uring_disk.h"

namespace annulus::tools {
namespace {

using recovery::AcceptorLog;
using recovery::UringDisk;

recovery::LogIdentity identity(const ClusterConfig& cluster, const consensus::Configuration& ring,
                               const NodeConfig& node) {
  std::string members;
  for (const consensus::Member& member : ring.acceptors) {
    members += std::to_string(raw(member.id)) + " ";
  }
  return {cluster.id, node.id, dataplane::hash_bytes(std::as_bytes(std::span(members)))};
}

std::uint64_t log_bytes(const NodeConfig& node) { return std::uint64_t{node.log_mb} << 20; }

recovery::AcceptorLogOptions options(const ClusterConfig& cluster) {
  recovery::AcceptorLogOptions options;
  options.value_bytes_max = cluster.limits.value_bytes;
  options.keeps_max = cluster.limits.retain;
  return options;
}

/// Under another name until it is whole: a crash in between leaves none, not half of one.
Status create(const std::string& path, std::uint64_t bytes, const recovery::LogIdentity& identity,
              std::uint64_t incarnation) {
  const std::string begun = path + ".new";
  {
    auto disk = UringDisk::create(begun, bytes);
    if (!disk) return disk.error();
    if (Status made = AcceptorLog::format(**disk, identity, incarnation); !made) return made;
  }
  std::error_code failure;
  std::filesystem::rename(begun, path, failure);
  if (failure) return Error{path + ": cannot be named so: " + failure.message()};
  const std::string parent = std::filesystem::path(path).parent_path();
  const int directory = open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = directory >= 0 && fsync(directory) == 0;
  if (directory >= 0) close(directory);
  if (synced) return {};
  return Error{parent + ": cannot be made durable; see the kernel's log for the disk's state"};
}

}  // namespace

std::string log_path(const NodeConfig& node) { return node.directory + "/acceptor.log"; }

Result<std::unique_ptr<AcceptorLog>> open_log(const ClusterConfig& cluster,
                                              const consensus::Configuration& ring,
                                              const NodeConfig& node, LogStart start) {
  const std::string path = log_path(node);
  std::error_code failure;
  const bool exists = std::filesystem::exists(path, failure);
  if (start == LogStart::kBootstrap && exists) {
    return Error{path +
                 ": exists, so this acceptor may have promised and voted; start it without "
                 "--bootstrap. If this is to be a new cluster, move the file away first"};
  }
  if (start == LogStart::kAgain && !exists) {
    return Error{
        path +
        ": does not exist. If this acceptor ever ran, its promises and votes are lost: give "
        "it back its directory, or start it with --join, to be admitted as a new one. A new "
        "cluster is created with --bootstrap on all its acceptors"};
  }
  if (!exists) {
    std::uint64_t incarnation = 0;
    while (start == LogStart::kJoin && incarnation == 0) {
      CHECK(getrandom(&incarnation, sizeof incarnation, 0) == sizeof incarnation);
    }
    std::filesystem::create_directories(node.directory, failure);
    Status created = create(path, log_bytes(node), identity(cluster, ring, node), incarnation);
    if (!created) return created.error();
  }
  auto disk = UringDisk::open(path, log_bytes(node));
  if (!disk) return disk.error();
  auto log =
      AcceptorLog::open(std::move(disk).value(), identity(cluster, ring, node), options(cluster));
  if (!log) return log.error();
  if (!(*log)->findings().empty()) {
    std::fprintf(stderr, "warning: %s: %sexamine it with: annulus inspect log %s\n", path.c_str(),
                 (*log)->findings().c_str(), path.c_str());
  }
  return log;
}

std::string log_memory_plan(const ClusterConfig& cluster, const NodeConfig& node) {
  return AcceptorLog::memory_plan(options(cluster), log_bytes(node));
}

}  // namespace annulus::tools
