// A file system in memory with little room, for one acceptor's log. It is mounted where only this
// process and its children see it, and is gone with them, however they end.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/result.h"

namespace annulus::chaos {

class SmallDisk {
 public:
  /// Mounts it on `directory`, which is made. Root only; before any thread starts.
  static Result<SmallDisk> mount(const std::string& directory, std::uint32_t megabytes);
  SmallDisk(SmallDisk&& other) noexcept;
  SmallDisk& operator=(SmallDisk&&) = delete;
  ~SmallDisk();

  Status resize(std::uint32_t megabytes);

 private:
  explicit SmallDisk(std::string directory) : directory_(std::move(directory)) {}
  std::string directory_;  // "" when moved from
};

}  // namespace annulus::chaos
