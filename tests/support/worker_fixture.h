// Two workers that are fed the same order, and what their clients get.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "dataplane/hash.h"
#include "statemachine/kv/kv.h"
#include "statemachine/kv/kv_codec.h"
#include "statemachine/worker.h"

namespace annulus::statemachine {

using consensus::Delivery;
using consensus::DeliveryKind;
using consensus::Instance;
using consensus::NodeId;
using Bytes = std::vector<std::byte>;

constexpr std::uint8_t kKv = 1;
constexpr std::uint64_t kEpoch = 77;

inline Bytes kv_body(kv::KvOp op, const std::string& key, const std::string& value = "",
                     std::int64_t first = 0) {
  kv::KvRequest request;
  request.op = op;
  request.key = std::as_bytes(std::span{key});
  request.value = std::as_bytes(std::span{value});
  request.first = first;
  Bytes body(kv::body_bytes(request));
  kv::encode(request, body);
  return body;
}
template <typename T>
Bytes system_body(const T& body) {
  const auto bytes = std::as_bytes(std::span{&body, 1});
  return {bytes.begin(), bytes.end()};
}

struct TestCommand {
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  Bytes body;
  std::uint8_t service = kKv;
  std::uint8_t flags = 0;
  std::uint64_t acked_below = 1;
};

struct Answer {
  CommandStatus status{};
  std::string bytes;
  bool operator==(const Answer&) const = default;
};

/// A worker with its rings and services, and what its clients got.
class Replica {
 public:
  explicit Replica(std::uint16_t index, std::uint32_t reply_ring = 256)
      : kv_({.service = kKv, .limit_bytes = 64u << 20}),
        deliveries_(64),
        replies_(reply_ring),
        proposals_(8),
        pool_(256, 65'536) {
    WorkerOptions options;
    options.node = NodeId{20u + index};
    options.epoch = 1;
    options.sessions = {.sessions_max = 2'048, .segment_bytes = 1u << 18, .segments_max = 256};
    options.replies.replica = index;
    options.session_idle = kSecond;
    options.touch_bytes_per_turn = 64u << 10;
    options.state_bytes_per_turn = 256u << 10;
    worker_ =
        std::make_unique<Worker>(options, std::vector<Service*>{nullptr, &kv_},
                                 Worker::Rings{deliveries_, replies_, proposals_, &exchange_});
  }

  void push(const Bytes& bytes, const consensus::ValueId& id, std::uint64_t instance,
            DeliveryKind kind = DeliveryKind::kDecided) {
    dataplane::Slice slice = pool_.allocate();
    std::copy(bytes.begin(), bytes.end(), slice.mutable_data());
    slice.truncate(static_cast<std::uint32_t>(bytes.size()));
    ASSERT_TRUE(deliveries_.push({kind,
                                  Instance{instance},
                                  {id, dataplane::hash_bytes(bytes), consensus::kAllPartitions,
                                   static_cast<std::uint32_t>(bytes.size())},
                                  std::move(slice),
                                  0}));
  }
  /// Polls until idle; answers by (value sequence, command).
  void poll(Nanos now = 0) {
    for (;;) {
      const auto result = worker_->poll(now, 8);
      const bool took = take_replies();
      if (result.work == 0 && !took) break;
    }
  }
  bool take_replies() {
    consensus::ReplyFrame frame;
    bool any = false;
    for (; replies_.pop(frame); any = true) {
      std::string& stream = partial_[{frame.message.value.sequence, frame.message.stream}];
      stream.append(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
      ++frames;
      if (stream.size() < frame.message.bytes) continue;
      names[frame.message.value.sequence].insert(frame.message.content_hash);
      std::size_t at = 0;
      while (at < stream.size()) {
        ReplyEntry entry;
        std::memcpy(&entry, stream.data() + at, sizeof entry);
        answers[{frame.message.value.sequence, entry.command}] = {
            static_cast<CommandStatus>(entry.status),
            stream.substr(at + sizeof entry, entry.bytes)};
        at += sizeof entry + padded(entry.bytes);
      }
      stream.clear();
    }
    return any;
  }
  StateHashes hashes() {
    const auto ticket = worker_->ask_state_hashes();
    StateHashes hashes;
    worker_->poll(0, 1);
    EXPECT_TRUE(worker_->state_hashes(ticket, hashes));
    return hashes;
  }
  std::uint64_t count(WorkerCounter which) const { return worker_->counters()[which].get(); }
  Worker& worker() { return *worker_; }

  std::map<std::pair<std::uint64_t, std::uint32_t>, Answer> answers;
  std::map<std::uint64_t, std::set<std::uint64_t>> names;  // of the streams, by value
  int frames = 0;
  kv::KvService kv_;
  dataplane::SpscRing<Delivery> deliveries_;
  dataplane::SpscRing<consensus::ReplyFrame> replies_;
  dataplane::SpscRing<consensus::Proposal> proposals_;
  consensus::StateExchange exchange_{256u << 20};

 private:
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::string> partial_;
  dataplane::BufferPool pool_;
  std::unique_ptr<Worker> worker_;
};

class WorkerFixture : public ::testing::Test {
 protected:
  WorkerFixture() : first_(0), second_(1) { session_ = open(); }

  Bytes batch(const std::vector<TestCommand>& commands, std::uint64_t sequence,
              std::uint16_t replier = 0) {
    Bytes bytes(sizeof(BatchHeader));
    *reinterpret_cast<BatchHeader*>(bytes.data()) = {
        .version = kBatchVersion,
        .count = static_cast<std::uint16_t>(commands.size()),
        .proposer = 5,
        .epoch = kEpoch,
        .sequence = sequence,
        .mask = raw(consensus::kAllPartitions),
        .reply_address = 1,
        .reply_port = 9,
        .replier = replier};
    for (const TestCommand& command : commands) {
      const std::size_t at = bytes.size();
      bytes.resize(at + command_bytes(static_cast<std::uint32_t>(command.body.size())));
      auto& header = *reinterpret_cast<CommandHeader*>(bytes.data() + at);
      header.session = command.session;
      header.sequence = command.sequence;
      header.bytes = static_cast<std::uint32_t>(command.body.size());
      header.acked_distance = static_cast<std::uint16_t>(command.sequence - command.acked_below);
      header.service = command.service;
      header.flags = command.flags;
      std::copy(command.body.begin(), command.body.end(),
                bytes.begin() + static_cast<std::ptrdiff_t>(at + sizeof(CommandHeader)));
    }
    return bytes;
  }
  static consensus::ValueId id(std::uint64_t sequence) { return {NodeId{5}, kEpoch, sequence}; }

  /// Both replicas execute the batch; returns its value sequence.
  std::uint64_t decide(const std::vector<TestCommand>& commands, std::uint16_t replier = 0) {
    const std::uint64_t sequence = ++sequence_;
    ++instance_;
    for (Replica* replica : {&first_, &second_}) {
      replica->push(batch(commands, sequence, replier), id(sequence), instance_);
      replica->poll();
    }
    return sequence;
  }
  std::uint64_t open(std::uint32_t window = 64, std::uint16_t reply_bytes = 64) {
    OpenSession body{};
    body.kind = static_cast<std::uint8_t>(SystemCommand::kOpenSession);
    body.reply_bytes = reply_bytes;
    body.window = window;
    const auto value = decide({{0, ++opened_, system_body(body), kSystemService}});
    const Answer answer = first_.answers[{value, 0}];
    EXPECT_EQ(answer.status, CommandStatus::kOk);
    std::uint64_t session = 0;
    std::memcpy(&session, answer.bytes.data(), 8);
    return session;
  }
  TestCommand put(std::uint64_t sequence, const std::string& key, const std::string& value) {
    return {session_, sequence, kv_body(kv::KvOp::kPut, key, value)};
  }
  TestCommand increment(std::uint64_t sequence, const std::string& key) {
    return {session_, sequence, kv_body(kv::KvOp::kIncrement, key, "", 1)};
  }
  TestCommand read(const std::string& key) {
    return {session_, 1, kv_body(kv::KvOp::kRead, key), kKv, kReadOnly};
  }
  std::string value_of(const std::string& key) {
    return first_.answers[{decide({read(key)}), 0}].bytes;
  }
  void expect_same_state() {
    const StateHashes a = first_.hashes();
    const StateHashes b = second_.hashes();
    EXPECT_EQ(a.recomputed, b.recomputed);
    EXPECT_EQ(a.kept, a.recomputed);
    EXPECT_EQ(b.kept, b.recomputed);
  }

  Replica first_;
  Replica second_;
  std::uint64_t sequence_ = 0;
  std::uint64_t instance_ = 0;
  std::uint64_t opened_ = 0;
  std::uint64_t session_ = 0;
};

}  // namespace annulus::statemachine
