#include "tools/traffic.h"

#include <cstring>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::tools {
namespace {

using statemachine::CommandStatus;
using statemachine::Completion;
using statemachine::SubmitOutcome;
namespace kv = statemachine::kv;
namespace btree = statemachine::btree;

constexpr std::uint64_t kReadTag = std::uint64_t{1} << 63;

std::span<const std::byte> bytes_of(const u64le& value) {
  return std::as_bytes(std::span(&value, 1));
}

std::uint64_t value_of(std::span<const std::byte> bytes) {
  u64le value{};
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

bool Traffic::sessions_ready() {
  while (sessions_.size() < kSessions) {
    const auto session = client_->open_session(kSessionWindow);
    if (!session) return false;
    sessions_.push_back(session.value());
  }
  for (const statemachine::SessionHandle session : sessions_) {
    if (!client_->session_ready(session)) return false;
  }
  return true;
}

std::uint32_t Traffic::submit(Nanos now, std::uint32_t budget) {
  std::uint32_t submitted = 0;
  std::uint32_t refused = 0;
  while (submitted < budget && refused < kSessions) {
    const Workload::Next next = workload_.next();
    std::span<std::byte> body;
    const SubmitOutcome outcome = client_->submit(sessions_[session_], next.service, next.flags,
                                                  next.body_bytes, next.tag, now, body);
    if (outcome == SubmitOutcome::kBusy) break;
    if (outcome != SubmitOutcome::kAccepted) {
      session_ = (session_ + 1) % kSessions;
      ++refused;
      continue;
    }
    workload_.encode(body);
    ++submitted;
  }
  return submitted;
}

dataplane::PollResult Traffic::poll(Nanos now, std::uint32_t budget) {
  const bool wanted = wanted_.load(std::memory_order_relaxed);
  std::uint32_t submitted = 0;
  if (wanted) {
    idle_.store(false, std::memory_order_relaxed);
    if (sessions_ready()) submitted = submit(now, 4 * budget);
  }
  dataplane::PollResult result = client_->poll(now, budget);
  result.work += submitted;
  if (wanted) {
    result.deadline = now + 100 * kMicrosecond;
  } else if (client_->outstanding() == 0) {
    idle_.store(true, std::memory_order_release);
  }
  return result;
}

void Traffic::on_completions(std::span<const Completion> completions, Nanos) {
  for (const Completion& completion : completions) {
    if (!workload_.check(completion)) wrong_.add();
  }
  answered_.add(completions.size());
}

Workload::Next KvWorkload::next() {
  const std::uint64_t key = turn_ / 2 % versions_.size();
  const bool read = turn_ % 2 == 1;
  kv::KvRequest request{.op = read ? kv::KvOp::kRead : kv::KvOp::kPut};
  const u64le any = 0;
  request.key = bytes_of(any);
  if (!read) request.value = bytes_of(any);
  // A read's tag is what it must see at least: the version last written, and the key.
  const std::uint64_t tag = read ? kReadTag | std::uint64_t{versions_[key]} << 24 | key : key;
  return {service_, static_cast<std::uint8_t>(read ? statemachine::kReadOnly : 0),
          kv::body_bytes(request), tag};
}

void KvWorkload::encode(std::span<std::byte> body) {
  const std::uint64_t index = turn_ / 2 % versions_.size();
  const bool read = turn_++ % 2 == 1;
  const u64le key = index;
  kv::KvRequest request{.op = read ? kv::KvOp::kRead : kv::KvOp::kPut, .key = bytes_of(key)};
  u64le value = 0;
  if (!read) {
    value = std::uint64_t{++versions_[index]} << 24 | index;
    request.value = bytes_of(value);
  }
  kv::encode(request, body);
}

bool KvWorkload::check(const Completion& completion) {
  if (completion.status != CommandStatus::kOk) return false;
  if ((completion.tag & kReadTag) == 0) return completion.reply.empty();
  if (completion.reply.size() != 8) return false;
  const std::uint64_t least = completion.tag & ~kReadTag;
  const std::uint64_t value = value_of(completion.reply);
  return value >= least && (value & 0xffffff) == (least & 0xffffff);
}

Workload::Next BtreeWorkload::next() {
  const bool range = range_turn();
  const u64le any = 0;
  btree::BtreeRequest request{.op = range ? btree::BtreeOp::kRange : btree::BtreeOp::kInsert};
  if (!range) request.value = bytes_of(any);
  const std::uint64_t tag = range ? kReadTag | (inserted_ - kRange) : inserted_;
  return {service_, static_cast<std::uint8_t>(range ? statemachine::kReadOnly : 0),
          btree::body_bytes(request), tag};
}

void BtreeWorkload::encode(std::span<std::byte> body) {
  const bool range = range_turn();
  ++turn_;
  const u64le value = inserted_;
  btree::BtreeRequest request{.op = btree::BtreeOp::kInsert, .key = inserted_};
  if (range) {
    request = {.op = btree::BtreeOp::kRange,
               .key = inserted_ - kRange,
               .last = inserted_ - 1,
               .limit = kRange};
  } else {
    request.value = bytes_of(value);
    ++inserted_;
  }
  btree::encode(request, body);
}

bool BtreeWorkload::check(const Completion& completion) {
  if (completion.status != CommandStatus::kOk) return false;
  if ((completion.tag & kReadTag) == 0) return btree::decode_integer(completion.reply) == 1;
  btree::RangeReply reply(completion.reply);
  if (reply.count() != kRange) return false;
  std::uint64_t wanted = completion.tag & ~kReadTag;
  std::uint64_t key = 0;
  btree::Bytes value;
  for (std::uint32_t i = 0; i < kRange; ++i, ++wanted) {
    if (!reply.next(key, value) || key != wanted || value.size() != 8) return false;
    if (value_of(value) != wanted) return false;
  }
  return true;
}

}  // namespace annulus::tools
