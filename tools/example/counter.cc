// A replicated service of one's own, in a cluster inside this process: named counters.
//
//   c++ -std=c++20 counter.cc $(pkg-config --cflags --libs annulus)
#include <cstdio>
#include <cstring>
#include <memory>

#include "dataplane/hash.h"
#include "statemachine/service.h"
#include "tools/cluster.h"

namespace {

using namespace annulus;
using statemachine::CommandStatus;

constexpr std::uint8_t kCounters = 1;  // the service's id: its index in the factory's list
constexpr std::uint32_t kCount = 64;

/// A command: add `amount` to counter `which`; the reply is its value then.
struct Add {
  u32le which;
  u32le amount;
};

/// All state lies in one segment: the header, then kCount values. No pointers, so that the bytes
/// can be copied to any address, and read there.
class Counters final : public statemachine::Service {
 public:
  Counters() : segments_(kCounters, 4'096, 1) {
    const auto id = segments_.create(0);
    CHECK(id.has_value());
    segments_.header(*id).used_bytes =
        static_cast<std::uint32_t>(sizeof(statemachine::SegmentHeader) + kCount * sizeof(u64le));
  }
  const char* name() const override { return "counters"; }

  // Names every key that execute() touches.
  void footprint(std::span<const std::byte> body,
                 statemachine::Footprint& footprint) const override {
    if (body.size() == sizeof(Add)) footprint.write(parse(body).which);
  }

  // Depends on the command's bytes and the state alone, so that every replica answers the same.
  void execute(std::span<const statemachine::Command> commands,
               statemachine::Replies& replies) override {
    for (const statemachine::Command& command : commands) {
      if (command.body.size() != sizeof(Add) || parse(command.body).which >= kCount) {
        replies.done(CommandStatus::kMalformed);
        continue;
      }
      const Add add = parse(command.body);
      u64le& value = values()[add.which];
      hash_.remove(entry_hash(add.which, value));
      value = value + add.amount;
      hash_.add(entry_hash(add.which, value));
      std::memcpy(replies.reserve(sizeof value).data(), &value, sizeof value);
      replies.done(CommandStatus::kOk, sizeof value);
    }
  }

  statemachine::SegmentStore& segments() override { return segments_; }
  Status on_segments_installed() override { return {}; }
  std::uint32_t key_classes() const override { return 1; }
  void hashes(std::span<statemachine::ContentHash> per_class) const override {
    per_class[0] = hash_;
  }
  void recompute_hashes(std::span<statemachine::ContentHash> per_class) const override {
    per_class[0] = {};
    for (std::uint32_t which = 0; which < kCount; ++which) {
      per_class[0].add(entry_hash(which, values()[which]));
      per_class[0].remove(entry_hash(which, 0));  // a fresh counter is no content
    }
  }

 private:
  static Add parse(std::span<const std::byte> body) {
    Add add{};
    std::memcpy(&add, body.data(), sizeof add);
    return add;
  }
  static std::uint64_t entry_hash(std::uint32_t which, std::uint64_t value) {
    return dataplane::hash_bytes(std::as_bytes(std::span(&value, 1)), which);
  }
  u64le* values() {
    return reinterpret_cast<u64le*>(segments_.at(statemachine::SegmentId{0}) +
                                    sizeof(statemachine::SegmentHeader));
  }
  const u64le* values() const {
    return reinterpret_cast<const u64le*>(segments_.at(statemachine::SegmentId{0}) +
                                          sizeof(statemachine::SegmentHeader));
  }

  statemachine::SegmentStore segments_;
  statemachine::ContentHash hash_;
};

int fail(const std::string& what) {
  std::fprintf(stderr, "error: %s\n", what.c_str());
  return 1;
}

}  // namespace

int main() {
  tools::ClusterOptions options;
  options.services = [] {
    tools::Services services(kCounters + 1);
    services[kCounters] = std::make_unique<Counters>();
    return services;
  };
  auto made = tools::Cluster::create(options);
  if (!made) return fail(made.error().message);
  tools::Cluster& cluster = *made.value();
  statemachine::BlockingClient& client = cluster.make_blocking_client();
  if (Status started = cluster.start(); !started) return fail(started.error().message);

  for (std::uint32_t i = 1; i <= 100; ++i) {
    const Add add{.which = 7, .amount = i};
    auto reply = client.call(kCounters, 0, std::as_bytes(std::span(&add, 1)));
    if (!reply) return fail(reply.error().message);
    u64le value{};
    if (reply->status != CommandStatus::kOk || reply->bytes.size() != sizeof value) {
      return fail(std::string("command ended: ") + statemachine::to_string(reply->status));
    }
    std::memcpy(&value, reply->bytes.data(), sizeof value);
    if (value != i * (i + 1) / 2) return fail("a command was lost or executed twice");
  }
  const auto hashes = cluster.state_hashes();
  if (!hashes) return fail(hashes.error().message);
  for (const statemachine::StateHashes& one : *hashes) {
    if (one.recomputed != hashes->front().recomputed) return fail("the replicas differ");
  }
  std::printf("100 commands, %zu replicas, state hash %016llx on each\n", hashes->size(),
              static_cast<unsigned long long>(hashes->front().recomputed));
  return 0;
}
