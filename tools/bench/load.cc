#include "tools/bench/load.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::bench {

using statemachine::CommandStatus;
using statemachine::Completion;
using statemachine::SessionHandle;
using statemachine::SubmitOutcome;

Load::Load(const LoadOptions& options)
    : options_(options),
      chooser_(options.distribution, std::max<std::uint64_t>(options.keys, 2), options.seed),
      tokens_(std::bit_ceil(std::uint64_t{options.clients} * options.window)),
      in_flight_(std::uint64_t{options.clients} * options.window),
      key_(options.key_bytes),
      value_(options.value_bytes) {
  deferred_.reserve(in_flight_.size());
  for (std::uint32_t i = 0; i < in_flight_.size(); ++i) free_.push_back(i);
  // Places of all sessions in turn, so that a burst is spread over them.
  for (std::uint32_t w = 0; w < options.window; ++w) {
    for (std::uint32_t s = 0; s < options.clients; ++s) tokens_[token_tail_++] = s;
  }
}

void Load::attach(statemachine::Client& client) {
  client_ = &client;
  for (std::uint32_t i = 0; i < options_.clients; ++i) {
    auto session = client_->open_session(std::bit_ceil(options_.window));
    CHECK(session.ok());
    sessions_.push_back(*session);
  }
}

void Load::fill_key(std::uint64_t record, std::byte* key) const {
  // Records are scattered over the key space as YCSB's hashed insert order does.
  const std::uint64_t scattered = Random::mix(record);
  std::memset(key, 0x6b, options_.key_bytes);
  std::memcpy(key, &scattered, std::min<std::size_t>(options_.key_bytes, sizeof scattered));
}

void Load::fill_value(std::uint64_t record, std::byte* value) const {
  const std::uint64_t mark = ~record;
  std::memset(value, static_cast<int>(record & 0xff), options_.value_bytes);
  std::memcpy(value, &mark, std::min<std::size_t>(options_.value_bytes, sizeof mark));
}

std::uint64_t Load::btree_key(std::uint64_t record) const {
  // A bijection of [0, 2^32) keeps keys distinct and spread, in random insert order.
  const auto low = static_cast<std::uint32_t>(record * 2'654'435'761u);
  return std::uint64_t{low} << 24;
}

Load::Op Load::draw() {
  auto share = static_cast<std::uint32_t>(chooser_.random().below(100));
  const Mix& mix = options_.mix;
  if (share < mix.read) return Op::kRead;
  share -= mix.read;
  if (share < mix.update) return Op::kUpdate;
  share -= mix.update;
  if (share < mix.insert) return Op::kInsert;
  share -= mix.insert;
  if (share < mix.scan) return Op::kScan;
  share -= mix.scan;
  return share < mix.read_modify_write ? Op::kReadModifyWrite : Op::kRemove;
}

dataplane::PollResult Load::poll(Nanos now, std::uint32_t budget) {
  const dataplane::PollResult polled = client_->poll(now, budget);
  const Phase phase = phase_.load(std::memory_order_acquire);
  while (!deferred_.empty() && submit(deferred_.back(), now)) deferred_.pop_back();
  if (!opened_) {
    opened_ = std::all_of(sessions_.begin(), sessions_.end(),
                          [&](SessionHandle s) { return client_->session_ready(s); });
  } else if (phase == Phase::kRunning && options_.rate > 0) {
    issue_due(now, budget);
  } else if (phase == Phase::kRunning || (phase == Phase::kLoading && load_next_ < options_.keys)) {
    for (std::uint32_t i = 0; i < budget && issue(now); ++i) {
    }
  }
  const bool loaded = phase != Phase::kLoading || load_next_ == options_.keys;
  settled_.store(opened_ && loaded && deferred_.empty() && free_.size() == in_flight_.size(),
                 std::memory_order_release);
  Nanos deadline = polled.deadline;
  if (phase == Phase::kRunning && options_.rate > 0) deadline = std::min(deadline, schedule_);
  return {polled.work, deadline};
}

void Load::issue_due(Nanos now, std::uint32_t budget) {
  if (schedule_ == 0) schedule_ = now;
  const double gap = 1e9 / options_.rate;
  for (std::uint32_t i = 0; i < budget && schedule_ <= now; ++i) {
    if (!issue(schedule_)) {
      counters_[LoadCounter::kOverdue].add();
      return;
    }
    // Poisson arrivals: exponential gaps.
    schedule_ += static_cast<Nanos>(-std::log1p(-chooser_.random().unit()) * gap);
  }
}

bool Load::issue(Nanos intended) {
  if (token_head_ == token_tail_) return false;
  const std::uint32_t session = tokens_[token_head_ & (tokens_.size() - 1)];
  InFlight command;
  command.intended = intended;
  command.session = session;
  if (phase_.load(std::memory_order_relaxed) == Phase::kLoading) {
    if (load_next_ == options_.keys) return false;
    command.op = Op::kInsert;
    command.record = load_next_;
    if (!submit(command, intended)) return false;
    ++load_next_;
  } else {
    command.op = draw();
    command.record = command.op == Op::kInsert ? chooser_.records() : chooser_.next();
    command.entries = options_.scan_entries_max;
    if (command.op == Op::kScan && options_.scan_length_uniform) {
      command.entries =
          1 + static_cast<std::uint32_t>(chooser_.random().below(options_.scan_entries_max));
    }
    if (!submit(command, intended)) return false;
    if (command.op == Op::kInsert) chooser_.insert();
  }
  ++token_head_;
  return true;
}

bool Load::submit(const InFlight& command, Nanos now) {
  const SessionHandle session = sessions_[command.session];
  const std::uint32_t place = free_.back();
  const bool kv = options_.service == ServiceKind::kKv;
  const bool accepted =
      kv ? submit_kv(command, session, place, now) : submit_btree(command, session, place, now);
  if (!accepted) return false;
  free_.pop_back();
  in_flight_[place] = command;
  return true;
}

bool Load::submit_kv(const InFlight& command, SessionHandle session, std::uint64_t tag, Nanos now) {
  using namespace statemachine::kv;
  KvRequest request;
  fill_key(command.record, key_.data());
  request.key = key_;
  const bool reads =
      command.op == Op::kRead || (command.op == Op::kReadModifyWrite && !command.second);
  if (reads) {
    request.op = KvOp::kRead;
  } else if (command.op == Op::kRemove) {
    request.op = KvOp::kRemove;
  } else {
    request.op = KvOp::kPut;
    fill_value(command.record, value_.data());
    request.value = value_;
  }
  std::span<std::byte> body;
  const std::uint8_t flags = reads ? statemachine::kReadOnly : 0;
  if (client_->submit(session, options_.service_id, flags, body_bytes(request), tag, now, body) !=
      SubmitOutcome::kAccepted) {
    return false;
  }
  encode(request, body);
  return true;
}

bool Load::submit_btree(const InFlight& command, SessionHandle session, std::uint64_t tag,
                        Nanos now) {
  using namespace statemachine::btree;
  BtreeRequest request;
  request.key = btree_key(command.record);
  const bool reads = command.op == Op::kRead || command.op == Op::kScan ||
                     (command.op == Op::kReadModifyWrite && !command.second);
  if (command.op == Op::kScan) {
    request.op = BtreeOp::kRange;
    request.last = ~std::uint64_t{0};
    request.limit = command.entries;
  } else if (reads) {
    request.op = BtreeOp::kRead;
  } else if (command.op == Op::kRemove) {
    request.op = BtreeOp::kDelete;
  } else {
    request.op = BtreeOp::kInsert;
    fill_value(command.record, value_.data());
    request.value = value_;
  }
  std::span<std::byte> body;
  const std::uint8_t flags = reads ? statemachine::kReadOnly : 0;
  if (client_->submit(session, options_.service_id, flags, body_bytes(request), tag, now, body) !=
      SubmitOutcome::kAccepted) {
    return false;
  }
  encode(request, body);
  return true;
}

bool Load::right(const InFlight& command, const Completion& completion) {
  const bool removes = options_.mix.remove > 0;
  if (command.op == Op::kScan) {
    statemachine::btree::RangeReply reply(completion.reply);
    std::uint64_t key = 0;
    std::uint64_t previous = 0;
    std::span<const std::byte> value;
    std::uint32_t entries = 0;
    while (reply.next(key, value)) {
      if (entries++ != 0 && key <= previous) return false;
      if (value.size() != options_.value_bytes) return false;
      previous = key;
    }
    counters_[LoadCounter::kScannedEntries].add(entries);
    // Fewer only where the tree, or the reply, ends.
    return completion.status == CommandStatus::kOk && entries == reply.count() &&
           entries <= command.entries;
  }
  const bool reads =
      command.op == Op::kRead || (command.op == Op::kReadModifyWrite && !command.second);
  if (completion.status == CommandStatus::kNotFound) return removes;
  if (completion.status != CommandStatus::kOk) return false;
  if (!reads) return true;
  const std::uint64_t mark = ~command.record;
  return completion.reply.size() == options_.value_bytes &&
         std::memcmp(completion.reply.data(), &mark,
                     std::min<std::size_t>(options_.value_bytes, sizeof mark)) == 0;
}

void Load::on_completions(std::span<const Completion> completions, Nanos now) {
  for (const Completion& completion : completions) {
    InFlight& command = in_flight_[completion.tag];
    if (completion.status >= CommandStatus::kOutcomeUnknown) {
      counters_[LoadCounter::kFailed].add();
    } else if (!right(command, completion)) {
      counters_[LoadCounter::kWrong].add();
    }
    free_.push_back(static_cast<std::uint32_t>(completion.tag));
    if (command.op == Op::kReadModifyWrite && !command.second &&
        completion.status == CommandStatus::kOk) {
      // The write follows at once, in the same session; the pair's latency is one figure.
      InFlight write = command;
      write.second = true;
      if (!submit(write, now)) deferred_.push_back(write);
      continue;
    }
    latency_.record(static_cast<std::uint64_t>(std::max<Nanos>(now - command.intended, 0)));
    counters_[LoadCounter::kCommands].add();
    counters_[LoadCounter::kBytes].add(options_.key_bytes + options_.value_bytes);
    tokens_[token_tail_++ & (tokens_.size() - 1)] = command.session;
  }
}

}  // namespace annulus::bench

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(bench::LoadCounter::kCount)>
    CounterNames<bench::LoadCounter>::names = {"commands", "wrong",           "failed",
                                               "bytes",    "scanned_entries", "overdue"};

}  // namespace annulus::dataplane
