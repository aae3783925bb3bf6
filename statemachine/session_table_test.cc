// Exactly-once, rule by rule, and against an oracle.
#include "statemachine/session_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

namespace annulus::statemachine {
namespace {

using Admission = SessionTable::Admission;
using consensus::Instance;
using consensus::NodeId;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span{text.data(), text.size()});
}
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class SessionTableTest : public ::testing::Test {
 protected:
  SessionTableTest() : table_({.sessions_max = 1'000, .segment_bytes = 1u << 16}) {}

  std::uint64_t open(std::uint32_t window = 8, std::uint32_t reply_bytes = 16) {
    std::uint64_t id = 0;
    EXPECT_EQ(
        table_.open({NodeId{1}, 5, ++opened_}, window, reply_bytes, Instance{++instance_}, id),
        CommandStatus::kOk);
    return id;
  }
  /// Admits and, if it is new, records `reply`. The window is told that everything below
  /// `acked_below` was answered.
  Admission run(std::uint64_t session, std::uint64_t sequence, const std::string& reply = "",
                std::uint64_t acked_below = 1) {
    const auto admitted =
        table_.admit(session, sequence, static_cast<std::uint16_t>(sequence - acked_below));
    if (admitted.admission == Admission::kExecute) {
      table_.record(admitted, CommandStatus::kOk, bytes_of(reply), Instance{++instance_});
    }
    last_reply_ = text_of(admitted.reply);
    last_status_ = admitted.status;
    table_.end_batch();
    return admitted.admission;
  }
  /// Replaces what `copy` has by the segments of `source`.
  static void install(SessionTable& source, SessionTable& copy) {
    copy.segments().clear();
    copy.before_segments_installed();
    for (std::uint32_t i = 0; i < source.segments().id_end(); ++i) {
      const SegmentId segment{i};
      if (!source.segments().live(segment)) continue;
      ASSERT_TRUE(copy.segments().verify(source.segments().bytes(segment)).ok());
      const auto id = copy.segments().install(source.segments().bytes(segment));
      ASSERT_TRUE(id.has_value());
      ASSERT_TRUE(copy.on_segment_installed(*id).ok());
    }
    ASSERT_TRUE(copy.on_segments_installed().ok());
  }
  void expect_hashes_hold() {
    std::vector<ContentHash> kept(SessionTable::key_classes());
    std::vector<ContentHash> recomputed(SessionTable::key_classes());
    table_.hashes(kept);
    table_.recompute_hashes(recomputed);
    EXPECT_EQ(kept, recomputed);
  }

  SessionTable table_;
  std::uint64_t opened_ = 0;
  std::uint64_t instance_ = 0;
  std::string last_reply_;
  CommandStatus last_status_{};
};

TEST_F(SessionTableTest, RepeatedCommandGetsTheFirstReplyAndIsNotExecuted) {
  const auto s = open();
  EXPECT_EQ(run(s, 1, "first"), Admission::kExecute);
  EXPECT_EQ(run(s, 1, "second"), Admission::kRepeat);
  EXPECT_EQ(last_reply_, "first");
  EXPECT_EQ(last_status_, CommandStatus::kOk);
}

TEST_F(SessionTableTest, T9IndependentCommandsMayArriveOutOfOrder) {
  const auto s = open();
  EXPECT_EQ(run(s, 5, "five"), Admission::kExecute);
  EXPECT_EQ(run(s, 2, "two"), Admission::kExecute) << "a per-client maximum would refuse it";
  EXPECT_EQ(run(s, 5), Admission::kRepeat);
  EXPECT_EQ(last_reply_, "five");
  EXPECT_EQ(run(s, 3), Admission::kExecute);
}

TEST_F(SessionTableTest, T9FloorRisesOnlyByWhatCommandsCarry) {
  const auto s = open(8);
  for (std::uint64_t k = 1; k <= 8; ++k) EXPECT_EQ(run(s, k), Admission::kExecute);
  EXPECT_EQ(run(s, 9), Admission::kBeyondWindow);
  EXPECT_EQ(run(s, 1), Admission::kRepeat) << "eight executed commands raise no floor";
  EXPECT_EQ(run(s, 9, "", 4), Admission::kExecute);
  EXPECT_EQ(run(s, 3), Admission::kStale);
  EXPECT_EQ(run(s, 4), Admission::kRepeat);
}

TEST_F(SessionTableTest, BelowTheFloorIsRefusedEvenIfNeverExecuted) {
  const auto s = open();
  EXPECT_EQ(run(s, 4, "", 4), Admission::kExecute);
  EXPECT_EQ(run(s, 2), Admission::kStale);
  EXPECT_EQ(run(s, 2), Admission::kStale);
}

TEST_F(SessionTableTest, FloorIsRaisedByRepeatedCommandsToo) {
  const auto s = open();
  run(s, 3);
  EXPECT_EQ(run(s, 3, "", 3), Admission::kRepeat);
  EXPECT_EQ(run(s, 2), Admission::kStale);
}

TEST_F(SessionTableTest, SequenceZeroIsNeverExecuted) {
  const auto s = open();
  EXPECT_EQ(run(s, 0), Admission::kStale);
}

TEST_F(SessionTableTest, DistantSequencesWithTheSamePlaceAreNotConfused) {
  const auto s = open(8);
  EXPECT_EQ(run(s, 1, "one"), Admission::kExecute);
  const std::uint64_t far = (std::uint64_t{1} << 32) + 1;
  EXPECT_EQ(run(s, far, "far", far), Admission::kExecute);
  EXPECT_EQ(run(s, far), Admission::kRepeat);
  EXPECT_EQ(last_reply_, "far");
}

TEST_F(SessionTableTest, ReplyOverTheBudgetIsAnsweredAsDropped) {
  const auto s = open(8, 16);
  EXPECT_EQ(run(s, 1, std::string(17, 'x')), Admission::kExecute);
  EXPECT_EQ(run(s, 1), Admission::kRepeat);
  EXPECT_EQ(last_status_, CommandStatus::kReplyDropped);
  EXPECT_EQ(last_reply_, "");
  EXPECT_EQ(run(s, 2, std::string(16, 'y')), Admission::kExecute);
  EXPECT_EQ(run(s, 2), Admission::kRepeat);
  EXPECT_EQ(last_reply_, std::string(16, 'y'));
}

TEST_F(SessionTableTest, PlaceOfAnUnrecordedCommandIsInProgress) {
  const auto s = open(8);
  const auto first = table_.admit(s, 1, 0);
  EXPECT_EQ(first.admission, Admission::kExecute);
  EXPECT_EQ(table_.admit(s, 1, 0).admission, Admission::kInProgress);
  EXPECT_EQ(table_.admit(s, 9, 0).admission, Admission::kInProgress) << "same place, later turn";
  table_.record(first, CommandStatus::kOk, {}, Instance{1});
  EXPECT_EQ(table_.admit(s, 9, 0).admission, Admission::kExecute);
}

TEST_F(SessionTableTest, SessionIdsAreNeverReused) {
  const auto a = open();
  EXPECT_TRUE(table_.close(a));
  const auto b = open();
  EXPECT_NE(a, b);
  EXPECT_EQ(run(a, 1), Admission::kNoSuchSession);
  EXPECT_EQ(run(b, 1), Admission::kExecute);
  EXPECT_FALSE(table_.close(a));
}

TEST_F(SessionTableTest, RepeatedOpenFindsTheSessionItOpened) {
  std::uint64_t first = 0;
  std::uint64_t again = 0;
  EXPECT_EQ(table_.open({NodeId{1}, 5, 77}, 8, 8, Instance{1}, first), CommandStatus::kOk);
  EXPECT_EQ(table_.open({NodeId{1}, 5, 77}, 8, 8, Instance{2}, again), CommandStatus::kOk);
  EXPECT_EQ(first, again);
  EXPECT_EQ(table_.count(), 1u);
  EXPECT_EQ(table_.open({NodeId{1}, 6, 77}, 8, 8, Instance{3}, again), CommandStatus::kOk);
  EXPECT_NE(first, again);
}

TEST_F(SessionTableTest, ImpossibleWindowsAreRefused) {
  std::uint64_t id = 0;
  for (const std::uint32_t window : {0u, 3u, 8'192u, 0x8000'0000u}) {
    EXPECT_EQ(table_.open({NodeId{1}, 5, window}, window, 8, Instance{1}, id),
              CommandStatus::kRefused);
  }
  EXPECT_EQ(table_.open({NodeId{1}, 5, 1}, 4'096, 60'000, Instance{1}, id),
            CommandStatus::kRefused);
  EXPECT_EQ(table_.count(), 0u);
}

TEST_F(SessionTableTest, FullTableSaysSo) {
  for (int i = 0; i < 1'000; ++i) open();
  std::uint64_t id = 0;
  EXPECT_EQ(table_.open({NodeId{1}, 9, 1}, 8, 8, Instance{1}, id), CommandStatus::kSessionsFull);
  expect_hashes_hold();
}

TEST_F(SessionTableTest, ExpiryTakesEffectOnlyIfNothingHappenedSince) {
  const auto s = open();
  const auto seen = table_.in_slot(s & (SessionTable::kSessionSlotsMax - 1))->last_activity.get();
  run(s, 1);
  EXPECT_FALSE(table_.expire(s, Instance{seen}));
  EXPECT_TRUE(table_.expire(s, Instance{instance_}));
  EXPECT_EQ(run(s, 2), Admission::kNoSuchSession);
  expect_hashes_hold();
}

TEST_F(SessionTableTest, KeepAliveIsActivity) {
  const auto s = open();
  const Instance seen{instance_};
  EXPECT_TRUE(table_.keep_alive(s, Instance{50}));
  table_.end_batch();
  EXPECT_FALSE(table_.expire(s, seen));
  EXPECT_TRUE(table_.expire(s, Instance{50}));
  expect_hashes_hold();
}

TEST_F(SessionTableTest, T10LookUpChangesNothing) {
  const auto s = open();
  run(s, 1, "one");
  std::vector<ContentHash> before(SessionTable::key_classes());
  table_.recompute_hashes(before);
  EXPECT_EQ(text_of(table_.look_up(s, 1).reply), "one");
  EXPECT_EQ(table_.look_up(s, 2).admission, Admission::kNoSuchSession);
  EXPECT_EQ(table_.look_up(s + 1, 1).admission, Admission::kNoSuchSession);
  std::vector<ContentHash> after(SessionTable::key_classes());
  table_.recompute_hashes(after);
  EXPECT_EQ(before, after);
}

TEST_F(SessionTableTest, T19HashTellsContentsApart) {
  SessionTable other({.sessions_max = 1'000, .segment_bytes = 1u << 16});
  std::uint64_t id = 0;
  other.open({NodeId{1}, 5, 1}, 8, 16, Instance{1}, id);
  const auto s = open();
  ASSERT_EQ(s, id);
  const auto admitted = other.admit(id, 1, 0);
  other.record(admitted, CommandStatus::kOk, bytes_of("a"), Instance{2});
  run(s, 1, "b");
  std::vector<ContentHash> mine(SessionTable::key_classes());
  std::vector<ContentHash> theirs(SessionTable::key_classes());
  table_.recompute_hashes(mine);
  other.recompute_hashes(theirs);
  EXPECT_NE(mine, theirs);
}

TEST_F(SessionTableTest, SegmentsAloneCarryTheState) {
  std::vector<std::uint64_t> sessions;
  for (int i = 0; i < 200; ++i) sessions.push_back(open(1u << (i % 5), i % 40));
  for (const auto s : sessions) run(s, 1, "reply");
  for (int i = 0; i < 200; i += 3) table_.close(sessions[i]);

  SessionTable copy({.sessions_max = 1'000, .segment_bytes = 1u << 16});
  install(table_, copy);
  EXPECT_EQ(copy.count(), table_.count());
  std::vector<ContentHash> mine(SessionTable::key_classes());
  std::vector<ContentHash> theirs(SessionTable::key_classes());
  table_.hashes(mine);
  copy.hashes(theirs);
  EXPECT_EQ(mine, theirs);
  // Both go on alike: the next session gets the same id and place on either.
  std::uint64_t here = 0;
  std::uint64_t there = 0;
  table_.open({NodeId{3}, 3, 3}, 8, 8, Instance{900}, here);
  copy.open({NodeId{3}, 3, 3}, 8, 8, Instance{900}, there);
  EXPECT_EQ(here, there);
  for (int i = 1; i < 200; i += 3) {
    EXPECT_EQ(copy.look_up(sessions[i], 1).admission, table_.look_up(sessions[i], 1).admission);
  }
}

// Which segment a session lies in differs between replicas; whether there is room must not.
TEST_F(SessionTableTest, CopyHasRoomExactlyWhereItsSourceHas) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const SessionTableOptions few{
        .sessions_max = 1'000, .segment_bytes = 1u << 12, .segments_max = 120};
    SessionTable source(few);
    SessionTable copy(few);
    std::vector<std::uint64_t> sessions;
    std::uint64_t refused = 0;
    const auto step = [&](bool both) {
      if (random() % 5 < 2 && !sessions.empty()) {
        std::uint64_t& session = sessions[random() % sessions.size()];
        ASSERT_TRUE(source.close(session));
        if (both) {
          ASSERT_TRUE(copy.close(session));
        }
        session = sessions.back();
        return sessions.pop_back();
      }
      std::uint64_t here = 0;
      std::uint64_t there = 0;
      const SessionOpener opener{NodeId{1}, 5, ++opened_};
      const std::uint32_t window = 4u << random() % 4;
      const CommandStatus status = source.open(opener, window, 16, Instance{opened_}, here);
      if (both) {
        ASSERT_EQ(copy.open(opener, window, 16, Instance{opened_}, there), status)
            << "seed " << seed;
        ASSERT_EQ(here, there);
      }
      refused += status == CommandStatus::kSessionsFull;
      if (status == CommandStatus::kOk) sessions.push_back(here);
    };
    for (int i = 0; i < 5'000; ++i) ASSERT_NO_FATAL_FAILURE(step(false));
    install(source, copy);
    EXPECT_EQ(copy.count(), source.count());
    for (int i = 0; i < 5'000; ++i) ASSERT_NO_FATAL_FAILURE(step(true));
    ASSERT_GT(refused, 0u);
  }
}

TEST_F(SessionTableTest, BrokenSegmentsAreRefused) {
  const auto s = open();
  run(s, 1);
  auto* record = const_cast<SessionRecord*>(table_.in_slot(s & 0xfffff));
  record->window = 16;  // more than the record holds
  bool sound = true;
  table_.before_segments_installed();
  for (std::uint32_t i = 0; i < table_.segments().id_end(); ++i) {
    sound &= table_.on_segment_installed(SegmentId{i}).ok();
  }
  EXPECT_FALSE(sound);
}

// Commands in any order, repeated, across sessions that open, close and expire.
TEST_F(SessionTableTest, AgreesWithAnOracle) {
  struct Oracle {
    std::uint32_t window;
    std::uint32_t reply_bytes;
    std::uint64_t floor = 1;
    std::uint64_t next = 1;
    std::uint64_t last_activity = 0;
    std::map<std::uint64_t, std::string> executed;
  };
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    std::map<std::uint64_t, Oracle> oracle;
    const auto pick = [&] {
      return std::next(oracle.begin(), static_cast<std::ptrdiff_t>(random() % oracle.size()));
    };
    for (int step = 0; step < 20'000; ++step) {
      const auto what = random() % 100;
      if (oracle.empty() || (what < 2 && table_.count() < 900)) {
        const std::uint32_t window = 1u << random() % 9;
        const std::uint32_t reply = random() % 64;
        const auto id = open(window, reply);
        ASSERT_FALSE(oracle.contains(id));
        oracle[id] = {
            .window = window, .reply_bytes = reply, .last_activity = instance_, .executed = {}};
      } else if (what < 3) {
        const auto it = pick();
        ASSERT_TRUE(table_.close(it->first));
        oracle.erase(it);
      } else if (what < 4) {
        const auto it = pick();
        const bool right = random() % 2 == 0;
        const Instance seen{it->second.last_activity - (right ? 0 : 1)};
        ASSERT_EQ(table_.expire(it->first, seen), right);
        if (right) oracle.erase(it);
      } else {
        const auto it = pick();
        Oracle& o = it->second;
        const std::uint64_t sequence = o.floor + random() % (o.window + 2);
        const std::uint64_t acked = std::min(sequence, 1 + random() % (o.floor + o.window / 2));
        const std::string reply(random() % 80, static_cast<char>('a' + random() % 26));
        o.floor = std::max(o.floor, acked);
        Admission expected = Admission::kExecute;
        if (sequence < o.floor) {
          expected = Admission::kStale;
        } else if (sequence >= o.floor + o.window) {
          expected = Admission::kBeyondWindow;
        } else if (o.executed.contains(sequence)) {
          expected = Admission::kRepeat;
        }
        ASSERT_EQ(run(it->first, sequence, reply, acked), expected) << "seed " << seed;
        if (expected == Admission::kRepeat) {
          const std::string& first = o.executed[sequence];
          ASSERT_EQ(last_reply_, first.size() <= o.reply_bytes ? first : "") << "seed " << seed;
        } else if (expected == Admission::kExecute) {
          o.executed[sequence] = reply;
          o.last_activity = instance_;
        }
      }
    }
    ASSERT_EQ(table_.count(), oracle.size());
    expect_hashes_hold();
    for (const auto& [id, o] : oracle) table_.close(id);
  }
}

TEST(SessionTable, HoldsAHundredThousandSessions) {
  SessionTable table({});
  std::uint64_t id = 0;
  for (std::uint64_t i = 1; i <= 100'000; ++i) {
    ASSERT_EQ(table.open({NodeId{1}, 1, i}, 16, 8, Instance{i}, id), CommandStatus::kOk);
  }
  EXPECT_EQ(table.count(), 100'000u);
  EXPECT_NE(table.opened_by({NodeId{1}, 1, 31'415}), 0u);
}

}  // namespace
}  // namespace annulus::statemachine
