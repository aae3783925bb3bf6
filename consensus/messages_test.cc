// Hostile bytes and lengths for every type of message. Frames here are opened by hand, as the frame
// layer would refuse what was changed after it was sealed: this is the line of defence behind it.
#include "consensus/messages.h"

#include "consensus/membership.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

class MessagesTest : public testing::Test {
 protected:
  struct Sample {
    MessageType type;
    std::string message;
    Slice payload;
  };
  template <typename M>
  void add(MessageType type, const M& message, const Slice& payload = {}) {
    samples_.push_back({type, {reinterpret_cast<const char*>(&message), sizeof message}, payload});
  }
  void add(const Received& in) {
    samples_.push_back(
        {in.type,
         {reinterpret_cast<const char*>(in.frame.message.data()), in.frame.message.size()},
         in.frame.payload});
  }
  MessagesTest() {
    const Content content = frames_.content(7, 5'000);
    const Route route(configuration(5), 0);
    const WireReplyMaker reply(content);
    add(frames_.submit(content, 3, 1));
    add(MessageType::kSubmitAck, SubmitAck{1ull, 2ull, 3ull, 4ull});
    add(MessageType::kPhase1A, Phase1A{5ull, 1ull, 9ull});
    std::vector<Phase1BEntry> reported;
    for (std::uint64_t i = 1; i <= 4; ++i) reported.push_back({i, 3ull, to_wire(content.value)});
    add(frames_.list(acceptor_id(1), MessageType::kPhase1B,
                     Phase1B{5ull, 1ull, 1ull, 0ull, 0ull, to_wire(Decided{}), std::uint16_t{1},
                             std::uint16_t{2}, std::uint16_t{4}},
                     reported));
    add(frames_.phase2a(at(3), ballot(1), content, route, {ballot(1), at(1), at(2)}, 1));
    add(frames_.phase2b(acceptor_id(1), ballot(1),
                        {Frames::entry(at(1), content.value, just(1)),
                         Frames::entry(at(2), content.value, just(2))},
                        {LearnerCredit{0u, 1ull, 5ull}}));
    add(frames_.decision({ballot(1), at(1), at(2)}));
    add(MessageType::kReject, Reject{5ull, 4ull});
    add(frames_.pull(learner_id(0), PullKind::kValue, kNoBallot, {{1ull, ~0ull}, {2ull, 1ull}}));
    add(frames_.value(acceptor_id(1), at(3), ballot(1), content, true, {}, 2));
    add(MessageType::kTrimmed, Trimmed{7ull});
    add(MessageType::kLearnerStatus, LearnerStatus{7ull, 1, {}});
    add(MessageType::kReply, reply.message, reply.payload);
    const Fragment fragment = cut(5'000, Frames::kFragment, 0);
    add(MessageType::kQuery, Query{to_wire(content.value), to_wire(fragment)},
        content.bytes.part(0, fragment.bytes));
    add(MessageType::kPreVote, PreVote{5ull, 1u});
    add(MessageType::kPreVoteAnswer, PreVoteAnswer{5ull, 1u, std::uint8_t{1}, {}});
    std::array<std::byte, kConfigurationBytesMax> members;
    const std::size_t size = encode(configuration(3), members);
    samples_.push_back(
        {MessageType::kConfiguration, {reinterpret_cast<const char*>(members.data()), size}, {}});
    add(MessageType::kJoin, Join{9ull, 1u, std::uint8_t{1}, {}});
    add(MessageType::kChange, to_wire(Change{.operation = 4,
                                             .verb = ChangeVerb::kRemove,
                                             .kind = JoinKind::kReplica,
                                             .member = learner_id(0),
                                             .comes = {}}));
    add(MessageType::kStateAsk, StateAsk{7ull});
    add(MessageType::kStateManifest, manifest());
    add(frames_.list(learner_id(0), MessageType::kStatePull, StatePull{3ull, 2u, 0u},
                     std::vector<u32le>{4u, 5u}));
    add(MessageType::kStateChunk, StateChunk{3ull, 4u, 100u}, content.bytes.part(0, 100));
  }
  static StateManifest manifest() {
    return {3ull, 7ull, 5'000ull, 9ull, 2u, 1'000u, static_cast<std::uint8_t>(StateOffer::kHere),
            {}};
  }
  struct WireReplyMaker {
    explicit WireReplyMaker(const Content& content)
        : message{to_wire(content.value.id),
                  3ull,
                  std::uint16_t{0},
                  std::uint16_t{0},
                  100u,
                  WireFragment{std::uint16_t{0}, std::uint16_t{1}, 100u}},
          payload(content.bytes.part(0, 100)) {}
    Reply message;
    Slice payload;
  };
  /// Validates a copy that ends where its allocation ends, so that a sanitizer sees a read past it.
  static bool valid(std::uint8_t type, const std::string& message, const Slice& payload,
                    std::unique_ptr<std::byte[]>* keep = nullptr, dataplane::Frame* out = nullptr) {
    static dataplane::FrameHeader header;
    header.type = type;
    auto copy = std::make_unique<std::byte[]>(message.size());
    std::memcpy(copy.get(), message.data(), message.size());
    const dataplane::Frame frame{&header, {copy.get(), message.size()}, payload};
    const bool ok = validate(frame, kValueBytesMax);
    if (out != nullptr) *out = frame;
    if (keep != nullptr) *keep = std::move(copy);
    return ok;
  }
  /// What a role relies on once a message is valid; each list lies within the message.
  static void check_accepted(const dataplane::Frame& frame) {
    const std::size_t bytes = frame.message.size();
    switch (static_cast<MessageType>(frame.header->type)) {
      case MessageType::kPhase1B: {
        const auto& m = message<Phase1B>(frame);
        ASSERT_EQ(bytes, sizeof m + m.count * sizeof(Phase1BEntry));
        ASSERT_LT(m.part, m.parts);
        ASSERT_LE(m.parts, kPhase1BPartsMax);
        break;
      }
      case MessageType::kPhase2B: {
        const auto& m = message<Phase2B>(frame);
        ASSERT_LE(m.count, kPhase2BEntriesMax);
        ASSERT_EQ(bytes,
                  sizeof m + m.count * sizeof(Phase2BEntry) + m.credits * sizeof(LearnerCredit));
        break;
      }
      case MessageType::kPull: {
        const auto& m = message<Pull>(frame);
        ASSERT_EQ(bytes, sizeof m + m.count * sizeof(PullEntry));
        break;
      }
      case MessageType::kStateManifest: {
        const auto& m = message<StateManifest>(frame);
        if (static_cast<StateOffer>(m.offer) != StateOffer::kHere) break;
        ASSERT_GT(m.bytes, 0u);
        ASSERT_LE(m.chunk_bytes, kStateChunkBytesMax);
        ASSERT_LT((m.bytes - 1) / m.chunk_bytes, ~std::uint32_t{0});
        break;
      }
      case MessageType::kStatePull:
        ASSERT_EQ(bytes, sizeof(StatePull) + message<StatePull>(frame).count * sizeof(u32le));
        break;
      case MessageType::kStateChunk:
        ASSERT_EQ(message<StateChunk>(frame).bytes, frame.payload.size());
        break;
      case MessageType::kPhase2A: {
        const auto& m = message<Phase2A>(frame);
        const Route route(m.route);
        ASSERT_GE(route.size(), 1u);
        for (std::uint32_t i = 0; i < route.size(); ++i) ASSERT_LT(route.at(i), kAcceptorsMax);
        check_fragment(m.value, m.fragment, frame.payload);
        break;
      }
      case MessageType::kSubmit:
        check_fragment(message<Submit>(frame).value, message<Submit>(frame).fragment,
                       frame.payload);
        break;
      case MessageType::kValue:
        check_fragment(message<ValueMessage>(frame).value, message<ValueMessage>(frame).fragment,
                       frame.payload);
        break;
      case MessageType::kQuery:
        check_fragment(message<Query>(frame).value, message<Query>(frame).fragment, frame.payload);
        break;
      case MessageType::kConfiguration: {
        const Configuration members = decode(frame.message, {});
        ASSERT_GE(members.acceptors.size(), 1u);
        ASSERT_LE(members.acceptors.size(), kAcceptorsMax);
        ASSERT_LE(members.learners.size(), kLearnersMax);
        break;
      }
      default:
        break;
    }
  }
  static void check_fragment(const WireValue& value, const WireFragment& wire, const Slice& part) {
    const Fragment fragment = from_wire(wire);
    ASSERT_LE(value.bytes, kValueBytesMax);
    ASSERT_LE(fragment.count, kFragmentsMax);
    ASSERT_LT(fragment.index, fragment.count);
    ASSERT_LE(std::uint64_t{fragment.index} * fragment.bytes + part.size(), value.bytes);
  }

  Frames frames_;
  std::vector<Sample> samples_;
};

TEST_F(MessagesTest, EveryTypeHasASampleAndAName) {
  ASSERT_EQ(samples_.size(), kMessageTypeLast);
  for (std::uint8_t type = 1; type <= kMessageTypeLast; ++type) {
    EXPECT_EQ(static_cast<std::uint8_t>(samples_[type - 1].type), type);
    EXPECT_TRUE(valid(type, samples_[type - 1].message, samples_[type - 1].payload))
        << to_string(samples_[type - 1].type);
    EXPECT_STRNE(to_string(static_cast<MessageType>(type)), "unknown");
  }
  EXPECT_STREQ(to_string(static_cast<MessageType>(200)), "unknown");
}

TEST_F(MessagesTest, EveryOtherLengthOfEveryTypeIsRefused) {
  for (const Sample& sample : samples_) {
    const auto type = static_cast<std::uint8_t>(sample.type);
    for (std::size_t bytes = 0; bytes < sample.message.size(); ++bytes) {
      EXPECT_FALSE(valid(type, sample.message.substr(0, bytes), sample.payload)) << int{type};
    }
    for (const std::size_t more : {1u, 8u, 100u}) {
      EXPECT_FALSE(valid(type, sample.message + std::string(more, '\0'), sample.payload));
    }
    if (sample.payload) {
      EXPECT_FALSE(valid(type, sample.message, sample.payload.part(0, sample.payload.size() - 1)));
      EXPECT_FALSE(valid(type, sample.message, {}));
    } else {
      EXPECT_FALSE(valid(type, sample.message, frames_.content(1).bytes)) << int{type};
    }
  }
}

TEST_F(MessagesTest, UnknownTypesAreRefused) {
  for (const std::uint8_t type : {0, kMessageTypeLast + 1, 255}) {
    for (const Sample& sample : samples_) {
      EXPECT_FALSE(valid(type, sample.message, sample.payload));
    }
  }
}

TEST_F(MessagesTest, MutatedMessagesAreRefusedOrConsistent) {
  std::mt19937_64 random(20261122);
  std::uint64_t refused = 0;
  for (int round = 0; round < 200'000; ++round) {
    const Sample& sample = samples_[random() % samples_.size()];
    std::string message = sample.message;
    for (std::uint64_t n = 1 + random() % 4; n > 0; --n) {
      static constexpr unsigned char kTricky[] = {0, 1, 0x7f, 0x80, 0xff};
      const std::size_t place = random() % message.size();
      message[place] = static_cast<char>(random() % 2 == 0 ? kTricky[random() % 5] : random());
    }
    if (random() % 8 == 0) message.resize(random() % (message.size() + 64));
    std::unique_ptr<std::byte[]> memory;
    dataplane::Frame frame;
    const auto type = static_cast<std::uint8_t>(
        random() % 16 == 0 ? random() : static_cast<std::uint64_t>(sample.type));
    if (valid(type, message, sample.payload, &memory, &frame)) {
      check_accepted(frame);
      if (testing::Test::HasFatalFailure()) FAIL() << "round " << round;
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 50'000u);
}

TEST_F(MessagesTest, RouteThatNamesSomebodyTwiceNobodyOrAfterItsEndIsRefused) {
  const Sample& sample = samples_[static_cast<int>(MessageType::kPhase2A) - 1];
  const auto with = [&](std::initializer_list<std::uint8_t> acceptors) {
    Phase2A m;
    std::memcpy(&m, sample.message.data(), sizeof m);
    m.route.acceptor.fill(kRouteEnd);
    std::copy(acceptors.begin(), acceptors.end(), m.route.acceptor.begin());
    return valid(static_cast<std::uint8_t>(sample.type),
                 {reinterpret_cast<const char*>(&m), sizeof m}, sample.payload);
  };
  EXPECT_TRUE(with({1, 2, 0}));
  EXPECT_TRUE(with({0}));
  EXPECT_FALSE(with({}));
  EXPECT_FALSE(with({1, 1, 0}));
  EXPECT_FALSE(with({1, kRouteEnd, 0}));
  EXPECT_FALSE(with({kAcceptorsMax, 0}));
}

TEST_F(MessagesTest, ManifestThatOffersNothingSaysNothingElse) {
  const auto accepted = [](const StateManifest& m) {
    return valid(static_cast<std::uint8_t>(MessageType::kStateManifest),
                 {reinterpret_cast<const char*>(&m), sizeof m}, {});
  };
  StateManifest m = manifest();
  EXPECT_TRUE(accepted(m));
  m.offer = static_cast<std::uint8_t>(StateOffer::kWait);
  EXPECT_FALSE(accepted(m));
  m = StateManifest{};
  m.offer = static_cast<std::uint8_t>(StateOffer::kNone);
  EXPECT_TRUE(accepted(m));
  m = manifest();
  m.chunk_bytes = 1u;
  m.bytes = std::uint64_t{1} << 33;  // more pieces than have numbers
  EXPECT_FALSE(accepted(m));
}

TEST_F(MessagesTest, CutsOfEveryLengthAddUp) {
  for (std::uint32_t bytes = 1; bytes < 10'000; bytes += 37) {
    std::uint32_t sum = 0;
    const std::uint32_t count = cut(bytes, Frames::kFragment, 0).count;
    for (std::uint32_t i = 0; i < count; ++i) {
      const Fragment fragment = cut(bytes, Frames::kFragment, i);
      EXPECT_EQ(fragment.offset(), sum);
      sum += std::min(fragment.bytes, bytes - fragment.offset());
    }
    EXPECT_EQ(sum, bytes);
  }
}

TEST_F(MessagesTest, LongestValueFitsTheFragmentsAtTheSmallestMtu) {
  const std::uint32_t each = fragment_bytes(dataplane::kMtuMin - dataplane::kIpUdpHeaderBytes);
  EXPECT_LE(cut(kValueBytesMax, each, 0).count, kFragmentsMax);
}

}  // namespace
}  // namespace annulus::consensus
