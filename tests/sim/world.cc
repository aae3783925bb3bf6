#include "tests/sim/world.h"

#include <algorithm>
#include <utility>

namespace annulus::sim {

World::World(std::uint64_t seed, std::uint32_t frame_bytes_max)
    : rng_(seed), network_(rng_.fork(), frame_bytes_max, trace_) {}

std::uint32_t World::add_stage(dataplane::Stage* stage, std::uint32_t node, std::uint32_t end) {
  for (std::uint32_t i = 0; i < stages_.size(); ++i) {
    Scheduled& place = stages_[i];
    if (place.stage != nullptr || place.node != node || place.end != end) continue;
    place = {.stage = stage, .node = node, .end = end, .disk = place.disk};
    return i;
  }
  stages_.push_back({stage, node, end});
  if (clock_ahead_.size() <= node) clock_ahead_.resize(node + 1);
  return static_cast<std::uint32_t>(stages_.size() - 1);
}

void World::set_base(std::vector<LinkQuality> base) {
  base_ = std::move(base);
  apply_faults(network_, base_, {}, now_);
}

Nanos World::due(const Scheduled& stage) const {
  if (stage.stage == nullptr) return kNever;
  Nanos at = stage.ready ? now_ : stage.wake;
  if (stage.end != kNoEnd) at = std::min(at, network_.next_arrival(stage.end));
  return std::max(at, stage.stalled_until);
}

void World::poll(Scheduled& stage) {
  // Small budgets expose what a stage leaves half done.
  static constexpr std::uint32_t kBudgets[] = {1, 2, 4, 8, 16, 32, 64, 256};
  const std::uint32_t budget = kBudgets[rng_.below(std::size(kBudgets))];
  ++polls_;
  const Nanos ahead = clock_ahead_[stage.node];
  network_.set_now(now_);
  const dataplane::PollResult result = stage.stage->poll(now_ + ahead, budget);
  if (stage.last_turn) return bury(stage.node);
  stage.ready = result.work != 0;
  // A stage whose deadline has passed is polled again, but time goes on meanwhile.
  stage.wake = result.deadline == kNever ? kNever : std::max(result.deadline - ahead, now_ + 1);
  if (stage.disk && stage.wake == now_ + 1) stage.wake += rng_.between(200, 6'000);
  if (result.work != 0) {
    trace_.mix(TraceEvent::kPoll, static_cast<std::uint64_t>(now_), stage.node, result.work);
    for (Scheduled& sibling : stages_) {
      if (sibling.node == stage.node) sibling.ready = true;
    }
  }
  // One thread stands for many cores: a turn takes little of everybody's time.
  now_ += rng_.between(20, 400);
}

bool World::pick_and_poll() {
  if (!std::exchange(due_known_, false)) {
    due_.resize(stages_.size());
    for (std::uint32_t i = 0; i < stages_.size(); ++i) due_[i] = due(stages_[i]);
  }
  candidates_.clear();
  Nanos next = next_change_;
  for (std::uint32_t i = 0; i < due_.size(); ++i) {
    if (due_[i] <= now_) candidates_.push_back(i);
    next = std::min(next, due_[i]);
  }
  if (candidates_.empty()) {
    if (next == kNever) return false;
    now_ = std::max(now_, next);
    due_known_ = true;  // unless a fault begins or ends now, which says so
    return true;
  }
  std::uint32_t pick = candidates_[rng_.below(candidates_.size())];
  // Now and then a turn that nothing asked for.
  if (rng_.chance(20'000)) {
    const auto any = static_cast<std::uint32_t>(rng_.below(stages_.size()));
    if (stages_[any].stage != nullptr && stages_[any].stalled_until <= now_) pick = any;
  }
  poll(stages_[pick]);
  return true;
}

void World::crash(std::uint32_t node, std::uint32_t frames_left) {
  for (Scheduled& stage : stages_) {
    if (stage.node != node || stage.stage == nullptr) continue;
    stage.last_turn = true;
    stage.stalled_until = 0;
    stage.ready = true;
    if (stage.end != kNoEnd) network_.kill(stage.end, frames_left);
  }
}

void World::bury(std::uint32_t node) {
  for (Scheduled& stage : stages_) {
    if (stage.node == node && stage.last_turn) stage.stage = nullptr;
  }
}

void World::begin_fault(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kStall:
      stages_[fault.a].stalled_until = std::max(stages_[fault.a].stalled_until, fault.end);
      return;
    case FaultKind::kPause:
      for (Scheduled& stage : stages_) {
        if (stage.node == fault.a) stage.stalled_until = std::max(stage.stalled_until, fault.end);
      }
      return;
    case FaultKind::kClockJump:
      clock_ahead_[fault.a] += fault.amount * kMicrosecond;
      for (Scheduled& stage : stages_) stage.ready |= stage.node == fault.a;
      return;
    default:
      if (on_fault_) on_fault_(fault);
  }
}

void World::plan(const Fault& fault) {
  if (healed_) return;
  const auto place =
      std::upper_bound(faults_.begin() + static_cast<std::ptrdiff_t>(next_fault_), faults_.end(),
                       fault, [](const Fault& a, const Fault& b) { return a.start < b.start; });
  faults_.insert(place, fault);
  next_change_ = std::min(next_change_, fault.start);
}

void World::begin_faults() {
  due_known_ = false;
  while (next_fault_ < faults_.size() && faults_[next_fault_].start <= now_) {
    const Fault& fault = faults_[next_fault_++];
    ++begun_[static_cast<std::size_t>(fault.kind)];
    active_until_ = std::max(active_until_, fault.end);
    trace_.note(now_, describe(fault));
    trace_.mix(TraceEvent::kFault, static_cast<std::uint64_t>(fault.start),
               static_cast<std::uint64_t>(fault.kind), fault.amount);
    begin_fault(fault);
  }
  apply_faults(network_, base_, std::span(faults_).first(next_fault_), now_);
  next_change_ = next_fault_ < faults_.size() ? faults_[next_fault_].start : kNever;
  for (std::size_t i = 0; i < next_fault_; ++i) {
    if (faults_[i].end > now_) next_change_ = std::min(next_change_, faults_[i].end);
  }
}

bool World::run(const std::function<bool()>& done, Nanos limit) {
  if (!healed_) begin_faults();
  while (!failure_.failed() && now_ < limit) {
    if (!healed_ && next_change_ <= now_) begin_faults();
    if (!pick_and_poll()) return done();
    if (done()) return true;
  }
  return false;
}

void World::heal() {
  healed_ = true;
  due_known_ = false;
  next_change_ = kNever;
  for (Scheduled& stage : stages_) stage.stalled_until = 0;
  LinkQuality perfect;
  for (std::uint32_t from = 0; from < network_.ends(); ++from) {
    for (std::uint32_t to = 0; to < network_.ends(); ++to) network_.link(from, to) = perfect;
  }
}

}  // namespace annulus::sim
