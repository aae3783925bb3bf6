#include "tests/sim/network.h"

#include <gtest/gtest.h>

#include <cstring>

#include "dataplane/frame.h"

namespace annulus::sim {
namespace {

using dataplane::RxFrame;
using dataplane::TxFrame;

constexpr Endpoint kGroup{0xe0000001, 7000};
Endpoint end(std::uint32_t index) { return {0x0a000001 + index, 7000}; }

class NetworkTest : public testing::Test {
 protected:
  NetworkTest() {
    for (std::uint32_t i = 0; i < 3; ++i) {
      ends_.push_back(network_.attach(end(i), i == 1, 64));
      EXPECT_TRUE(ends_.back()->join(kGroup).ok());
    }
  }

  void send(std::uint32_t from, const Endpoint& to, std::byte mark) {
    std::vector<std::byte> head(sizeof(dataplane::FrameHeader), mark);
    TxFrame frame{to, head, payloads_.allocate()};
    std::memset(frame.payload.mutable_data(), static_cast<int>(mark), 100);
    frame.payload.truncate(100);
    network_.set_now(now_);
    ends_[from]->transmit(now_, {&frame, 1});
    EXPECT_FALSE(frame.payload);
  }
  /// First bytes of what reached `to` until now.
  std::vector<int> receive(std::uint32_t to) {
    std::vector<int> marks;
    std::array<RxFrame, 32> frames;
    network_.set_now(now_);
    while (const std::uint32_t count = ends_[to]->receive(now_, frames)) {
      for (std::uint32_t i = 0; i < count; ++i) {
        EXPECT_EQ(frames[i].head.size() + frames[i].payload.size(), 180u);
        marks.push_back(static_cast<int>(frames[i].head.data()[0]));
        frames[i] = {};
      }
    }
    return marks;
  }

  Trace trace_;
  Nanos now_ = 0;
  SimNetwork network_{Rng(1), 1'472, trace_};
  dataplane::BufferPool payloads_{4, 100};
  std::vector<std::unique_ptr<SimTransport>> ends_;
};

TEST_F(NetworkTest, DeliversInOrderAfterItsLatencyAndToAllOfAGroup) {
  for (int i = 0; i < 20; ++i) send(0, end(1), std::byte(i));
  send(0, kGroup, std::byte{99});
  EXPECT_TRUE(receive(1).empty());
  EXPECT_LE(network_.next_arrival(1), 10 * kMicrosecond);
  now_ = kMillisecond;
  const std::vector<int> marks = receive(1);
  ASSERT_EQ(marks.size(), 21u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(marks[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(receive(2), std::vector<int>{99});
  EXPECT_TRUE(receive(0).empty()) << "a sender does not hear its own multicast";
  EXPECT_EQ(network_.in_flight(), 0u);
  EXPECT_EQ(ends_[1]->buffers_held(), 0u);
}

TEST_F(NetworkTest, LosesDoublesAndReordersByLink) {
  network_.link(0, 1).loss_ppm = 500'000;
  network_.link(0, 2).duplicate_ppm = 500'000;
  network_.link(2, 1).reorder_ppm = 200'000;
  for (int i = 0; i < 100; ++i) {
    send(0, end(1), std::byte(i));
    send(0, end(2), std::byte(i));
  }
  now_ += kMillisecond;
  const auto lossy = receive(1).size();
  EXPECT_TRUE(lossy > 20 && lossy < 80) << lossy;
  EXPECT_EQ(receive(2).size(), 100 + network_.count(NetworkEvent::kDuplicated));
  for (int i = 0; i < 30; ++i) send(2, end(1), std::byte(i));
  now_ += kMillisecond;
  const std::vector<int> marks = receive(1);
  EXPECT_EQ(marks.size(), 30u);
  EXPECT_FALSE(std::is_sorted(marks.begin(), marks.end()));
}

TEST_F(NetworkTest, FlipsExactlyOneBit) {
  network_.link(0, 1).flip_ppm = 1'000'000;
  send(0, end(1), std::byte{0});
  now_ += kMillisecond;
  std::array<RxFrame, 1> frames;
  network_.set_now(now_);
  ASSERT_EQ(ends_[1]->receive(now_, frames), 1u);
  int bits = 0;
  for (const auto part : {frames[0].head.bytes(), frames[0].payload.bytes()}) {
    for (const std::byte byte : part) bits += std::popcount(std::to_integer<unsigned>(byte));
  }
  EXPECT_EQ(bits, 1);
}

TEST_F(NetworkTest, DropsWhatAFullOrCutLinkCannotTake) {
  network_.link(0, 1).frames_max = 5;
  network_.link(0, 2).cut = true;
  for (int i = 0; i < 9; ++i) send(0, kGroup, std::byte{1});
  now_ += kMillisecond;
  EXPECT_EQ(receive(1).size(), 5u);
  EXPECT_EQ(receive(2).size(), 0u);
  EXPECT_EQ(network_.count(NetworkEvent::kDroppedFull), 4u);
  EXPECT_EQ(network_.count(NetworkEvent::kDroppedCut), 9u);
}

TEST_F(NetworkTest, ADeadEndSendsTheRestOfItsTurnAndHearsNothing) {
  send(0, end(1), std::byte{1});
  network_.kill(1, 2);
  for (int i = 10; i < 15; ++i) send(1, end(2), std::byte(i));
  now_ += kMillisecond;
  EXPECT_EQ(receive(2), (std::vector<int>{10, 11}));
  EXPECT_TRUE(receive(1).empty());
  network_.revive(1);
  send(0, end(1), std::byte{2});
  now_ += kMillisecond;
  EXPECT_EQ(receive(1), std::vector<int>{2});
}

}  // namespace
}  // namespace annulus::sim
