// Requests whole, cut at every position, oversized, and hostile.
#include "tools/proxy/resp_parser.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

namespace annulus::proxy {
namespace {

using Command = std::vector<std::string>;

/// What a parser made of a stream: commands, "<too large>" for skipped ones, and the last error.
struct Transcript {
  std::vector<Command> commands;
  std::string error;
};

std::string encode(const Command& command) {
  std::string text = "*" + std::to_string(command.size()) + "\r\n";
  for (const std::string& argument : command) {
    text += "$" + std::to_string(argument.size()) + "\r\n" + argument + "\r\n";
  }
  return text;
}

/// Feeds `stream` in the given pieces, as a connection would: unconsumed bytes stay.
class Feeder {
 public:
  void feed(std::string_view piece) {
    if (broken_) return;
    input_ += piece;
    for (;;) {
      std::size_t consumed = 0;
      const ParseOutcome outcome = parser_.next(input_, *arguments_, consumed);
      ASSERT_LE(consumed, input_.size());
      if (outcome == ParseOutcome::kCommand) {
        Command command;
        for (std::string_view argument : arguments_->all()) command.emplace_back(argument);
        transcript_.commands.push_back(command);
      } else if (outcome == ParseOutcome::kTooLarge) {
        transcript_.commands.push_back({"<too large>"});
      } else if (outcome == ParseOutcome::kBroken) {
        transcript_.error = parser_.error();
        broken_ = true;
        return;
      }
      input_.erase(0, consumed);
      if (outcome == ParseOutcome::kIncomplete) {
        ASSERT_GT(parser_.needed(), input_.size());
        ASSERT_LE(input_.size(), kInputBytesMax);
        return;
      }
    }
  }
  const Transcript& transcript() const { return transcript_; }
  std::string_view left() const { return input_; }

 private:
  RespParser parser_;
  std::unique_ptr<Arguments> arguments_ = std::make_unique<Arguments>();
  std::string input_;
  bool broken_ = false;
  Transcript transcript_;
};

Transcript parse(std::string_view stream) {
  Feeder feeder;
  feeder.feed(stream);
  return feeder.transcript();
}

TEST(RespParser, ReadsAPipelineOfEveryShape) {
  const std::vector<Command> commands = {{"GET", "k"},
                                         {"SET", "key", std::string(1000, 'v')},
                                         {"ECHO", ""},
                                         {"MSET", "a", "1", "b", std::string("\r\n\0$5", 5)},
                                         {"PING"}};
  std::string stream;
  for (const Command& command : commands) stream += encode(command);
  EXPECT_EQ(parse(stream).commands, commands);
}

TEST(RespParser, EverySplitPositionGivesTheSameCommands) {
  const std::string stream = encode({"SET", "k", "value"}) + "PING\r\n" + encode({"GET", "k"}) +
                             "*0\r\n" + "  ECHO \"a b\\x41\"\n" + encode({"MGET", "a", "b", ""}) +
                             encode({"SET", "k", std::string(20, 'x')});
  const Transcript whole = parse(stream);
  ASSERT_EQ(whole.commands.size(), 7u);
  for (std::size_t first = 0; first <= stream.size(); ++first) {
    for (std::size_t second = first; second <= stream.size(); ++second) {
      Feeder feeder;
      feeder.feed(stream.substr(0, first));
      feeder.feed(stream.substr(first, second - first));
      feeder.feed(stream.substr(second));
      ASSERT_EQ(feeder.transcript().commands, whole.commands) << first << " " << second;
      ASSERT_TRUE(feeder.left().empty());
    }
  }
  Feeder bytewise;
  for (char c : stream) bytewise.feed({&c, 1});
  EXPECT_EQ(bytewise.transcript().commands, whole.commands);
}

TEST(RespParser, ACommandThatIsNotDroppedIsFoundAgain) {
  RespParser parser;
  auto arguments = std::make_unique<Arguments>();
  std::size_t consumed = 0;
  const std::string stream = encode({"GET", "k"});
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(parser.next(stream, *arguments, consumed), ParseOutcome::kCommand);
    EXPECT_EQ(consumed, stream.size());
    EXPECT_EQ((*arguments)[1], "k");
  }
}

TEST(RespParser, InlineCommandsResolveQuotes) {
  const auto one = [](std::string_view line) { return parse(line).commands.at(0); };
  EXPECT_EQ(one("SET k \"a \\\"b\\\" \\n\\x00\\q\"\r\n"),
            (Command{"SET", "k", std::string("a \"b\" \n\0q", 9)}));
  EXPECT_EQ(one("SET 'it\\'s' ''\n"), (Command{"SET", "it's", ""}));
  EXPECT_EQ(one("\r\n"), Command{});
  EXPECT_EQ(one("a\"b c\" d\r\n"), (Command{"ab c", "d"}));
  EXPECT_EQ(parse("SET k \"open\r\n").error, "Protocol error: unbalanced quotes in request");
  EXPECT_EQ(parse("SET k \"a\"b\r\n").error, "Protocol error: unbalanced quotes in request");
}

TEST(RespParser, ErrorsAreWordedAsInRedis) {
  EXPECT_EQ(parse("*x\r\n").error, "Protocol error: invalid multibulk length");
  EXPECT_EQ(parse("*01\r\n").error, "Protocol error: invalid multibulk length");
  EXPECT_EQ(parse("*3000000000\r\n").error, "Protocol error: invalid multibulk length");
  EXPECT_EQ(parse("*1\r\n:3\r\n").error, "Protocol error: expected '$', got ':'");
  EXPECT_EQ(parse("*1\r\n$-1\r\n").error, "Protocol error: invalid bulk length");
  EXPECT_EQ(parse("*1\r\n$x\r\n").error, "Protocol error: invalid bulk length");
  EXPECT_EQ(parse("*1\r\n$536870913\r\n").error, "Protocol error: invalid bulk length");
  EXPECT_EQ(parse("*" + std::string(70'000, '1')).error,
            "Protocol error: too big mbulk count string");
  EXPECT_EQ(parse("*1\r\n$" + std::string(70'000, '1')).error,
            "Protocol error: too big bulk count string");
  EXPECT_EQ(parse(std::string(70'000, 'a')).error, "Protocol error: too big inline request");
  EXPECT_EQ(parse(std::string(70'000, 'a') + "\n").error, "Protocol error: too big inline request");
}

TEST(RespParser, NegativeCountsAreIgnored) {
  EXPECT_EQ(parse("*-1\r\n*0\r\n" + encode({"PING"})).commands,
            (std::vector<Command>{{}, {}, {"PING"}}));
}

TEST(RespParser, OversizedCommandsAreSkippedWithoutBeingHeld) {
  const std::string good = encode({"GET", "k"});
  const std::vector<std::string> bad = {
      encode({"SET", "k", std::string(kArgumentBytesMax + 1, 'v')}),
      encode({"SET", std::string(300'000, 'k'), "v", "w"}),
      encode(Command(kArgumentsMax + 1, "a")),
      encode({"MSET", "a", std::string(60'000, 'v'), "b", std::string(60'000, 'v'), "c",
              std::string(60'000, 'v')}),
  };
  for (const std::string& stream : bad) {
    for (std::size_t piece : {std::size_t{1'000}, std::size_t{65'536}, stream.size() * 2}) {
      Feeder feeder;
      const std::string all = good + stream + good;
      for (std::size_t at = 0; at < all.size(); at += piece) {
        feeder.feed(std::string_view(all).substr(at, piece));
      }
      EXPECT_EQ(feeder.transcript().commands,
                (std::vector<Command>{{"GET", "k"}, {"<too large>"}, {"GET", "k"}}));
      EXPECT_TRUE(feeder.left().empty());
    }
  }
  const std::string largest(kArgumentBytesMax, 'v');
  EXPECT_EQ(parse(encode({"SET", "k", largest})).commands.at(0).at(2), largest);
}

TEST(RespParser, HostileBytesNeverHangOrOverrun) {
  std::mt19937 random(1);
  const std::string alphabet = "*$\r\n0123456789-+abc\"'\\x \t\0\xff";
  for (int run = 0; run < 20'000; ++run) {
    Feeder feeder;
    std::string stream;
    if (run % 2 == 0) stream = encode({"SET", "key", "value"}) + encode({"GET", "key"});
    for (int i = 0; i < 40; ++i) {
      const char c = alphabet[random() % alphabet.size()];
      if (!stream.empty() && run % 2 == 0) {
        stream[random() % stream.size()] = c;
        i += 10;
      } else {
        stream += c;
      }
    }
    for (std::size_t at = 0; at < stream.size();) {
      const std::size_t piece = 1 + random() % 7;
      feeder.feed(std::string_view(stream).substr(at, piece));
      at += piece;
    }
  }
}

TEST(RespParser, ParsesIntegersStrictly) {
  std::int64_t value = 0;
  for (const char* good : {"0", "-1", "9223372036854775807", "-9223372036854775808", "10"}) {
    EXPECT_TRUE(parse_integer(good, value)) << good;
    EXPECT_EQ(std::to_string(value), good);
  }
  for (const char* bad : {"", "-", "+1", "01", "-0", " 1", "1 ", "9223372036854775808", "1.0", "x",
                          "-01", "123456789012345678901"}) {
    EXPECT_FALSE(parse_integer(bad, value)) << bad;
  }
}

}  // namespace
}  // namespace annulus::proxy
