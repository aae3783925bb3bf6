#include "tools/bench/load.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::bench {
namespace {

constexpr std::uint32_t kCommandsPerItem = 64;

}  // namespace

using statemachine::CommandStatus;
using statemachine::Completion;
using statemachine::SessionHandle;
using statemachine::SubmitOutcome;

std::uint64_t btree_key(std::uint64_t record) {
  return std::uint64_t{static_cast<std::uint32_t>(record * 2'654'435'761u)} << 24;
}

std::uint64_t btree_record(std::uint64_t key) {
  static_assert(2'654'435'761u * 244'002'641u == 1);
  return static_cast<std::uint32_t>((key >> 24) * 244'002'641u);
}

Load::Load(const LoadOptions& options)
    : options_(options),
      chooser_(options.distribution, options.keys, options.seed,
               4 * options.clients * options.window),
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
  const Phase phase = phase_.load(std::memory_order_acquire);
  while (!deferred_.empty() && submit(deferred_.back(), now)) deferred_.pop_back();
  if (!opened_) {
    opened_ = std::all_of(sessions_.begin(), sessions_.end(),
                          [&](SessionHandle s) { return client_->session_ready(s); });
  } else if (phase == Phase::kRunning && options_.rate > 0) {
    issue_due(now, budget);
  } else if (phase == Phase::kRunning || (phase == Phase::kLoading && load_next_ < options_.keys)) {
    // An item of work is a batch, here as in the stages that take it further.
    for (std::uint32_t i = 0; i < budget * kCommandsPerItem && issue(now, now); ++i) {
    }
  }
  // Sends what was submitted above, in this turn.
  const dataplane::PollResult polled = client_->poll(now, budget);
  const bool loaded = phase != Phase::kLoading || load_next_ == options_.keys;
  const bool done = opened_ && loaded && deferred_.empty() && free_.size() == in_flight_.size();
  settled_.store(done ? phase : Phase::kNone, std::memory_order_release);
  Nanos deadline = polled.deadline;
  if (phase == Phase::kRunning && options_.rate > 0) deadline = std::min(deadline, schedule_);
  return {polled.work, deadline};
}

void Load::issue_due(Nanos now, std::uint32_t budget) {
  if (schedule_ == 0) schedule_ = now;
  const double gap = 1e9 / options_.rate;
  for (std::uint32_t i = 0; i < budget * kCommandsPerItem && schedule_ <= now; ++i) {
    if (!issue(schedule_, now)) {
      counters_[LoadCounter::kOverdue].add();
      return;
    }
    // Poisson arrivals: exponential gaps.
    schedule_ += static_cast<Nanos>(-std::log1p(-chooser_.random().unit()) * gap);
  }
}

Load::InFlight Load::draw_command() {
  InFlight command;
  command.op = draw();
  const bool inserts = command.op == Op::kInsert;
  command.record = inserts ? chooser_.inserted() : chooser_.next();
  command.from = btree_key(command.record);
  command.entries = options_.scan_entries_max;
  if (command.op == Op::kScan && options_.scan_length_uniform) {
    command.entries =
        1 + static_cast<std::uint32_t>(chooser_.random().below(options_.scan_entries_max));
  }
  return command;
}

bool Load::issue(Nanos intended, Nanos now) {
  if (token_head_ == token_tail_) return false;
  InFlight command;
  const bool loading = phase_.load(std::memory_order_relaxed) == Phase::kLoading;
  if (loading) {
    if (load_next_ == options_.keys) return false;
    command.op = Op::kInsert;
    command.record = load_next_;
  } else {
    // What was drawn stays drawn until there is room for it, or the mix would depend on the room.
    if (!drawn_) drawn_ = draw_command();
    if (drawn_->op == Op::kInsert && !chooser_.can_insert()) return false;
    if (drawn_->op == Op::kScan && scans_ == options_.scans_max) return false;
    command = *drawn_;
  }
  command.intended = intended;
  command.session = tokens_[token_head_ & (tokens_.size() - 1)];
  // The client is told the true time: it would take what is overdue for unanswered.
  if (!submit(command, now)) return false;
  ++token_head_;
  if (loading) {
    ++load_next_;
    return true;
  }
  drawn_.reset();
  if (command.op == Op::kInsert) chooser_.insert();
  if (command.op == Op::kScan) ++scans_;
  return true;
}

bool Load::submit(const InFlight& command, Nanos now) {
  if (options_.service == ServiceKind::kKv) {
    using namespace statemachine::kv;
    KvRequest request{.op = KvOp::kPut, .key = key_};
    fill_key(command.record, key_.data());
    if (reads(command)) {
      request.op = KvOp::kRead;
    } else if (command.op == Op::kRemove) {
      request.op = KvOp::kRemove;
    } else {
      fill_value(command.record, value_.data());
      request.value = value_;
      if (writes_field(command)) {
        const std::uint64_t fields = options_.value_bytes / options_.field_bytes;
        request.op = KvOp::kWriteRange;
        request.first =
            static_cast<std::int64_t>(chooser_.random().below(fields) * options_.field_bytes);
        request.value =
            request.value.subspan(static_cast<std::size_t>(request.first), options_.field_bytes);
      }
    }
    return submit_request(request, command, now);
  }
  using namespace statemachine::btree;
  BtreeRequest request{.op = BtreeOp::kInsert, .key = btree_key(command.record)};
  if (command.op == Op::kScan) {
    request = {.op = BtreeOp::kRange,
               .key = command.from,
               .last = ~std::uint64_t{0},
               .limit = command.entries};
  } else if (reads(command)) {
    request.op = BtreeOp::kRead;
  } else if (command.op == Op::kRemove) {
    request.op = BtreeOp::kDelete;
  } else {
    fill_value(command.record, value_.data());
    request.value = value_;
  }
  return submit_request(request, command, now);
}

template <typename Request>
bool Load::submit_request(const Request& request, const InFlight& command, Nanos now) {
  const std::uint32_t place = free_.back();
  const std::uint8_t flags = read_only(request.op) ? statemachine::kReadOnly : 0;
  std::span<std::byte> body;
  if (client_->submit(sessions_[command.session], static_cast<std::uint8_t>(options_.service),
                      flags, body_bytes(request), place, now, body) != SubmitOutcome::kAccepted) {
    return false;
  }
  encode(request, body);
  free_.pop_back();
  in_flight_[place] = command;
  return true;
}

bool Load::right_value(std::uint64_t record, std::span<const std::byte> value) const {
  const std::uint64_t mark = ~record;
  return value.size() == options_.value_bytes &&
         std::memcmp(value.data(), &mark,
                     std::min<std::size_t>(options_.value_bytes, sizeof mark)) == 0;
}

Load::Verdict Load::judge_scan(InFlight& command, const Completion& completion) {
  statemachine::btree::RangeReply reply(completion.reply);
  std::uint64_t key = 0;
  std::uint64_t least = command.from;
  std::span<const std::byte> value;
  std::uint32_t entries = 0;
  for (; reply.next(key, value); ++entries) {
    // The record that the scan starts at is there; the others follow in order.
    const bool first = entries == 0 && !command.second && options_.mix.remove == 0;
    if (key < least || (first && key != least)) return Verdict::kWrong;
    if (!right_value(btree_record(key), value)) return Verdict::kWrong;
    least = key + 1;
  }
  counters_[LoadCounter::kScannedEntries].add(entries);
  if (entries != reply.count() || entries > command.entries) return Verdict::kWrong;
  // Fewer than asked for, where the tree ends or the reply was full.
  if (entries == command.entries || !reply.more()) return Verdict::kRight;
  if (entries == 0) return Verdict::kWrong;
  command.from = least;
  command.entries -= entries;
  return Verdict::kGoesOn;
}

Load::Verdict Load::judge(InFlight& command, const Completion& completion) {
  const bool removes = options_.mix.remove > 0;
  if (completion.status == CommandStatus::kNotFound && removes) return Verdict::kRight;
  if (completion.status != CommandStatus::kOk) return Verdict::kWrong;
  if (command.op == Op::kScan) return judge_scan(command, completion);
  if (reads(command)) {
    if (!right_value(command.record, completion.reply)) return Verdict::kWrong;
    return command.op == Op::kReadModifyWrite ? Verdict::kGoesOn : Verdict::kRight;
  }
  if (command.op == Op::kRemove || removes) return Verdict::kRight;
  bool right = false;
  if (options_.service == ServiceKind::kBtree) {
    const bool is_new = command.op == Op::kInsert;
    right = statemachine::btree::decode_integer(completion.reply) == is_new;
  } else if (writes_field(command)) {
    right = statemachine::kv::decode_integer(completion.reply) == options_.value_bytes;
  } else {
    right = completion.reply.empty();
  }
  return right ? Verdict::kRight : Verdict::kWrong;
}

void Load::on_completions(std::span<const Completion> completions, Nanos now) {
  for (const Completion& completion : completions) {
    InFlight command = in_flight_[completion.tag];
    free_.push_back(static_cast<std::uint32_t>(completion.tag));
    Verdict verdict = Verdict::kRight;
    if (completion.status >= CommandStatus::kOutcomeUnknown) {
      counters_[LoadCounter::kFailed].add();
    } else {
      verdict = judge(command, completion);
      if (verdict == Verdict::kWrong) counters_[LoadCounter::kWrong].add();
    }
    if (verdict == Verdict::kGoesOn) {
      // At once, in the same session; the latency of the whole is one figure.
      command.second = true;
      if (!submit(command, now)) deferred_.push_back(command);
      continue;
    }
    finish(command, now);
  }
}

void Load::finish(const InFlight& command, Nanos now) {
  const auto took = static_cast<std::uint64_t>(std::max<Nanos>(now - command.intended, 0));
  latency_.record(took);
  if (timeline_ != nullptr) timeline_->record(now, static_cast<Nanos>(took));
  if (!stall_counters_.empty()) {
    std::uint64_t stalls = 0;
    for (const dataplane::Counter* counter : stall_counters_) stalls += counter->get();
    if (std::exchange(stalls_seen_, stalls) != stalls) stalled_latency_.record(took);
  }
  if (command.op == Op::kInsert && command.record >= options_.keys) {
    chooser_.acknowledge(command.record);
  }
  if (command.op == Op::kScan) --scans_;
  counters_[LoadCounter::kCommands].add();
  counters_[LoadCounter::kBytes].add(options_.key_bytes + options_.value_bytes);
  tokens_[token_tail_++ & (tokens_.size() - 1)] = command.session;
}

}  // namespace annulus::bench

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(bench::LoadCounter::kCount)>
    CounterNames<bench::LoadCounter>::names = {"commands", "wrong",           "failed",
                                               "bytes",    "scanned_entries", "overdue"};

}  // namespace annulus::dataplane
