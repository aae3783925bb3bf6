// Known good and bad histories for both checkers, and random ones on which they must agree.
#include "tools/history/linearizability.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"
#include "tests/sim/rng.h"

namespace annulus::history {
namespace {

using sim::Rng;
using statemachine::btree::BtreeOp;
using statemachine::btree::BtreeRequest;
using statemachine::kv::KvOp;
using statemachine::kv::KvRequest;

constexpr std::uint64_t kSteps = 1'000'000;

template <typename Request>
std::string body_of(const Request& request) {
  std::string body(body_bytes(request), '\0');
  encode(request, std::as_writable_bytes(std::span{body}));
  return body;
}
std::string put(const std::string& key, const std::string& value) {
  return body_of(KvRequest{.op = KvOp::kPut, .key = as_bytes(key), .value = as_bytes(value)});
}
std::string read(const std::string& key) {
  return body_of(KvRequest{.op = KvOp::kRead, .key = as_bytes(key)});
}
std::string increment(const std::string& key, std::int64_t by) {
  return body_of(KvRequest{.op = KvOp::kIncrement, .key = as_bytes(key), .first = by});
}
std::string insert(std::uint64_t key, const std::string& value) {
  return body_of(BtreeRequest{.op = BtreeOp::kInsert, .key = key, .value = as_bytes(value)});
}
std::string range(std::uint64_t first, std::uint64_t last) {
  return body_of(BtreeRequest{.op = BtreeOp::kRange, .key = first, .last = last});
}
Outcome value(const std::string& text) { return {CommandStatus::kOk, text}; }
const Outcome kAbsent{CommandStatus::kNotFound, ""};

class Histories : public testing::Test {
 protected:
  void add(Nanos invoked, Nanos returned, std::string body, Outcome outcome = {},
           std::uint8_t service = kKvService) {
    history_.push_back(
        {history_.size() + 1, invoked, returned, service, std::move(body), std::move(outcome)});
  }
  Verdict verdict() const { return search_order(history_, kSteps); }
  std::string witness(const std::vector<Placed>& order) const {
    return check_witness(history_, order);
  }
  std::vector<Operation> history_;
};

TEST_F(Histories, SequentialReadsSeeTheLastWrite) {
  add(0, 1, put("x", "a"));
  add(2, 3, read("x"), value("a"));
  EXPECT_EQ(verdict(), Verdict::kLinearizable);
  EXPECT_EQ(witness({{1, 0}, {2, 2}}), "");
}

TEST_F(Histories, StaleReadIsCaught) {
  add(0, 1, put("x", "a"));
  add(2, 3, put("x", "b"));
  add(4, 5, read("x"), value("a"));
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable);
  EXPECT_NE(witness({{1, 0}, {2, 2}, {3, 4}}), "");
  EXPECT_NE(witness({{1, 0}, {3, 1}, {2, 2}}), "") << "an order that disregards time";
}

TEST_F(Histories, OverlappingCommandsMayTakeEitherOrder) {
  add(0, 10, put("x", "a"));
  add(0, 10, put("x", "b"));
  add(11, 12, read("x"), value("a"));
  EXPECT_EQ(verdict(), Verdict::kLinearizable);
  EXPECT_EQ(witness({{2, 5}, {1, 6}, {3, 11}}), "");
  EXPECT_NE(witness({{1, 5}, {2, 6}, {3, 11}}), "");
}

TEST_F(Histories, TwoReadersMustNotSeeTwoWritesInTwoOrders) {
  add(0, 100, put("x", "a"));
  add(0, 100, put("x", "b"));
  add(10, 20, read("x"), value("a"));
  add(21, 30, read("x"), value("b"));
  EXPECT_EQ(verdict(), Verdict::kLinearizable);
  add(31, 40, read("x"), value("a"));
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable);
}

TEST_F(Histories, UnknownOutcomeMayTakeEffectLate) {
  add(0, kNever, put("x", "a"));
  add(1, 2, read("x"), kAbsent);
  add(3, 4, read("x"), value("a"));
  EXPECT_EQ(verdict(), Verdict::kLinearizable);
  EXPECT_EQ(witness({{2, 1}, {1, 3}, {3, 3}}), "");
}

TEST_F(Histories, UnknownOutcomeMayNeverTakeEffect) {
  add(0, kNever, put("x", "a"));
  add(1, 2, read("x"), kAbsent);
  EXPECT_EQ(verdict(), Verdict::kLinearizable);
  EXPECT_EQ(witness({{2, 1}}), "");
}

TEST_F(Histories, UnknownOutcomeMayNotComeAndGo) {
  add(0, kNever, put("x", "a"));
  add(1, 2, read("x"), value("a"));
  add(3, 4, read("x"), kAbsent);
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable);
}

TEST_F(Histories, AcknowledgedWriteThatWasLostIsCaught) {
  add(0, 1, put("x", "a"));
  add(2, 3, read("x"), kAbsent);
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable);
  EXPECT_NE(witness({{2, 2}}), "");
}

TEST_F(Histories, DuplicateExecutionIsCaught) {
  add(0, 9, increment("x", 1), {CommandStatus::kOk, std::string("\1\0\0\0\0\0\0\0", 8)});
  add(10, 11, read("x"), value("2"));
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable);
  EXPECT_NE(witness({{1, 1}, {1, 2}, {2, 10}}).find("twice"), std::string::npos);
}

TEST_F(Histories, RepeatedReadNeedsOnePlaceThatExplainsIt) {
  add(0, 9, read("x"), value("a"));
  add(1, 15, put("x", "a"));
  EXPECT_EQ(witness({{1, 1}, {2, 2}, {1, 3}}), "");
  EXPECT_NE(witness({{1, 1}, {1, 2}, {2, 10}}), "");
}

TEST_F(Histories, ReadMaySeeAnyStateUntilItReturns) {
  add(0, 9, read("x"), value("b"));
  add(1, 5, put("x", "a"));
  add(1, 5, put("x", "b"));
  add(10, 12, put("x", "c"));
  EXPECT_EQ(witness({{1, 1}, {2, 2}, {3, 3}, {4, 11}}), "");
  history_[0].outcome = value("c");
  EXPECT_NE(witness({{1, 1}, {2, 2}, {3, 3}, {4, 11}}), "");
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable);
}

TEST_F(Histories, RangeQuerySeesOneMoment) {
  const Outcome inserted{CommandStatus::kOk, std::string("\1\0\0\0\0\0\0\0", 8)};
  add(0, 1, insert(1, "a"), inserted, kBtreeService);
  add(2, 3, insert(2, "b"), inserted, kBtreeService);
  const auto entries = [](const std::string& keys) {
    std::string reply(8, '\0');
    reply[0] = static_cast<char>(keys.size());
    for (const char key : keys) {
      reply += key;
      reply += std::string(7, '\0') + std::string("\1\0", 2) + (key == 1 ? 'a' : 'b');
    }
    return Outcome{CommandStatus::kOk, reply};
  };
  add(0, 9, range(0, 9), entries("\1"), kBtreeService);
  EXPECT_EQ(verdict(), Verdict::kLinearizable);
  EXPECT_EQ(witness({{1, 0}, {3, 1}, {2, 2}}), "");
  history_.back().outcome = entries("\2");
  EXPECT_EQ(verdict(), Verdict::kNotLinearizable) << "2 came after 1";
  EXPECT_NE(witness({{1, 0}, {3, 1}, {2, 2}}), "");
}

TEST_F(Histories, PartsAreSplitByWhatTheyTouch) {
  add(0, 1, put("x", "a"));
  add(0, 1, put("y", "a"));
  add(0, 1, read("x"), value("a"));
  EXPECT_EQ(independent_parts(history_).size(), 2u);
  const std::string x = "x";
  const std::string y = "y";
  const std::vector<Bytes> keys{as_bytes(x), as_bytes(y)};
  add(0, 1, body_of(KvRequest{.op = KvOp::kReadMany, .items = keys}));
  EXPECT_EQ(independent_parts(history_).size(), 1u);
}

/// A random history of a correct server, and the order in which it executed.
struct Recorded {
  std::vector<Operation> history;
  std::vector<Placed> order;
};
Recorded record(Rng& rng, int operations) {
  struct Pending {
    Operation operation;
    Nanos at;
  };
  std::vector<Pending> pending;
  Nanos now = 0;
  for (int i = 0; i < operations; ++i) {
    now += rng.between(0, 3);
    Operation operation;
    operation.id = static_cast<std::uint64_t>(i) + 1;
    const std::string key(1, static_cast<char>('x' + rng.below(2)));
    const std::string text(1, static_cast<char>('a' + rng.below(4)));
    operation.service = rng.chance(250'000) ? kBtreeService : kKvService;
    if (operation.service == kBtreeService) {
      operation.body = rng.coin() ? insert(rng.below(4), text) : range(rng.below(2), rng.below(4));
    } else {
      operation.body = rng.chance(400'000)   ? read(key)
                       : rng.chance(300'000) ? increment("n", 1)
                                             : put(key, text);
    }
    operation.invoked = now;
    const Nanos at = now + rng.between(0, 8);
    operation.returned = rng.chance(100'000) ? kNever : at + rng.between(0, 8);
    pending.push_back({operation, at});
  }
  std::stable_sort(pending.begin(), pending.end(),
                   [](const Pending& a, const Pending& b) { return a.at < b.at; });
  Model model;
  Recorded recorded;
  for (Pending& one : pending) {
    if (one.operation.returned != kNever || rng.coin()) {
      one.operation.outcome = model.apply(one.operation.service, as_bytes(one.operation.body));
      recorded.order.push_back({one.operation.id, one.at});
    }
    recorded.history.push_back(one.operation);
  }
  return recorded;
}

TEST(Agreement, BothAcceptRandomCorrectHistories) {
  Rng rng(7);
  for (int round = 0; round < 300; ++round) {
    const Recorded good = record(rng, 24);
    EXPECT_EQ(check_witness(good.history, good.order), "");
    EXPECT_EQ(search_order(good.history, kSteps), Verdict::kLinearizable);
    for (const auto& part : independent_parts(good.history)) {
      EXPECT_EQ(search_order(part, kSteps), Verdict::kLinearizable);
    }
  }
}

TEST(Agreement, WhatTheWitnessAcceptsTheSearchAccepts) {
  Rng rng(11);
  int rejected_by_search = 0;
  int rejected_by_witness = 0;
  for (int round = 0; round < 600; ++round) {
    Recorded bad = record(rng, 18);
    // One mutation: a reply of another command, two places swapped, or a place dropped.
    const std::size_t i = rng.below(bad.order.size());
    const std::size_t j = rng.below(bad.order.size());
    switch (rng.below(3)) {
      case 0:
        bad.history[i].outcome = bad.history[j].outcome;
        break;
      case 1:
        std::swap(bad.order[i].operation, bad.order[j].operation);
        break;
      default:
        bad.order.erase(bad.order.begin() + static_cast<std::ptrdiff_t>(i));
    }
    const bool witnessed = check_witness(bad.history, bad.order).empty();
    const Verdict found = search_order(bad.history, kSteps);
    ASSERT_NE(found, Verdict::kGaveUp);
    if (witnessed) {
      EXPECT_EQ(found, Verdict::kLinearizable) << "round " << round;
    }
    rejected_by_witness += !witnessed;
    rejected_by_search += found == Verdict::kNotLinearizable;
  }
  EXPECT_GT(rejected_by_witness, 200);
  EXPECT_GT(rejected_by_search, 50);
}

}  // namespace
}  // namespace annulus::history
