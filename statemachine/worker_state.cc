// The worker's part in state transfer: copying all that it has replicated, and replacing it by the
// copy of a peer. Nothing is executed while it copies or installs.
#include "statemachine/worker.h"

#include <algorithm>
#include <utility>

namespace annulus::statemachine {

using consensus::DeliveryKind;
using consensus::StateExchange;

void Worker::begin_state(const consensus::Delivery& delivery) {
  CHECK(rings_.state != nullptr && rings_.state->image().instance == delivery.instance);
  const StateParts parts{sessions_, services_};
  if (delivery.kind == DeliveryKind::kCopyState) {
    CHECK(rings_.state->phase() == StateExchange::Phase::kCopying &&
          executed() <= delivery.instance);
    // What lies between concerned others, or nobody.
    executed_.store(raw(delivery.instance), std::memory_order_release);
    copier_ = std::make_unique<StateCopier>(parts, *rings_.state);
  } else {
    CHECK(rings_.state->phase() == StateExchange::Phase::kInstalling);
    installer_ = std::make_unique<StateInstaller>(parts, *rings_.state);
  }
}

void Worker::work_on_copy(Nanos now) {
  using Pass = StateCopier::Pass;
  const Pass before = copier_->pass();
  copier_->step(before == Pass::kTouch ? options_.touch_bytes_per_turn
                                       : options_.state_bytes_per_turn);
  if (before == Pass::kTouch && copier_->pass() == Pass::kCopy) {
    // At least what was delivered when the copy was asked for.
    rings_.state->image().instance = executed();
    still_since_ = now;
  }
  if (before == Pass::kHash && still_since_ != 0) {
    rings_.state->stood_still() = now - std::exchange(still_since_, 0);
  }
  if (copier_->pass() != Pass::kDone) return;
  copier_.reset();
  counters_[WorkerCounter::kStatesCopied].add();
  rings_.state->pass(StateExchange::Phase::kCopied);
}

void Worker::work_on_state(Nanos now) {
  if (copier_ != nullptr) return work_on_copy(now);
  const StateInstaller::Outcome outcome =
      installer_->step(std::min(options_.install_bytes_per_turn, options_.state_bytes_per_turn));
  if (outcome != StateInstaller::Outcome::kWorking) end_install(outcome);
}

void Worker::end_install(StateInstaller::Outcome outcome) {
  const bool emptied = installer_->emptied();
  installer_.reset();
  if (outcome == StateInstaller::Outcome::kRefused) {
    if (emptied) executed_.store(0, std::memory_order_release);
    counters_[WorkerCounter::kStatesRefused].add();
    return rings_.state->pass(StateExchange::Phase::kRefused);
  }
  counters_[WorkerCounter::kStatesInstalled].add();
  idle_.forget_proposal();
  const std::uint64_t instance = raw(rings_.state->image().instance);
  installed_.store(instance, std::memory_order_release);
  executed_.store(instance, std::memory_order_release);
  rings_.state->pass(StateExchange::Phase::kInstalled);
}

}  // namespace annulus::statemachine
