#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "statemachine/kv/kv.h"
#include "statemachine/kv/kv_bodies.h"
#include "statemachine/service_harness.h"

namespace annulus::statemachine::kv {
namespace {

/// What every key should be, by the simplest means.
class Oracle {
 public:
  Answer put(const std::string& key, const std::string& value) {
    entries_[key] = value;
    return kDone;
  }
  Answer read(const std::string& key) const {
    const auto found = entries_.find(key);
    return found == entries_.end() ? kAbsent : Answer{CommandStatus::kOk, found->second};
  }
  Answer remove(const std::string& key) { return entries_.erase(key) > 0 ? kDone : kAbsent; }
  Answer append(const std::string& key, const std::string& value) {
    const auto found = entries_.find(key);
    const std::size_t old = found == entries_.end() ? 0 : found->second.size();
    if (old + value.size() > kValueBytesMax) return {CommandStatus::kTooLarge, ""};
    return {CommandStatus::kOk,
            integer(static_cast<std::int64_t>((entries_[key] += value).size()))};
  }
  const std::map<std::string, std::string>& entries() const { return entries_; }

 private:
  std::map<std::string, std::string> entries_;
};

std::string random_key(std::mt19937_64& random, std::uint32_t keys) {
  std::string key = std::to_string(random() % keys);
  key.resize(1 + key.size() * (key.back() - '0' + 1) % kKeyBytesMax, key.back());
  return key;
}
std::string random_value(std::mt19937_64& random) {
  const std::uint64_t kind = random() % 100;
  const std::uint64_t most = kind < 60 ? 40 : kind < 95 ? 1'500 : kValueBytesMax + 1;
  return std::string(random() % most, static_cast<char>('a' + random() % 26));
}

class KvRandom : public testing::TestWithParam<int> {};

// Random commands in runs, against the oracle; hashes and layout checked throughout, then deleted
// to empty.
TEST_P(KvRandom, AgreesWithAnOracle) {
  std::mt19937_64 random(static_cast<std::uint64_t>(GetParam()));
  const std::uint32_t keys = GetParam() % 2 == 0 ? 100 : 20'000;
  KvService service(KvOptions{.limit_bytes = std::uint64_t{2} << 30});
  ServiceHarness harness;
  Oracle oracle;
  for (int round = 0; round < 300; ++round) {
    std::vector<std::string> bodies;
    std::vector<Answer> wanted;
    for (int i = 0; i < 100; ++i) {
      const std::string key = random_key(random, keys);
      const std::string value = random_value(random);
      switch (random() % 8) {
        case 0:
          bodies.push_back(key_body(KvOp::kRead, key));
          wanted.push_back(oracle.read(key));
          break;
        case 1:
          bodies.push_back(key_body(KvOp::kRemove, key));
          wanted.push_back(oracle.remove(key));
          break;
        case 2:
          bodies.push_back(
              body_of({.op = KvOp::kAppend, .key = bytes(key), .value = bytes(value)}));
          wanted.push_back(oracle.append(key, value));
          break;
        case 3: {
          const std::string other = random_key(random, keys);
          bodies.push_back(items_body(KvOp::kPutMany, {key, value, other, "x"}));
          oracle.put(key, value);
          wanted.push_back(oracle.put(other, "x"));
          break;
        }
        default:
          bodies.push_back(put_body(key, value));
          wanted.push_back(oracle.put(key, value));
      }
    }
    ASSERT_EQ(harness.run_all(service, bodies), wanted) << "round " << round;
    if (round % 50 == 0) {
      ASSERT_TRUE(hashes_agree(service));
      ASSERT_TRUE(all_sound(service));
    }
  }
  EXPECT_EQ(harness.run(service, body_of({.op = KvOp::kCount})).bytes,
            integer(static_cast<std::int64_t>(oracle.entries().size())));
  ASSERT_TRUE(service.on_segments_installed().ok());  // the directory as its segments give it
  ASSERT_TRUE(hashes_agree(service));
  for (const auto& [key, value] : oracle.entries()) {
    ASSERT_EQ(harness.run(service, key_body(KvOp::kReadAndRemove, key)).bytes, value);
  }
  EXPECT_TRUE(all_sound(service));
  EXPECT_LE(service.segments().count(), kKeyClasses);
  std::vector<ContentHash> empty(kKeyClasses);
  std::vector<ContentHash> hashes(kKeyClasses);
  service.hashes(hashes);
  EXPECT_EQ(hashes, empty);
}
INSTANTIATE_TEST_SUITE_P(Seeds, KvRandom, testing::Range(1, 5));

TEST(KvSegments, SplitAndMerge) {
  KvService service(KvOptions{.limit_bytes = std::uint64_t{1} << 30});
  ServiceHarness harness;
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; i < 700'000; ++i) {
    keys.push_back(std::string(reinterpret_cast<const char*>(&i), 8));
  }
  std::vector<std::string> bodies;
  const auto all = [&](auto&& body) {
    for (std::size_t i = 0; i < keys.size();) {
      bodies.clear();
      for (int n = 0; n < 500 && i < keys.size(); ++n) bodies.push_back(body(keys[i++]));
      for (const Answer& answer : harness.run_all(service, bodies)) {
        ASSERT_EQ(answer.status, CommandStatus::kOk);
      }
    }
  };
  all([](const std::string& key) { return put_body(key, std::string(100, key[0])); });
  EXPECT_GT(service.segments().count(), 2 * kKeyClasses - 1);
  EXPECT_TRUE(hashes_agree(service));
  EXPECT_TRUE(all_sound(service));
  all([](const std::string& key) { return put_body(key, key); });
  EXPECT_TRUE(hashes_agree(service));
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(3));
  all([](const std::string& key) { return key_body(KvOp::kRemove, key); });
  EXPECT_EQ(service.segments().count(), kKeyClasses);
  EXPECT_TRUE(all_sound(service));
}

TEST(KvLimit, RefusesAtTheLimitAndRecovers) {
  KvService service(KvOptions{.limit_bytes = 256 * 100'000});
  ServiceHarness harness;
  const std::string value(10'000, 'v');
  int refused = 0;
  for (int i = 0; i < 5'000; ++i) {
    const Answer answer = harness.run(service, put_body(std::to_string(i), value));
    if (answer.status == CommandStatus::kNoSpace) ++refused;
  }
  EXPECT_GT(refused, 5'000 - 256 * 10);
  EXPECT_LT(refused, 5'000 - 256 * 8);
  // All or nothing, where one key of two finds room.
  const std::string count = body_of({.op = KvOp::kCount});
  const Answer before = harness.run(service, count);
  std::vector<std::string> pairs;
  for (int i = 0; i < 600; ++i) {
    pairs.push_back("many" + std::to_string(i));
    pairs.push_back(std::string(3'000, 'x'));
  }
  EXPECT_EQ(harness.run(service, items_body(KvOp::kPutMany, pairs)).status,
            CommandStatus::kNoSpace);
  EXPECT_EQ(harness.run(service, count), before);
  for (int i = 0; i < 5'000; ++i) harness.run(service, put_body(std::to_string(i), "v"));
  EXPECT_EQ(harness.run(service, count).bytes, integer(5'000));
  EXPECT_TRUE(hashes_agree(service));
}

// Keys chosen to collide in class, position and tag: they share sibling segments.
TEST(KvCollisions, FillSiblingSegments) {
  KvTable table(1, std::uint64_t{4} << 30);
  const std::uint64_t hash = 0x1234567812345678;
  const std::string value(5'000, 'v');
  const auto name = [](int i) { return "key" + std::to_string(i); };
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(table.store(table.locate(hash), bytes(name(i)), bytes(value)));
    ASSERT_TRUE(table.store(table.locate(hash + (std::uint64_t{1} << 24) * (i % 3)),
                            bytes("other" + name(i)), bytes(value)));
  }
  EXPECT_GT(table.segments().count(), 8u);
  for (int i = 0; i < 300; ++i) {
    ASSERT_NE(table.find(table.locate(hash), bytes(name(i))), nullptr);
    ASSERT_TRUE(table.store(table.locate(hash), bytes(name(i)), bytes(value + value)));
  }
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(table.remove(table.locate(hash), bytes(name(i))));
    ASSERT_FALSE(table.remove(table.locate(hash), bytes(name(i))));
    ASSERT_TRUE(table.remove(table.locate(hash + (std::uint64_t{1} << 24) * (i % 3)),
                             bytes("other" + name(i))));
  }
  EXPECT_EQ(table.count(), 0u);
  EXPECT_EQ(table.segments().count(), 1u);
}

}  // namespace
}  // namespace annulus::statemachine::kv
