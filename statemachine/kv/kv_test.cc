#include "statemachine/kv/kv.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "statemachine/kv/kv_bodies.h"
#include "statemachine/service_harness.h"

namespace annulus::statemachine::kv {
namespace {

class KvTest : public testing::Test {
 protected:
  Answer run(const std::string& body) { return harness_.run(service_, body); }
  std::string get(const std::string& key) {
    const Answer answer = run(key_body(KvOp::kRead, key));
    return answer.status == CommandStatus::kOk ? answer.bytes : "(none)";
  }

  bool check_each() {
    const SegmentStore& store = service_.segments();
    for (std::uint32_t i = 0; i < store.id_end(); ++i) {
      if (store.live(SegmentId{i}) && !service_.on_segment_installed(SegmentId{i}).ok()) {
        return false;
      }
    }
    return true;
  }

  KvService service_{KvOptions{.limit_bytes = std::uint64_t{1} << 30}};
  ServiceHarness harness_;
};

TEST_F(KvTest, PutReadRemove) {
  EXPECT_EQ(run(key_body(KvOp::kRead, "k")), kAbsent);
  EXPECT_EQ(run(put_body("k", "v")), kDone);
  EXPECT_EQ(get("k"), "v");
  EXPECT_EQ(run(put_body("k", "")), kDone);
  EXPECT_EQ(get("k"), "");
  EXPECT_EQ(run(key_body(KvOp::kRemove, "k")), kDone);
  EXPECT_EQ(run(key_body(KvOp::kRemove, "k")), kAbsent);
  EXPECT_EQ(run(put_body("k", "w")), kDone);
  EXPECT_EQ(run(key_body(KvOp::kReadAndRemove, "k")), (Answer{CommandStatus::kOk, "w"}));
  EXPECT_EQ(run(key_body(KvOp::kReadAndRemove, "k")), kAbsent);
}

TEST_F(KvTest, PutConditions) {
  EXPECT_EQ(run(put_body("k", "a", kExists)), kAbsent);
  EXPECT_EQ(run(put_body("k", "a", kNotExists)), kDone);
  EXPECT_EQ(run(put_body("k", "b", kNotExists)), (Answer{CommandStatus::kRefused, ""}));
  EXPECT_EQ(run(put_body("k", "c", kExists)), kDone);
  const Answer old = run(put_body("k", "d", kReturnOld));
  EXPECT_EQ(old.status, CommandStatus::kOk);
  EXPECT_EQ(text(*decode_old(bytes(old.bytes))), "c");
  const Answer refused = run(put_body("k", "e", kReturnOld | kNotExists));
  EXPECT_EQ(refused.status, CommandStatus::kRefused);
  EXPECT_EQ(text(*decode_old(bytes(refused.bytes))), "d");
  EXPECT_EQ(decode_old(bytes(run(put_body("n", "x", kReturnOld)).bytes)), std::nullopt);
  EXPECT_EQ(get("k"), "d");
}

TEST_F(KvTest, CompareAndSet) {
  const auto cas = [](const std::string& expected, const std::string& value) {
    return body_of({.op = KvOp::kCompareAndSet,
                    .key = std::as_bytes(std::span("k", 1)),
                    .value = bytes(value),
                    .expected = bytes(expected)});
  };
  EXPECT_EQ(run(cas("a", "b")), kAbsent);
  run(put_body("k", "a"));
  EXPECT_EQ(run(cas("x", "b")), (Answer{CommandStatus::kRefused, "a"}));
  EXPECT_EQ(run(cas("a", "b")), kDone);
  EXPECT_EQ(get("k"), "b");
}

TEST_F(KvTest, IncrementIsThatOfRedis) {
  const auto add = [&](std::int64_t by) {
    return run(body_of({.op = KvOp::kIncrement, .key = bytes("k"), .first = by}));
  };
  EXPECT_EQ(add(5), (Answer{CommandStatus::kOk, integer(5)}));
  EXPECT_EQ(add(-12), (Answer{CommandStatus::kOk, integer(-7)}));
  EXPECT_EQ(get("k"), "-7");
  for (const char* bad : {"", "-", "01", "-0", "+1", " 1", "1 ", "a", "9223372036854775808"}) {
    run(put_body("k", bad));
    const Answer answer = add(1);
    EXPECT_EQ(answer.status, CommandStatus::kRefused) << bad;
    EXPECT_EQ(decode_refusal(bytes(answer.bytes)), KvRefusal::kNotInteger) << bad;
    EXPECT_EQ(get("k"), bad);
  }
  run(put_body("k", "9223372036854775807"));
  EXPECT_EQ(decode_refusal(bytes(add(1).bytes)), KvRefusal::kOverflow);
  EXPECT_EQ(add(-1), (Answer{CommandStatus::kOk, integer(9223372036854775806)}));
  run(put_body("k", "-9223372036854775808"));
  EXPECT_EQ(decode_refusal(bytes(add(-1).bytes)), KvRefusal::kOverflow);
}

TEST_F(KvTest, RangesAreThoseOfRedis) {
  const auto range = [&](std::int64_t first, std::int64_t last) {
    return run(body_of({.op = KvOp::kReadRange, .key = bytes("k"), .first = first, .last = last}))
        .bytes;
  };
  const auto write = [&](std::int64_t at, const std::string& value) {
    return run(
        body_of({.op = KvOp::kWriteRange, .key = bytes("k"), .value = bytes(value), .first = at}));
  };
  EXPECT_EQ(range(0, -1), "");
  EXPECT_EQ(write(3, ""), (Answer{CommandStatus::kOk, integer(0)}));
  EXPECT_EQ(get("k"), "(none)");
  EXPECT_EQ(write(2, "ab"), (Answer{CommandStatus::kOk, integer(4)}));
  EXPECT_EQ(get("k"), std::string("\0\0ab", 4));
  EXPECT_EQ(write(1, "xy"), (Answer{CommandStatus::kOk, integer(4)}));
  run(put_body("k", "This is a string"));
  EXPECT_EQ(range(0, 3), "This");
  EXPECT_EQ(range(-3, -1), "ing");
  EXPECT_EQ(range(0, -1), "This is a string");
  EXPECT_EQ(range(10, 100), "string");
  EXPECT_EQ(range(-1, -3), "");
  EXPECT_EQ(range(-100, 3), "This");
  EXPECT_EQ(range(5, 3), "");
  EXPECT_EQ(write(kValueBytesMax, "x").status, CommandStatus::kTooLarge);
  EXPECT_EQ(write(INT64_MAX, "x").status, CommandStatus::kTooLarge);
  EXPECT_EQ(run(body_of({.op = KvOp::kAppend, .key = bytes("k"), .value = bytes("!")})),
            (Answer{CommandStatus::kOk, integer(17)}));
  EXPECT_EQ(get("k"), "This is a string!");
  EXPECT_EQ(run(key_body(KvOp::kLength, "k")), (Answer{CommandStatus::kOk, integer(17)}));
  EXPECT_EQ(run(key_body(KvOp::kLength, "n")), (Answer{CommandStatus::kOk, integer(0)}));
}

TEST_F(KvTest, ManyKeys) {
  EXPECT_EQ(run(items_body(KvOp::kPutMany, {"a", "1", "b", "", "a", "2"})), kDone);
  const Answer read = run(items_body(KvOp::kReadMany, {"a", "n", "b"}));
  ReadManyReply reply(bytes(read.bytes));
  std::optional<Bytes> value;
  ASSERT_TRUE(reply.next(value));
  EXPECT_EQ(text(*value), "2");
  ASSERT_TRUE(reply.next(value));
  EXPECT_FALSE(value);
  ASSERT_TRUE(reply.next(value));
  EXPECT_EQ(text(*value), "");
  EXPECT_FALSE(reply.next(value));
  EXPECT_EQ(run(items_body(KvOp::kPutMany, {"c", "3", "a", "9"}, kNotExists)).status,
            CommandStatus::kRefused);
  EXPECT_EQ(get("c"), "(none)");
  EXPECT_EQ(run(items_body(KvOp::kPutMany, {"c", "3", "d", "4"}, kNotExists)), kDone);
  EXPECT_EQ(run(items_body(KvOp::kExist, {"a", "a", "n", "d"})).bytes, integer(3));
  const std::string count = body_of({.op = KvOp::kCount});
  EXPECT_EQ(run(count).bytes, integer(4));
  EXPECT_EQ(run(items_body(KvOp::kRemoveMany, {"a", "a", "n"})).bytes, integer(1));
  EXPECT_EQ(run(count).bytes, integer(3));
  EXPECT_EQ(run(body_of({.op = KvOp::kClear})), kDone);
  EXPECT_EQ(run(count).bytes, integer(0));
  EXPECT_EQ(service_.segments().count(), 0u);
}

TEST_F(KvTest, LimitsOfKeysValuesAndReplies) {
  const std::string key(kKeyBytesMax, 'k');
  const std::string value(kValueBytesMax, 'v');
  EXPECT_EQ(run(put_body(key, value)), kDone);
  EXPECT_EQ(get(key), value);
  EXPECT_EQ(run(body_of({.op = KvOp::kAppend, .key = bytes(key), .value = bytes("x")})).status,
            CommandStatus::kTooLarge);
  run(put_body("2", value));
  EXPECT_EQ(run(items_body(KvOp::kReadMany, {key, "2"})).status, CommandStatus::kTooLarge);
  // A head that claims more than the limits, with as many bytes behind it.
  std::string body(8 + 251 + 1, '\0');
  body[0] = static_cast<char>(KvOp::kPut);
  body[2] = static_cast<char>(251);
  body[4] = 1;
  EXPECT_EQ(run(body).status, CommandStatus::kTooLarge);
  // A reply that no frame would hold changes nothing.
  ServiceHarness narrow(64);
  EXPECT_EQ(narrow.run(service_, key_body(KvOp::kReadAndRemove, key)).status,
            CommandStatus::kTooLarge);
  EXPECT_EQ(narrow.run(service_, put_body(key, "x", kReturnOld)).status, CommandStatus::kTooLarge);
  EXPECT_EQ(get(key), value);
}

TEST_F(KvTest, MalformedBodiesAreRefused) {
  const std::vector<std::string> sound = {
      put_body("key", "value"),
      key_body(KvOp::kRead, "key"),
      body_of({.op = KvOp::kIncrement, .key = bytes("n"), .first = 1}),
      body_of({.op = KvOp::kReadRange, .key = bytes("key"), .first = 0, .last = 1}),
      items_body(KvOp::kReadMany, {"a", "b"}),
      items_body(KvOp::kPutMany, {"a", "b"})};
  for (const std::string& body : sound) {
    EXPECT_NE(run(body).status, CommandStatus::kMalformed);
    for (std::size_t size = 0; size < body.size(); ++size) {
      EXPECT_EQ(run(body.substr(0, size)).status, CommandStatus::kMalformed) << size;
    }
    EXPECT_EQ(run(body + "x").status, CommandStatus::kMalformed);
    std::string bad = body;
    bad[3] = 1;  // reserved
    EXPECT_EQ(run(bad).status, CommandStatus::kMalformed);
  }
  for (const int op : {0, 17, 255}) {
    std::string body = put_body("k", "v");
    body[0] = static_cast<char>(op);
    EXPECT_EQ(run(body).status, CommandStatus::kMalformed);
  }
  EXPECT_EQ(run(put_body("k", "v", kExists | kNotExists)).status, CommandStatus::kMalformed);
  std::string flags = key_body(KvOp::kRead, "k");
  flags[1] = kReturnOld;
  EXPECT_EQ(run(flags).status, CommandStatus::kMalformed);
}

TEST_F(KvTest, RandomBytesNeverHarm) {
  std::mt19937_64 random(7);
  std::vector<std::string> run_bodies;
  for (int i = 0; i < 40'000; ++i) {
    std::string body(random() % 48, '\0');
    for (char& c : body) c = static_cast<char>(random() % 3 == 0 ? random() : random() % 4);
    if (!body.empty() && random() % 4 != 0) body[0] = static_cast<char>(random() % 18);
    run_bodies.push_back(body);
    if (run_bodies.size() == 100) {
      harness_.run_all(service_, run_bodies);
      run_bodies.clear();
    }
    Footprint footprint;
    service_.footprint(bytes(body), footprint);
  }
  EXPECT_TRUE(hashes_agree(service_));
}

Witnesses list_entries(Service& service) {
  Witnesses entries;
  SegmentStore& segments = service.segments();
  for (std::uint32_t i = 0; i < segments.id_end(); ++i) {
    if (!segments.live(SegmentId{i})) continue;
    reinterpret_cast<const KvSegment*>(segments.at(SegmentId{i}))
        ->for_each([&](const KvEntry& entry, std::uint16_t) {
          const std::string key = text(entry.key_span());
          entries[key] = {KvTable::hash_of(entry.key_span()),
                          put_body(key, text(entry.value_span()))};
        });
  }
  return entries;
}

TEST_F(KvTest, FootprintsNameEveryKeyTouched) {
  const auto make = [] { return std::make_unique<KvService>(KvOptions{}); };
  for (int i = 0; i < 40; ++i) run(put_body(std::to_string(i), std::to_string(i * i)));
  const auto number = [](const char* key, KvOp op, std::int64_t first) {
    return body_of({.op = op, .key = bytes(key), .value = {}, .first = first});
  };
  std::vector<std::string> many;
  for (int i = 0; i < 100; ++i) many.push_back(std::to_string(i));
  const std::vector<std::string> bodies = {
      put_body("1", "x"),
      put_body("new", "x"),
      put_body("2", "x", kReturnOld | kExists),
      key_body(KvOp::kRead, "3"),
      key_body(KvOp::kRemove, "4"),
      key_body(KvOp::kReadAndRemove, "5"),
      number("6", KvOp::kIncrement, 4),
      number("fresh", KvOp::kIncrement, 4),
      number("7", KvOp::kReadRange, 0),
      key_body(KvOp::kLength, "8"),
      body_of({.op = KvOp::kAppend, .key = bytes("9"), .value = bytes("z")}),
      body_of({.op = KvOp::kWriteRange, .key = bytes("9"), .value = bytes("z"), .first = 9}),
      body_of({.op = KvOp::kCompareAndSet,
               .key = bytes("10"),
               .value = bytes("z"),
               .expected = bytes("100")}),
      items_body(KvOp::kExist, {"11", "none"}),
      items_body(KvOp::kReadMany, {"12", "13"}),
      items_body(KvOp::kPutMany, {"14", "y", "15", "y"}),
      items_body(KvOp::kPutMany, {"n1", "y", "n2", "y"}, kNotExists),
      items_body(KvOp::kRemoveMany, {"16", "17"}),
      body_of({.op = KvOp::kCount}),
      items_body(KvOp::kExist, many),
      items_body(KvOp::kRemoveMany, many),
      body_of({.op = KvOp::kClear})};
  for (const std::string& body : bodies) {
    EXPECT_EQ(footprint_fault(service_, body, make, list_entries, harness_), "")
        << "op " << int{static_cast<unsigned char>(body[0])};
  }
}

/// A service that forgets to declare what it writes, to show that the check above can fail.
class Forgetful final : public Service {
 public:
  const char* name() const override { return "forgetful"; }
  void footprint(std::span<const std::byte>, Footprint&) const override {}
  void execute(std::span<const Command> commands, Replies& replies) override {
    kv_.execute(commands, replies);
  }
  SegmentStore& segments() override { return kv_.segments(); }
  Status on_segments_installed() override { return kv_.on_segments_installed(); }
  std::uint32_t key_classes() const override { return kv_.key_classes(); }
  void hashes(std::span<ContentHash> per_class) const override { kv_.hashes(per_class); }
  void recompute_hashes(std::span<ContentHash> per_class) const override {
    kv_.recompute_hashes(per_class);
  }

 private:
  KvService kv_{KvOptions{}};
};
TEST(FootprintCheck, FindsAMiss) {
  Forgetful service;
  ServiceHarness harness;
  const auto make = [] { return std::make_unique<KvService>(KvOptions{}); };
  EXPECT_EQ(footprint_fault(service, put_body("k", "v"), make, list_entries, harness), "added k");
  EXPECT_EQ(footprint_fault(service, put_body("k", "w"), make, list_entries, harness), "changed k");
  EXPECT_EQ(footprint_fault(service, key_body(KvOp::kRead, "k"), make, list_entries, harness),
            "read more than it names");
}

TEST_F(KvTest, SegmentsCheckedOneByOneGiveTheSameState) {
  for (int i = 0; i < 3'000; ++i) run(put_body(std::to_string(i % 700), std::string(i % 97, 'x')));
  std::vector<ContentHash> before(service_.key_classes());
  std::vector<ContentHash> after(service_.key_classes());
  service_.hashes(before);
  ASSERT_TRUE(check_each());
  ASSERT_TRUE(service_.on_segments_installed().ok());
  service_.hashes(after);
  EXPECT_EQ(before, after);
  EXPECT_EQ(get("699"), std::string(2'799 % 97, 'x'));
}

TEST_F(KvTest, DamagedSegmentsAreRefused) {
  for (int i = 0; i < 3'000; ++i) run(put_body(std::to_string(i % 700), std::string(i % 97, 'x')));
  ASSERT_TRUE(service_.on_segments_installed().ok());
  std::mt19937_64 random(11);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    const SegmentId id{static_cast<std::uint32_t>(random() % service_.segments().id_end())};
    const std::uint32_t used = service_.segments().header(id).used_bytes;
    const std::uint32_t at = random() % (i % 2 == 0 ? 512 : used);
    std::byte& byte = service_.segments().at(id)[at];
    const std::byte before = byte;
    byte ^= std::byte{static_cast<unsigned char>(1 + random() % 255)};
    const bool sound = service_.on_segments_installed().ok();  // must not crash either way
    refused += sound ? 0 : 1;
    // Checked one by one beforehand, they are judged alike.
    EXPECT_EQ(check_each() && service_.on_segments_installed().ok(), sound);
    byte = before;
    ASSERT_TRUE(service_.on_segments_installed().ok());
  }
  EXPECT_GT(refused, 40);
  ASSERT_TRUE(service_.on_segments_installed().ok());
  EXPECT_EQ(get("699"), std::string(2'799 % 97, 'x'));
  service_.segments().destroy(SegmentId{0});
  EXPECT_TRUE(service_.on_segments_installed().ok()) << "a class may be absent as a whole";
}

}  // namespace
}  // namespace annulus::statemachine::kv
