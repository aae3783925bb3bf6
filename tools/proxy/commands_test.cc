#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tools/proxy/byte_chain.h"
#include "tools/proxy/command_table.h"
#include "tools/proxy/reply.h"
#include "tools/proxy/request.h"
#include "tools/proxy/resp_writer.h"
#include "tools/proxy/transaction.h"

namespace annulus::proxy {
namespace {

using statemachine::CommandStatus;

std::string text_of(const ByteChain& chain) {
  std::string text(chain.bytes(), '\0');
  chain.copy_to(text.data());
  return text;
}

TEST(CommandTable, FindsEveryCommandInAnyCase) {
  for (const CommandInfo& command : all_commands()) {
    std::string upper(command.name);
    for (char& c : upper) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    if (is_subcommand(command)) {
      EXPECT_EQ(find_command(upper), nullptr) << upper;
      const std::size_t bar = upper.find('|');
      const CommandInfo* container = find_command(upper.substr(0, bar));
      ASSERT_NE(container, nullptr);
      EXPECT_EQ(find_subcommand(*container, upper.substr(bar + 1)), &command);
    } else {
      EXPECT_EQ(find_command(command.name), &command);
      EXPECT_EQ(find_command(upper), &command);
      EXPECT_EQ(find_command(upper + "X"), nullptr);
      EXPECT_EQ(find_command(std::string_view(upper).substr(0, upper.size() - 1)), nullptr);
    }
  }
}

TEST(CommandTable, OnlyLettersAreFolded) {
  EXPECT_NE(find_command("bt.insert"), nullptr);
  EXPECT_EQ(find_command("bt\x0einsert"), nullptr);  // '.' without the bit that folds letters
  EXPECT_EQ(find_command(std::string("get\0", 4)), nullptr);
  EXPECT_EQ(find_command("\xc7\xc5\xd4"), nullptr);  // "GET" with the top bits set
  EXPECT_EQ(find_command(""), nullptr);
  EXPECT_EQ(find_command(std::string(17, 'a')), nullptr);
}

TEST(ByteChain, KeepsBytesInOrderAcrossChunks) {
  ChunkPool pool(64);
  ByteChain chain;
  std::string expected;
  for (int i = 0; i < 500; ++i) {
    const std::string part = std::to_string(i) + ",";
    if (i % 2 == 0) {
      ASSERT_TRUE(chain.append(pool, part));
    } else {
      char* to = chain.reserve(pool, 100);
      std::memcpy(to, part.data(), part.size());
      chain.commit(static_cast<std::uint32_t>(part.size()));
    }
    expected += part;
  }
  EXPECT_EQ(text_of(chain), expected);
  ByteChain other;
  ASSERT_TRUE(other.append(pool, std::string(5'000, 'x')));
  ASSERT_TRUE(chain.take(pool, other));
  EXPECT_TRUE(other.empty());
  ASSERT_TRUE(other.append(pool, "short"));
  ASSERT_TRUE(chain.take(pool, other));
  expected += std::string(5'000, 'x') + "short";
  for (const std::size_t step : {std::size_t{1}, std::size_t{2'031}, std::size_t{3'000}}) {
    chain.consume(pool, step);
    expected.erase(0, step);
    ASSERT_EQ(text_of(chain), expected);
  }
  chain.clear(pool);
  EXPECT_EQ(pool.available(), pool.count());
}

TEST(ByteChain, RefusesWhenThePoolIsEmptyAndGivesEverythingBack) {
  ChunkPool pool(2);
  ByteChain chain;
  EXPECT_FALSE(chain.append(pool, std::string(3 * Chunk::kBytes, 'x')));
  EXPECT_EQ(chain.bytes(), 2 * Chunk::kBytes);
  chain.clear(pool);
  EXPECT_EQ(pool.available(), 2u);
  EXPECT_NE(chain.reserve(pool, 10), nullptr);  // reserved and never written
  chain.clear(pool);
  EXPECT_EQ(pool.available(), 2u);
}

TEST(RespWriter, SpeaksBothProtocols) {
  ChunkPool pool(64);
  const auto written = [&pool](bool resp3, const auto& write) {
    ByteChain chain;
    RespWriter writer(chain, pool, resp3);
    write(writer);
    const std::string text = text_of(chain);
    chain.clear(pool);
    return text;
  };
  const auto all = [](RespWriter& writer) {
    writer.ok();
    writer.error("ERR a\r\nb\n");
    writer.integer(-9223372036854775807 - 1);
    writer.bulk("");
    writer.null();
    writer.map(1);
    writer.set(2);
    writer.verbatim("t");
  };
  EXPECT_EQ(written(false, all),
            "+OK\r\n-ERR a  b \r\n:-9223372036854775808\r\n$0\r\n\r\n$-1\r\n*2\r\n*2\r\n"
            "$1\r\nt\r\n");
  EXPECT_EQ(written(true, all),
            "+OK\r\n-ERR a  b \r\n:-9223372036854775808\r\n$0\r\n\r\n_\r\n%1\r\n~2\r\n"
            "=5\r\ntxt:t\r\n");
  for (const std::size_t size : {1'535, 1'536, 1'537, 2'032, 49'152}) {
    const std::string value(size, 'v');
    EXPECT_EQ(written(false, [&](RespWriter& writer) { writer.bulk(value); }),
              "$" + std::to_string(size) + "\r\n" + value + "\r\n");
  }
}

/// Prepares commands, and keeps what the last one became.
class Preparer {
 public:
  std::string prepare(const std::vector<std::string>& words) {
    words_ = words;
    views_.assign(words_.begin(), words_.end());
    const CommandInfo* command = find_command(views_[0]);
    const std::string error(request->prepare(*command, views_));
    if (error.empty()) {
      body.assign(request->body_bytes(), '\0');
      request->encode(std::as_writable_bytes(std::span{body}));
    }
    return error;
  }
  std::unique_ptr<Request> request = std::make_unique<Request>(ServiceIds{.kv = 1, .btree = 2});
  std::string body;

 private:
  std::vector<std::string> words_;
  std::vector<std::string_view> views_;
};

TEST(Request, EncodesTheCommandsOfBothServices) {
  Preparer p;
  EXPECT_EQ(p.prepare({"GET", "k"}), "");
  EXPECT_EQ(p.request->service(), 1);
  EXPECT_EQ(p.request->flags(), statemachine::kReadOnly);
  EXPECT_EQ(p.request->shape(), ReplyShape::kBulk);
  EXPECT_EQ(p.body.substr(8), "k");
  EXPECT_EQ(p.prepare({"SET", "k", "value", "nx", "GET"}), "");
  EXPECT_EQ(p.request->flags(), 0);
  EXPECT_EQ(p.request->shape(), ReplyShape::kOldValue);
  EXPECT_EQ(p.body.substr(8), "kvalue");
  EXPECT_EQ(p.prepare({"BT.INSERT", "18446744073709551615", "v"}), "");
  EXPECT_EQ(p.request->service(), 2);
  EXPECT_EQ(p.prepare({"BT.RANGE", "-", "+", "LIMIT", "3"}), "");
  EXPECT_EQ(p.request->flags(), statemachine::kReadOnly);
  EXPECT_EQ(p.request->shape(), ReplyShape::kBtreeRange);
}

TEST(Request, RefusesWhatTheServicesCannotTake) {
  Preparer p;
  const std::string longest_key(250, 'k');
  const std::string longest_value(49'152, 'v');
  EXPECT_EQ(p.prepare({"SET", longest_key, longest_value}), "");
  EXPECT_EQ(p.prepare({"SET", longest_key + "k", "v"}),
            "ERR key is too long: 251 bytes, at most 250");
  EXPECT_EQ(p.prepare({"GET", ""}), "ERR key is empty: a key has 1 to 250 bytes");
  EXPECT_EQ(p.prepare({"MSET", "a", "1", "", "2"}), "ERR key is empty: a key has 1 to 250 bytes");
  EXPECT_EQ(p.prepare({"APPEND", "k", longest_value + "v"}),
            "ERR value is too large: 49153 bytes, at most 49152");
  EXPECT_EQ(p.prepare({"SETRANGE", "k", "49152", "v"}),
            "ERR value is too large: 49153 bytes, at most 49152");
  EXPECT_EQ(p.prepare({"BT.INSERT", "1", std::string(1'025, 'v')}),
            "ERR value is too large: 1025 bytes, at most 1024");
  EXPECT_EQ(p.prepare({"BT.INSERT", "-1", "v"}), "ERR value is not an integer or out of range");
  EXPECT_EQ(p.prepare({"SET", "k", "v", "EX", "10"}).substr(0, 27), "ERR expiry is not supported");
  EXPECT_EQ(p.prepare({"SET", "k", "v", "NX", "XX"}), "ERR syntax error");
  EXPECT_EQ(p.prepare({"DECRBY", "k", "-9223372036854775808"}), "ERR decrement would overflow");
}

std::string rendered(ReplyShape shape, CommandStatus status, const std::string& reply) {
  ChunkPool pool(64);
  ByteChain chain;
  RespWriter writer(chain, pool, false);
  render_reply(shape, status, std::as_bytes(std::span{reply}), writer);
  return text_of(chain);
}

TEST(Reply, StatusesBecomeRedisReplies) {
  EXPECT_EQ(rendered(ReplyShape::kOk, CommandStatus::kOk, ""), "+OK\r\n");
  EXPECT_EQ(rendered(ReplyShape::kOkOrNull, CommandStatus::kRefused, ""), "$-1\r\n");
  EXPECT_EQ(rendered(ReplyShape::kOneOrZero, CommandStatus::kNotFound, ""), ":0\r\n");
  EXPECT_EQ(rendered(ReplyShape::kBulk, CommandStatus::kNotFound, ""), "$-1\r\n");
  EXPECT_EQ(rendered(ReplyShape::kBulk, CommandStatus::kOk, "v"), "$1\r\nv\r\n");
  EXPECT_EQ(rendered(ReplyShape::kOldValue, CommandStatus::kRefused, "\1old"), "$3\r\nold\r\n");
  EXPECT_EQ(rendered(ReplyShape::kOldValue, CommandStatus::kOk, std::string(1, '\0')), "$-1\r\n");
  EXPECT_EQ(rendered(ReplyShape::kIncrement, CommandStatus::kRefused, "\2"),
            "-ERR increment or decrement would overflow\r\n");
  EXPECT_EQ(rendered(ReplyShape::kOk, CommandStatus::kOutcomeUnknown, "").substr(0, 20),
            "-ERR outcome unknown");
}

class Echo final : public LocalExecutor {
 public:
  void execute(std::span<const std::string_view> arguments, RespWriter& writer) override {
    writer.bulk(arguments.back());
  }
};

TEST(Transaction, IsOneAtomicCommandAndOneArray) {
  ChunkPool pool(64);
  Preparer p;
  Transaction transaction;
  std::vector<std::byte> scratch(65'536);
  transaction.begin();
  p.prepare({"SET", "k", "v"});
  ASSERT_TRUE(transaction.add(pool, *p.request, scratch, 1'000));
  const std::string_view echo[] = {"ECHO", "between"};
  ASSERT_TRUE(transaction.add_local(pool, echo));
  p.prepare({"GET", "k"});
  ASSERT_TRUE(transaction.add(pool, *p.request, scratch, 1'000));
  EXPECT_EQ(transaction.flags(), 0);
  std::string body(transaction.body_bytes(), '\0');
  transaction.encode(std::as_writable_bytes(std::span{body}));
  EXPECT_EQ(body.size(), 8 + (8 + 16) + (8 + 16));
  EXPECT_EQ(body[0], static_cast<char>(statemachine::SystemCommand::kAtomic));
  EXPECT_EQ(body[4], 2);
  EXPECT_EQ(body[8], 1);    // service
  EXPECT_EQ(body[12], 10);  // bytes of the first body, without padding

  std::string reply;
  for (const std::string& value : {std::string(), std::string("v")}) {
    statemachine::ReplyEntry entry{};
    entry.bytes = static_cast<std::uint32_t>(value.size());
    reply.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
    reply += value;
    reply.resize((reply.size() + 7) / 8 * 8);
  }
  ByteChain notes = transaction.take_notes();
  const std::string flat = text_of(notes);
  ByteChain out;
  RespWriter writer(out, pool, false);
  Echo local;
  render_transaction(flat, CommandStatus::kOk, std::as_bytes(std::span{reply}), local, writer);
  EXPECT_EQ(text_of(out), "*3\r\n+OK\r\n$7\r\nbetween\r\n$1\r\nv\r\n");
  notes.clear(pool);
  out.clear(pool);
  transaction.clear(pool);
  EXPECT_EQ(pool.available(), pool.count());
}

TEST(Request, FlushAllIsOneAtomicCommandOfBothServices) {
  Preparer p;
  EXPECT_EQ(p.prepare({"FLUSHALL", "ASYNC"}), "");
  EXPECT_EQ(p.request->service(), statemachine::kSystemService);
  EXPECT_EQ(p.request->flags(), 0);
  std::vector<statemachine::AtomicCommand> parts(4);
  std::uint32_t count = 0;
  ASSERT_TRUE(statemachine::parse_atomic(std::as_bytes(std::span{p.body}), parts, count));
  ASSERT_EQ(count, 2u);
  EXPECT_EQ(parts[0].service, 1);
  EXPECT_EQ(parts[0].body[0], static_cast<std::byte>(statemachine::kv::KvOp::kClear));
  EXPECT_EQ(parts[1].service, 2);
  EXPECT_EQ(parts[1].body[0], static_cast<std::byte>(statemachine::btree::BtreeOp::kClear));

  EXPECT_EQ(p.prepare({"FLUSHDB"}), "");
  EXPECT_EQ(p.request->service(), 1);
  p.request = std::make_unique<Request>(ServiceIds{.kv = 1});
  EXPECT_EQ(p.prepare({"FLUSHALL"}), "");
  EXPECT_EQ(p.request->service(), 1);
}

TEST(Transaction, TakesThePartsOfFlushAllAndAnswersItOnce) {
  ChunkPool pool(64);
  Preparer p;
  Transaction transaction;
  std::vector<std::byte> scratch(65'536);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"FLUSHALL"}, {"BT.COUNT", "0", "9"}, {"FLUSHALL"}}) {
    p.prepare(words);
    ASSERT_TRUE(transaction.add(pool, *p.request, scratch, 1'000));
  }
  std::string body(transaction.body_bytes(), '\0');
  transaction.encode(std::as_writable_bytes(std::span{body}));
  std::vector<statemachine::AtomicCommand> parts(8);
  std::uint32_t count = 0;
  ASSERT_TRUE(statemachine::parse_atomic(std::as_bytes(std::span{body}), parts, count));
  ASSERT_EQ(count, 5u);
  EXPECT_EQ(parts[2].body[0], static_cast<std::byte>(statemachine::btree::BtreeOp::kCount));

  // The second part of the last one fails.
  std::string reply;
  for (std::uint16_t part = 0; part < 5; ++part) {
    statemachine::ReplyEntry entry{};
    entry.status =
        static_cast<std::uint16_t>(part == 4 ? CommandStatus::kNoSpace : CommandStatus::kOk);
    entry.bytes = part == 2 ? 8 : 0;
    reply.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
    if (part == 2) reply += std::string("\x07\0\0\0\0\0\0\0", 8);
  }
  ByteChain notes = transaction.take_notes();
  const std::string flat = text_of(notes);
  ByteChain out;
  RespWriter writer(out, pool, false);
  Echo local;
  render_transaction(flat, CommandStatus::kOk, std::as_bytes(std::span{reply}), local, writer);
  const std::string wanted = "*3\r\n+OK\r\n:7\r\n-";
  EXPECT_EQ(text_of(out).substr(0, wanted.size()), wanted);
  notes.clear(pool);
  out.clear(pool);
  transaction.clear(pool);
}

TEST(Transaction, OfReadsIsARead) {
  ChunkPool pool(64);
  Preparer p;
  Transaction transaction;
  std::vector<std::byte> scratch(65'536);
  p.prepare({"GET", "k"});
  ASSERT_TRUE(transaction.add(pool, *p.request, scratch, 1'000));
  EXPECT_EQ(transaction.flags(), statemachine::kReadOnly);
  p.prepare({"DEL", "k"});
  ASSERT_TRUE(transaction.add(pool, *p.request, scratch, 1'000));
  EXPECT_EQ(transaction.flags(), 0);
  transaction.clear(pool);
}

TEST(Transaction, IsBounded) {
  ChunkPool pool(256);
  Preparer p;
  Transaction transaction;
  std::vector<std::byte> scratch(65'536);
  p.prepare({"SET", "k", std::string(1'000, 'v')});
  std::uint32_t added = 0;
  while (transaction.add(pool, *p.request, scratch, 10'000)) ++added;
  EXPECT_EQ(added, 9u);
  EXPECT_LE(transaction.body_bytes(), 10'000u);
  const std::string_view large[] = {"ECHO", std::string_view(p.body)};
  std::uint32_t local = 0;
  while (transaction.add_local(pool, large)) ++local;
  EXPECT_GT(local, 10u);
  EXPECT_LT(local, 70u);
  transaction.clear(pool);
  EXPECT_EQ(pool.available(), pool.count());
}

}  // namespace
}  // namespace annulus::proxy
