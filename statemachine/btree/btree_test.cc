#include "statemachine/btree/btree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "statemachine/service_harness.h"

namespace annulus::statemachine::btree {
namespace {

Bytes bytes(const std::string& text) { return std::as_bytes(std::span{text}); }
std::string text(Bytes b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }
std::string integer(std::int64_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string body_of(const BtreeRequest& request) {
  std::string body(body_bytes(request), '\0');
  encode(request, std::as_writable_bytes(std::span{body}));
  return body;
}
std::string insert_body(std::uint64_t key, const std::string& value) {
  return body_of({.op = BtreeOp::kInsert, .key = key, .value = bytes(value)});
}
std::string range_body(std::uint64_t key, std::uint64_t last, std::uint32_t limit = 0,
                       std::uint32_t bytes_limit = 0) {
  return body_of({.op = BtreeOp::kRange,
                  .key = key,
                  .last = last,
                  .limit = limit,
                  .bytes_limit = bytes_limit});
}

using Entries = std::vector<std::pair<std::uint64_t, std::string>>;
Entries entries_of(const Answer& answer) {
  RangeReply reply(bytes(answer.bytes));
  Entries entries;
  std::uint64_t key = 0;
  Bytes value;
  while (reply.next(key, value)) entries.emplace_back(key, text(value));
  EXPECT_EQ(entries.size(), reply.count());
  return entries;
}

const Answer kDone{CommandStatus::kOk, ""};
const Answer kAbsent{CommandStatus::kNotFound, ""};
const Answer kNew{CommandStatus::kOk, integer(1)};
const Answer kReplaced{CommandStatus::kOk, integer(0)};

bool all_sound(Service& service) {
  SegmentStore& segments = service.segments();
  for (std::uint32_t i = 0; i < segments.id_end(); ++i) {
    if (!segments.live(SegmentId{i})) continue;
    if (!reinterpret_cast<const BtreeSegment*>(segments.at(SegmentId{i}))->sound()) return false;
  }
  return true;
}

class BtreeTest : public testing::Test {
 protected:
  Answer run(const std::string& body) { return harness_.run(service_, body); }
  Answer read(std::uint64_t key) { return run(body_of({.op = BtreeOp::kRead, .key = key})); }
  Answer remove(std::uint64_t key) { return run(body_of({.op = BtreeOp::kDelete, .key = key})); }
  std::int64_t count(std::uint64_t key, std::uint64_t last) {
    return decode_integer(
        bytes(run(body_of({.op = BtreeOp::kCount, .key = key, .last = last})).bytes));
  }

  BtreeService service_{BtreeOptions{.limit_bytes = std::uint64_t{1} << 30}};
  ServiceHarness harness_;
};

TEST(BtreeClasses, AreConsecutiveRanges) {
  std::uint64_t next = 0;
  for (std::uint32_t c = 0; c < kKeyClasses; ++c) {
    ASSERT_EQ(class_first(c), next);
    ASSERT_EQ(class_of(class_first(c)), c);
    ASSERT_EQ(class_of(class_last(c)), c);
    next = class_last(c) + 1;
  }
  EXPECT_EQ(next, 0u);  // past the last 64-bit key
}

TEST_F(BtreeTest, InsertReadDelete) {
  EXPECT_EQ(read(5), kAbsent);
  EXPECT_EQ(run(insert_body(5, "five")), kNew);
  EXPECT_EQ(run(insert_body(5, "FIVE")), kReplaced);
  EXPECT_EQ(read(5), (Answer{CommandStatus::kOk, "FIVE"}));
  EXPECT_EQ(read(4), kAbsent);
  EXPECT_EQ(remove(4), kAbsent);
  EXPECT_EQ(remove(5), kDone);
  EXPECT_EQ(remove(5), kAbsent);
  EXPECT_EQ(read(5), kAbsent);
}

TEST_F(BtreeTest, KeysAtBothEnds) {
  const std::vector<std::uint64_t> keys = {0, 1, 65'535, 65'536, kLastKey - 1, kLastKey};
  EXPECT_EQ(count(0, kLastKey), 0);
  for (const std::uint64_t key : keys) EXPECT_EQ(run(insert_body(key, "")), kNew);
  for (const std::uint64_t key : keys) EXPECT_EQ(read(key), kDone);
  EXPECT_EQ(entries_of(run(range_body(0, kLastKey))).size(), keys.size());
  EXPECT_EQ(count(0, kLastKey), 6);
  EXPECT_EQ(count(1, kLastKey - 1), 4);
  EXPECT_EQ(count(kLastKey, kLastKey), 1);
  EXPECT_EQ(count(2, 65'534), 0);
  for (std::uint64_t i = 0; i < 3'000; ++i) run(insert_body(kLastKey - i, "top"));
  EXPECT_EQ(count(kLastKey - 2'999, kLastKey), 3'000);
  EXPECT_EQ(read(kLastKey), (Answer{CommandStatus::kOk, "top"}));
  for (const std::uint64_t key : keys) EXPECT_EQ(remove(key), kDone);
  EXPECT_TRUE(all_sound(service_));
}

TEST_F(BtreeTest, RangesStopAtTheirLimits) {
  for (std::uint64_t i = 0; i < 1'000; ++i) run(insert_body(i * 1'000, std::string(i % 30, 'v')));
  const auto range = [&](std::uint64_t key, std::uint64_t last, std::uint32_t limit,
                         std::uint32_t bytes_limit) {
    const Answer answer = run(range_body(key, last, limit, bytes_limit));
    return std::pair(entries_of(answer), RangeReply(bytes(answer.bytes)).more());
  };
  EXPECT_EQ(range(10'000, 19'999, 0, 0).first.size(), 10u);
  EXPECT_FALSE(range(10'000, 19'999, 10, 0).second);
  EXPECT_EQ(range(10'000, 19'999, 9, 0).first.size(), 9u);
  EXPECT_TRUE(range(10'000, 19'999, 9, 0).second);
  EXPECT_EQ(range(9, 5, 0, 0), std::pair(Entries{}, false));
  EXPECT_EQ(range(999'001, kLastKey, 0, 0), std::pair(Entries{}, false));
  EXPECT_LE(run(range_body(0, kLastKey, 0, 2'000)).bytes.size(), 2'000u);
  // All of it, piece by piece.
  Entries all;
  for (std::uint64_t from = 0;;) {
    const auto [part, more] = range(from, kLastKey, 0, 2'000);
    all.insert(all.end(), part.begin(), part.end());
    if (!more) break;
    from = part.back().first + 1;
  }
  EXPECT_EQ(all, range(0, kLastKey, 0, 0).first);
  EXPECT_EQ(all.size(), 1'000u);
  // One entry always fits.
  run(insert_body(500, std::string(kValueBytesMax, 'x')));
  EXPECT_EQ(range(500, kLastKey, 0, 1).first.size(), 1u);
}

TEST_F(BtreeTest, ClearRemovesEveryKeyAndEarlierCommandsOfItsRunAreDone) {
  for (std::uint64_t i = 0; i < 20'000; ++i) run(insert_body(i << 50, "some value"));
  const std::vector<std::string> bodies = {
      insert_body(1, "before"), body_of({.op = BtreeOp::kClear}), insert_body(2, "after"),
      body_of({.op = BtreeOp::kRead, .key = 1})};
  EXPECT_EQ(harness_.run_all(service_, bodies), (std::vector<Answer>{kNew, kDone, kNew, kAbsent}));
  EXPECT_EQ(count(0, kLastKey), 1);
  EXPECT_EQ(service_.segments().count(), 1u);
  EXPECT_TRUE(all_sound(service_));
  EXPECT_TRUE(hashes_agree(service_));
  EXPECT_EQ(run(body_of({.op = BtreeOp::kClear})), kDone);
  std::vector<ContentHash> hashes(kKeyClasses);
  service_.hashes(hashes);
  EXPECT_EQ(hashes, std::vector<ContentHash>(kKeyClasses));
}

TEST_F(BtreeTest, MalformedBodiesAreRefused) {
  const std::vector<std::string> sound = {insert_body(1, "value"),
                                          insert_body(2, ""),
                                          body_of({.op = BtreeOp::kRead, .key = 1}),
                                          range_body(1, 2),
                                          body_of({.op = BtreeOp::kCount, .key = 1, .last = 9}),
                                          body_of({.op = BtreeOp::kClear})};
  for (const std::string& body : sound) {
    EXPECT_EQ(run(body).status, CommandStatus::kOk);
    for (std::size_t size = 0; size < body.size(); ++size) {
      EXPECT_EQ(run(body.substr(0, size)).status, CommandStatus::kMalformed);
    }
    EXPECT_EQ(run(body + "x").status, CommandStatus::kMalformed);
    std::string bad = body;
    bad[1] = 1;
    EXPECT_EQ(run(bad).status, CommandStatus::kMalformed);
    bad = body;
    bad[0] = 7;
    EXPECT_EQ(run(bad).status, CommandStatus::kMalformed);
  }
  std::string large(sizeof(BtreeHead) + kValueBytesMax + 1, '\0');
  large[0] = static_cast<char>(BtreeOp::kInsert);
  large[2] = 1;
  large[3] = 4;
  EXPECT_EQ(run(large).status, CommandStatus::kTooLarge);
}

TEST_F(BtreeTest, RandomBytesNeverHarm) {
  std::mt19937_64 random(7);
  std::vector<std::string> bodies;
  for (int i = 0; i < 40'000; ++i) {
    std::string body(random() % 3 == 0 ? random() % 64 : 16 + 16 * (random() % 2), '\0');
    for (char& c : body) c = static_cast<char>(random() % 4 == 0 ? random() : 0);
    if (!body.empty()) body[0] = static_cast<char>(random() % 8);
    bodies.push_back(body);
    Footprint footprint;
    service_.footprint(bytes(body), footprint);
  }
  for (std::size_t i = 0; i < bodies.size(); i += 100) {
    harness_.run_all(service_, {bodies.begin() + static_cast<std::ptrdiff_t>(i),
                                bodies.begin() + static_cast<std::ptrdiff_t>(i + 100)});
  }
  EXPECT_TRUE(hashes_agree(service_));
  EXPECT_TRUE(all_sound(service_));
}

class BtreeRandom : public testing::TestWithParam<int> {
 protected:
  std::uint64_t key() {
    switch (GetParam() % 3) {
      case 0:
        return random_() % 100'000;  // dense, over several classes
      case 1:
        return random_() >> (random_() % 64);  // every class
      default:
        return random_() % 8 == 0 ? random_() % 1'000'000 : next_ += random_() % 4;  // ascending
    }
  }
  std::string value() {
    const std::uint64_t kind = random_() % 10;
    const std::uint64_t most = kind < 6 ? 9 : kind < 9 ? 60 : kValueBytesMax + 1;
    return std::string(random_() % most, static_cast<char>('a' + random_() % 26));
  }

  std::mt19937_64 random_{static_cast<std::uint64_t>(GetParam())};
  std::uint64_t next_ = 5'000'000;
};

Answer oracle_range(const std::map<std::uint64_t, std::string>& oracle, std::uint64_t first,
                    std::uint64_t last, std::uint32_t limit) {
  std::string entries;
  RangeHead head{};
  for (auto at = oracle.lower_bound(first); at != oracle.end() && at->first <= last; ++at) {
    if (head.count == limit) {
      head.more = 1;
      break;
    }
    const RangeEntry entry{at->first, static_cast<std::uint16_t>(at->second.size())};
    entries += std::string(reinterpret_cast<const char*>(&entry), sizeof(entry)) + at->second;
    head.count = head.count + 1;
  }
  return {CommandStatus::kOk,
          std::string(reinterpret_cast<const char*>(&head), sizeof(head)) + entries};
}

// Random commands in runs, against the oracle; layout and hashes checked throughout, then deleted
// to empty.
TEST_P(BtreeRandom, AgreesWithAnOracle) {
  BtreeService service(BtreeOptions{.limit_bytes = std::uint64_t{1} << 30});
  ServiceHarness harness;
  std::map<std::uint64_t, std::string> oracle;
  for (int round = 0; round < 1'000; ++round) {
    std::vector<std::string> bodies;
    std::vector<Answer> wanted;
    for (int i = 0; i < 100; ++i) {
      const std::uint64_t k = key();
      const auto found = oracle.find(k);
      // Grows first, then shrinks, then stays.
      const std::uint64_t inserts = round < 500 ? 8 : round < 750 ? 3 : 5;
      if (random_() % 10 < inserts) {
        const std::string v = value();
        bodies.push_back(insert_body(k, v));
        wanted.push_back(found == oracle.end() ? kNew : kReplaced);
        oracle[k] = v;
      } else if (random_() % 4 != 0) {
        const auto at = oracle.lower_bound(k);
        const std::uint64_t gone = at == oracle.end() || random_() % 4 == 0 ? k : at->first;
        bodies.push_back(body_of({.op = BtreeOp::kDelete, .key = gone}));
        wanted.push_back(oracle.erase(gone) > 0 ? kDone : kAbsent);
      } else {
        const std::uint64_t last = k + (random_() % 2 == 0 ? 100'000 : random_() % 2'000);
        bodies.push_back(range_body(k, last, 20));
        wanted.push_back(oracle_range(oracle, k, last, 20));
        bodies.push_back(body_of({.op = BtreeOp::kRead, .key = k}));
        wanted.push_back(found == oracle.end() ? kAbsent
                                               : Answer{CommandStatus::kOk, found->second});
      }
    }
    ASSERT_EQ(harness.run_all(service, bodies), wanted) << "round " << round;
    if (round % 100 == 0) {
      ASSERT_TRUE(all_sound(service));
      ASSERT_TRUE(hashes_agree(service));
      const std::uint64_t from = key();
      const std::uint64_t to = from + random_() % 1'000'000;
      const auto count = std::distance(oracle.lower_bound(from), oracle.upper_bound(to));
      ASSERT_EQ(
          harness.run(service, body_of({.op = BtreeOp::kCount, .key = from, .last = to})).bytes,
          integer(from <= to ? count : 0));
    }
  }
  ASSERT_TRUE(service.on_segments_installed().ok());
  ASSERT_TRUE(hashes_agree(service));
  const std::uint32_t segments = service.segments().count();
  for (const auto& [k, v] : oracle) {
    ASSERT_EQ(harness.run(service, body_of({.op = BtreeOp::kDelete, .key = k})), kDone);
  }
  EXPECT_TRUE(all_sound(service));
  EXPECT_LE(service.segments().count(), std::min(segments, kKeyClasses));
  std::vector<ContentHash> hashes(kKeyClasses);
  service.hashes(hashes);
  EXPECT_EQ(hashes, std::vector<ContentHash>(kKeyClasses));
}
INSTANTIATE_TEST_SUITE_P(Seeds, BtreeRandom, testing::Range(1, 7));

TEST_F(BtreeTest, AscendingLoadFillsSegments) {
  for (std::uint64_t i = 0; i < 200'000; ++i) run(insert_body(1'000'000 + i, "12345678"));
  EXPECT_TRUE(all_sound(service_));
  EXPECT_EQ(count(0, kLastKey), 200'000);
  // 28 entries a leaf, 128 leaves: 56 segments, and one more for each class.
  EXPECT_LT(service_.segments().count(), 66u);
}

TEST(BtreeLimit, RefusesAtTheLimitAndRecovers) {
  BtreeService service(BtreeOptions{.limit_bytes = 1'000'000});
  ServiceHarness harness;
  std::uint64_t stored = 0;
  const std::string value(1'000, 'v');
  while (harness.run(service, insert_body(stored * 77, value)) == kNew) ++stored;
  EXPECT_EQ(stored, 1'000'000u / (32 + 1'024));
  EXPECT_EQ(harness.run(service, insert_body(1, value)).status, CommandStatus::kNoSpace);
  EXPECT_EQ(harness.run(service, insert_body(77, "small")), kReplaced);
  EXPECT_EQ(harness.run(service, insert_body(1, "also")), kNew);
  EXPECT_TRUE(hashes_agree(service));
}

Witnesses list_entries(Service& service) {
  ServiceHarness harness(1 << 20);
  Witnesses entries;
  for (const auto& [key, value] : entries_of(harness.run(service, range_body(0, kLastKey)))) {
    entries[std::to_string(key)] = {key, insert_body(key, value)};
  }
  return entries;
}

TEST_F(BtreeTest, FootprintsNameEveryKeyTouched) {
  const auto make = [] { return std::make_unique<BtreeService>(BtreeOptions{}); };
  for (std::uint64_t i = 0; i < 200; ++i) run(insert_body(i * 1'000, std::to_string(i)));
  const std::vector<std::string> bodies = {
      insert_body(5, "new"),
      insert_body(5, "a replaced value of some length"),
      body_of({.op = BtreeOp::kRead, .key = 3'000}),
      body_of({.op = BtreeOp::kRead, .key = 3'001}),
      body_of({.op = BtreeOp::kDelete, .key = 4'000}),
      range_body(10'000, 30'000),
      range_body(10'000, 30'000, 3),
      range_body(30'000, 10'000),
      body_of({.op = BtreeOp::kCount, .key = 0, .last = kLastKey}),
      body_of({.op = BtreeOp::kClear})};
  for (const std::string& body : bodies) {
    EXPECT_EQ(footprint_fault(service_, body, make, list_entries, harness_), "");
  }
}

TEST_F(BtreeTest, DamagedSegmentsAreRefused) {
  for (std::uint64_t i = 0; i < 6'000; ++i)
    run(insert_body(i * 7'919 % 90'000, std::string(i % 40, 'x')));
  ASSERT_TRUE(service_.on_segments_installed().ok());
  std::mt19937_64 random(11);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    const SegmentId id{static_cast<std::uint32_t>(random() % service_.segments().id_end())};
    if (!service_.segments().live(id)) continue;
    const std::uint32_t used = service_.segments().header(id).used_bytes;
    std::byte& byte = service_.segments().at(id)[random() % (i % 2 == 0 ? 2'048 : used)];
    const std::byte before = byte;
    byte ^= std::byte{static_cast<unsigned char>(1 + random() % 255)};
    refused += service_.on_segments_installed().ok() ? 0 : 1;  // must not crash either way
    byte = before;
  }
  EXPECT_GT(refused, 100);
  ASSERT_TRUE(service_.on_segments_installed().ok());
  EXPECT_EQ(read(0), kDone);
}

}  // namespace
}  // namespace annulus::statemachine::btree
