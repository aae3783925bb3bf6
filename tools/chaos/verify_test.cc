// Histories that a working cluster gives, and the same with one thing wrong: each must be told.
#include "tools/chaos/verify.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tools/bench/key_chooser.h"

namespace annulus::chaos {
namespace {

using history::Outcome;
using statemachine::CommandStatus;

constexpr Object kRegister{ObjectType::kRegister, 1};
constexpr Object kCounter{ObjectType::kCounter, 2};
constexpr Object kList{ObjectType::kList, 3};
constexpr Object kGroup{ObjectType::kGroup, 4};

Outcome number(std::uint64_t value) {
  Outcome outcome{CommandStatus::kOk, std::string(8, '\0')};
  std::memcpy(outcome.reply.data(), &value, 8);
  return outcome;
}
Outcome text(const std::string& value) { return {CommandStatus::kOk, value}; }
const Outcome kAbsent{CommandStatus::kNotFound, ""};

class Verification : public testing::Test {
 protected:
  std::uint64_t add(Nanos sent, Nanos ended, const Object& object, std::uint64_t written,
                    const Outcome& outcome, End end = End::kAnswered) {
    const std::uint64_t id = history_.begin({object, written != 0, written}, native_, sent, sent);
    native_ = !native_;
    if (end != End::kOpen) history_.finish(id, end, outcome, ended);
    return id;
  }
  std::uint64_t set(Nanos sent, Nanos ended, std::uint64_t value, End end = End::kAnswered) {
    return add(sent, ended, kRegister, value, {}, end);
  }
  void get(Nanos sent, Nanos ended, std::uint64_t value) {
    add(sent, ended, kRegister, 0, value == 0 ? kAbsent : text(value_text(value)));
  }
  std::string wrong() const {
    const Verdict verdict = verify(history_, 0);
    return verdict.violations.empty() ? "" : verdict.violations.front();
  }

  History history_;
  bool native_ = true;
};

TEST_F(Verification, ReadsThatSeeTheLastWriteAreRight) {
  get(0, 1, 0);
  set(2, 3, 7);
  get(4, 5, 7);
  set(6, 9, 8);
  get(7, 8, 7);
  get(10, 11, 8);
  EXPECT_EQ(wrong(), "");
}

TEST_F(Verification, AStaleReadIsTold) {
  set(0, 1, 7);
  set(2, 3, 8);
  get(4, 5, 7);
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, ALostWriteIsTold) {
  set(0, 1, 7);
  get(2, 3, 0);
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, AnUnknownWriteMayComeLateButNotGoAgain) {
  set(0, 1, 7);
  set(2, 0, 8, End::kUnknown);
  get(3, 4, 7);
  get(5, 6, 8);
  EXPECT_EQ(wrong(), "");
  get(7, 8, 7);
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, AWriteThatIsSaidNotToBeExecutedMustNotBeSeen) {
  set(0, 1, 7);
  set(2, 3, 8, End::kNotExecuted);
  get(4, 5, 7);
  EXPECT_EQ(wrong(), "");
  get(6, 7, 8);
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, IncrementsAreExecutedOnce) {
  add(0, 1, kCounter, 1, number(1));
  add(2, 9, kCounter, 1, number(3));
  add(2, 9, kCounter, 1, number(2));
  add(10, 11, kCounter, 0, text("3"));
  EXPECT_EQ(wrong(), "");
}

TEST_F(Verification, ADuplicatedIncrementIsTold) {
  add(0, 1, kCounter, 1, number(1));
  add(2, 3, kCounter, 1, number(3));
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, ADuplicatedIncrementThatOnlyTheLastReadShowsIsTold) {
  add(0, 1, kCounter, 1, number(1));
  add(2, 3, kCounter, 1, number(2));
  add(4, 5, kCounter, 0, text("3"));
  EXPECT_NE(wrong(), "");
  EXPECT_NE(wrong().find("2 acknowledged writes and 0 of unknown outcome, counted 3"),
            std::string::npos)
      << wrong();
}

TEST_F(Verification, UnknownIncrementsAccountForWhatIsCountedMore) {
  add(0, 1, kCounter, 1, number(1));
  add(2, 0, kCounter, 1, {}, End::kUnknown);
  add(2, 0, kCounter, 1, {}, End::kUnknown);
  add(4, 5, kCounter, 1, number(3));
  add(6, 7, kCounter, 0, text("3"));
  EXPECT_EQ(wrong(), "");
  add(8, 9, kCounter, 0, text("4"));
  EXPECT_EQ(wrong(), "");
  add(10, 11, kCounter, 0, text("5"));
  EXPECT_NE(wrong(), "") << "one more than was ever sent";
}

TEST_F(Verification, ACounterMustNotGoBack) {
  add(0, 1, kCounter, 1, number(1));
  add(2, 3, kCounter, 1, number(2));
  add(4, 5, kCounter, 0, text("1"));
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, ElementsAreAppendedOnceAndStay) {
  add(0, 1, kList, 11, number(9));
  add(2, 0, kList, 12, {}, End::kUnknown);
  add(3, 4, kList, 13, number(27));
  add(5, 6, kList, 0, text(element_text(11) + element_text(12) + element_text(13)));
  EXPECT_EQ(wrong(), "");
}

TEST_F(Verification, AnElementTwiceIsTold) {
  add(0, 1, kList, 11, number(9));
  add(2, 3, kList, 12, number(18));
  add(4, 5, kList, 0, text(element_text(11) + element_text(12) + element_text(12)));
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, AnAcknowledgedElementThatIsMissingIsTold) {
  add(0, 1, kList, 11, number(9));
  add(2, 3, kList, 12, number(18));
  add(4, 5, kList, 0, text(element_text(11)));
  EXPECT_NE(wrong(), "");
}

Outcome range(std::initializer_list<std::uint64_t> places) {
  std::string reply = "*" + std::to_string(2 * places.size()) + "\r\n";
  const auto bulk = [&](const std::string& bytes) {
    reply += "$" + std::to_string(bytes.size()) + "\r\n" + bytes + "\r\n";
  };
  for (const std::uint64_t place : places) {
    bulk(std::to_string(std::uint64_t{kGroup.number} << 32 | place));
    bulk(value_text(place));
  }
  Outcome outcome;
  EXPECT_EQ(end_of(Command{kGroup, false, 0}, reply, outcome), End::kAnswered);
  return outcome;
}

TEST_F(Verification, RangesShowWhatWasInserted) {
  add(0, 9, kGroup, 1, number(1));
  add(0, 9, kGroup, 2, number(1));
  add(1, 2, kGroup, 0, range({2}));
  add(3, 4, kGroup, 0, range({1, 2}));
  add(5, 0, kGroup, 3, {}, End::kUnknown);
  add(6, 7, kGroup, 0, range({1, 2}));
  EXPECT_EQ(wrong(), "");
  add(10, 11, kGroup, 0, range({1, 2, 3}));
  EXPECT_EQ(wrong(), "");
}

TEST_F(Verification, RangesThatNoOrderExplainsAreTold) {
  add(0, 9, kGroup, 1, number(1));
  add(0, 9, kGroup, 2, number(1));
  add(1, 2, kGroup, 0, range({2}));
  add(3, 4, kGroup, 0, range({1}));
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, ALostInsertIsTold) {
  add(0, 1, kGroup, 1, number(1));
  add(2, 3, kGroup, 0, range({}));
  EXPECT_NE(wrong(), "");
}

TEST_F(Verification, ARefusalIsTold) {
  set(0, 1, 7, End::kRefused);
  EXPECT_NE(wrong().find("refused"), std::string::npos);
}

TEST_F(Verification, TheShortestBeginningIsShown) {
  set(0, 1, 7);
  set(2, 3, 8);
  get(4, 5, 7);
  for (Nanos t = 6; t < 1'000; t += 2) get(t, t + 1, 8);
  const Verdict verdict = verify(history_, 0);
  ASSERT_EQ(verdict.violations.size(), 1u);
  EXPECT_EQ(verdict.evidence.size(), 3u) << verdict.violations.front();
}

/// A random history of objects that work, with commands that overlap and some without an answer.
class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {}

  History run(int commands) {
    struct Pending {
      std::uint64_t id;
      Nanos at;
      Nanos ended;
      End end;
    };
    std::vector<Pending> pending;
    History history;
    Nanos now = 0;
    for (int i = 1; i <= commands; ++i) {
      now += static_cast<Nanos>(random_.below(4));
      const Object object{static_cast<ObjectType>(random_.below(4)), 1};
      const bool write = random_.below(2) == 0;
      const Command command{object, write, static_cast<std::uint64_t>(write ? i : 0)};
      const std::uint64_t id = history.begin(command, random_.below(2) == 0, now, now);
      const Nanos at = now + static_cast<Nanos>(random_.below(20));
      const End end = random_.below(10) == 0 ? End::kUnknown : End::kAnswered;
      pending.push_back({id, at, at + static_cast<Nanos>(random_.below(20)), end});
    }
    std::stable_sort(pending.begin(), pending.end(),
                     [](const Pending& a, const Pending& b) { return a.at < b.at; });
    for (const Pending& each : pending) {
      const history::Operation& operation = history.entries()[each.id - 1].operation;
      Outcome outcome;
      if (each.end == End::kAnswered || random_.below(2) == 0) {
        outcome = model_.apply(operation.service, history::as_bytes(operation.body));
      }
      history.finish(each.id, each.end, outcome, each.ended);
    }
    return history;
  }

 private:
  bench::Random random_;
  history::Model model_;
};

TEST(RandomHistories, OfObjectsThatWorkAreRight) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    const Verdict verdict = verify(World(seed).run(300), 0);
    EXPECT_EQ(verdict.violations, std::vector<std::string>()) << "seed " << seed;
    EXPECT_EQ(verdict.objects, 4u);
  }
}

TEST(RandomHistories, TheDerivedOrderIsAWitnessWithoutASearch) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    const History history = World(seed).run(300);
    for (int type = 0; type < 4; ++type) {
      std::vector<Entry> part;
      std::vector<history::Operation> operations;
      for (const Entry& entry : history.entries()) {
        if (entry.command.object.type != static_cast<ObjectType>(type)) continue;
        part.push_back(entry);
        operations.push_back(entry.operation);
      }
      EXPECT_EQ(history::check_witness(operations, derive_order(part), 1 << 20), "")
          << "seed " << seed << " type " << type;
    }
  }
}

TEST(RandomHistories, OneAcknowledgedWriteAlteredIsTold) {
  int told = 0;
  int altered = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    History history = World(seed).run(300);
    // A write that later commands of its object saw is said never to have been executed.
    for (std::size_t i = 100; i < history.entries().size(); ++i) {
      Entry& entry = history.entries()[i];
      const bool seen_for_ever = entry.command.object.type >= ObjectType::kList;
      if (!entry.command.write || entry.end != End::kAnswered || !seen_for_ever) {
        continue;
      }
      entry.end = End::kNotExecuted;
      entry.operation.returned = kNever;
      ++altered;
      told += verify(history, 0).violations.empty() ? 0 : 1;
      break;
    }
  }
  EXPECT_EQ(altered, 200);
  EXPECT_EQ(told, altered);
}

}  // namespace
}  // namespace annulus::chaos
