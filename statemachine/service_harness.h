// For tests of services: executes commands, and finds footprints that miss a key.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "statemachine/service.h"

namespace annulus::statemachine {

/// One executed command's answer.
struct Answer {
  CommandStatus status{};
  std::string bytes;
  bool operator==(const Answer&) const = default;
};

/// Executes bodies on a service, one by one or as a run.
class ServiceHarness {
 public:
  explicit ServiceHarness(std::uint32_t reply_bytes_max = 64 * 1024)
      : reply_bytes_max_(reply_bytes_max) {}

  Answer run(Service& service, const std::string& body) { return run_all(service, {body})[0]; }

  std::vector<Answer> run_all(Service& service, const std::vector<std::string>& bodies) {
    const std::size_t memory_bytes = bodies.size() * padded(reply_bytes_max_);
    if (memory_bytes > memory_bytes_) {
      memory_.reset(new std::byte[memory_bytes]);
      memory_bytes_ = memory_bytes;
    }
    std::vector<Replies::Entry> entries(bodies.size());
    Replies replies({memory_.get(), memory_bytes_}, entries, reply_bytes_max_);
    std::vector<CommandHeader> headers(bodies.size());
    std::vector<Command> commands(bodies.size());
    for (std::size_t i = 0; i < bodies.size(); ++i) {
      headers[i].bytes = static_cast<std::uint32_t>(bodies[i].size());
      commands[i] = {&headers[i], std::as_bytes(std::span{bodies[i]})};
    }
    service.execute(commands, replies);
    CHECK(replies.count() == bodies.size());
    std::vector<Answer> answers;
    for (const Replies::Entry& entry : replies.entries()) {
      const std::span<const std::byte> bytes = replies.bytes(entry);
      answers.push_back(
          {entry.status, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
    }
    return answers;
  }

 private:
  std::uint32_t reply_bytes_max_;
  std::unique_ptr<std::byte[]> memory_;
  std::size_t memory_bytes_ = 0;
};

/// Whether a service's incremental hashes equal those recomputed from its segments.
inline bool hashes_agree(const Service& service) {
  std::vector<ContentHash> kept(service.key_classes());
  std::vector<ContentHash> recomputed(service.key_classes());
  service.hashes(kept);
  service.recompute_hashes(recomputed);
  return kept == recomputed;
}

/// One entry of a service as the footprint check sees it: where it is in the footprint space, and a
/// command that makes it.
struct Witness {
  std::uint64_t footprint_key = 0;
  std::string make;
  bool operator==(const Witness&) const = default;
};
/// All entries of a service, by any name that is unique.
using Witnesses = std::map<std::string, Witness>;

/// Executes `body` on `service`, and tells what its footprint missed: nothing ("") if the command
/// changed only what the footprint names as written, and answers and does the same on a service
/// (made by `make_empty`) that holds nothing but what the footprint names.
inline std::string footprint_fault(Service& service, const std::string& body,
                                   const std::function<std::unique_ptr<Service>()>& make_empty,
                                   const std::function<Witnesses(Service&)>& list,
                                   ServiceHarness& harness) {
  Footprint footprint;
  service.footprint(std::as_bytes(std::span{body}), footprint);
  const auto named = [&footprint](std::uint64_t key, bool write) {
    for (const Access& access : footprint.accesses()) {
      if (access.first <= key && key <= access.last && (access.write || !write)) return true;
    }
    return false;
  };
  const Witnesses before = list(service);
  const std::unique_ptr<Service> part = make_empty();
  for (const auto& [name, witness] : before) {
    if (named(witness.footprint_key, false)) harness.run(*part, witness.make);
  }
  const Answer answer = harness.run(service, body);
  const Witnesses after = list(service);
  for (const auto& [name, witness] : before) {
    const auto found = after.find(name);
    const bool changed = found == after.end() || !(found->second == witness);
    if (changed && !named(witness.footprint_key, true)) return "changed " + name;
  }
  for (const auto& [name, witness] : after) {
    if (!before.contains(name) && !named(witness.footprint_key, true)) return "added " + name;
  }
  if (harness.run(*part, body) != answer) return "read more than it names";
  const Witnesses part_after = list(*part);
  for (const auto& [name, witness] : after) {
    if (named(witness.footprint_key, false) && !part_after.contains(name)) {
      return "left out " + name;
    }
  }
  return "";
}

}  // namespace annulus::statemachine
