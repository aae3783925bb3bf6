#include "statemachine/examples/order_book.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "statemachine/service_harness.h"

namespace annulus::examples {
namespace {

using namespace statemachine;

std::string body_of(OrderOp op, Side side, std::uint16_t instrument, std::uint64_t id,
                    std::uint32_t price = 0, std::uint32_t quantity = 0) {
  OrderCommand command{};
  command.op = static_cast<std::uint8_t>(op);
  command.side = static_cast<std::uint8_t>(side);
  command.instrument = instrument;
  command.price = price;
  command.quantity = quantity;
  command.id = id;
  return {reinterpret_cast<const char*>(&command), sizeof(command)};
}
std::string place_body(Side side, std::uint64_t id, std::uint32_t price, std::uint32_t quantity,
                       std::uint16_t instrument = 1) {
  return body_of(OrderOp::kPlace, side, instrument, id, price, quantity);
}

struct Match {
  std::uint64_t id;
  std::uint32_t price, quantity;
  bool operator==(const Match&) const = default;
};
struct Placed {
  std::uint32_t rests = 0;
  std::vector<Match> matches;
  bool operator==(const Placed&) const = default;
};
Placed placed(const Answer& answer) {
  if (answer.status != CommandStatus::kOk) return {~0u, {}};
  const auto* head = reinterpret_cast<const PlaceReply*>(answer.bytes.data());
  const auto* fills = reinterpret_cast<const Fill*>(head + 1);
  Placed result{head->rests, {}};
  for (std::uint32_t i = 0; i < head->fills; ++i) {
    result.matches.push_back({fills[i].id, fills[i].price, fills[i].quantity});
  }
  return result;
}

class OrderBookTest : public testing::Test {
 protected:
  Answer run(const std::string& body) { return harness_.run(service_, body); }
  OrderBookService service_{3};
  ServiceHarness harness_;
};

TEST_F(OrderBookTest, BestPriceThenFirstComeTradesFirst) {
  EXPECT_EQ(placed(run(place_body(Side::kSell, 1, 105, 10))), (Placed{10, {}}));
  EXPECT_EQ(placed(run(place_body(Side::kSell, 2, 103, 10))), (Placed{10, {}}));
  EXPECT_EQ(placed(run(place_body(Side::kSell, 3, 103, 10))), (Placed{10, {}}));
  EXPECT_EQ(placed(run(place_body(Side::kBuy, 4, 102, 5))), (Placed{5, {}}));
  EXPECT_EQ(placed(run(place_body(Side::kBuy, 5, 104, 25))),
            (Placed{5, {{2, 103, 10}, {3, 103, 10}}}));
  EXPECT_EQ(placed(run(place_body(Side::kSell, 6, 1, 7))), (Placed{0, {{5, 104, 5}, {4, 102, 2}}}));
  const Answer best = run(body_of(OrderOp::kBest, Side::kBuy, 1, 0));
  const auto* reply = reinterpret_cast<const BestReply*>(best.bytes.data());
  EXPECT_EQ(reply->bid_price, 102u);
  EXPECT_EQ(reply->bid_quantity, 3u);
  EXPECT_EQ(reply->ask_price, 105u);
  EXPECT_EQ(run(body_of(OrderOp::kCancel, Side::kSell, 1, 1)).status, CommandStatus::kOk);
  EXPECT_EQ(run(body_of(OrderOp::kCancel, Side::kSell, 1, 1)).status, CommandStatus::kNotFound);
  EXPECT_EQ(run(place_body(Side::kBuy, 4, 1, 1)).status, CommandStatus::kRefused);
  EXPECT_TRUE(hashes_agree(service_));
}

TEST_F(OrderBookTest, AFullBookRefusesWithoutATrace) {
  for (std::uint32_t i = 0; i < kOrdersMax; ++i) run(place_body(Side::kBuy, i, 10, 1));
  EXPECT_EQ(run(place_body(Side::kBuy, 900, 10, 1)).status, CommandStatus::kNoSpace);
  ServiceHarness narrow(64);  // four fills do not fit such a reply
  EXPECT_EQ(narrow.run(service_, place_body(Side::kSell, 901, 10, 4)).status,
            CommandStatus::kTooLarge);
  EXPECT_EQ(placed(run(place_body(Side::kSell, 902, 10, kOrdersMax))).matches.size(), kOrdersMax);
  EXPECT_TRUE(hashes_agree(service_));
}

/// The simplest engine one can write: orders as they came, searched for the best.
class Oracle {
 public:
  Placed place(Side side, std::uint64_t id, std::uint32_t price, std::uint32_t quantity) {
    Placed result{quantity, {}};
    while (result.rests > 0) {
      const auto best = best_for(side, price);
      if (best == resting_.end()) break;
      const std::uint32_t traded = std::min(result.rests, best->order.quantity);
      result.matches.push_back({best->order.id, best->order.price, traded});
      result.rests -= traded;
      best->order.quantity -= traded;
      if (best->order.quantity == 0) resting_.erase(best);
    }
    if (result.rests > 0) resting_.push_back({side, {id, price, result.rests}});
    return result;
  }
  struct Resting {
    Side side;
    Match order;
  };
  std::list<Resting>& resting() { return resting_; }

 private:
  std::list<Resting>::iterator best_for(Side side, std::uint32_t price) {
    auto best = resting_.end();
    for (auto at = resting_.begin(); at != resting_.end(); ++at) {
      const std::uint32_t p = at->order.price;
      const bool buy = side == Side::kBuy;
      if (at->side == side || (buy ? p > price : p < price)) continue;
      if (best == resting_.end() || (buy ? p < best->order.price : p > best->order.price)) {
        best = at;
      }
    }
    return best;
  }

  std::list<Resting> resting_;
};

TEST_F(OrderBookTest, AgreesWithAnOracle) {
  std::mt19937_64 random(4);
  Oracle oracle;
  for (std::uint64_t id = 1; id < 20'000; ++id) {
    if (random() % 3 == 0 && !oracle.resting().empty()) {
      const auto size = oracle.resting().size();
      const auto gone = std::next(oracle.resting().begin(), static_cast<long>(random() % size));
      ASSERT_EQ(run(body_of(OrderOp::kCancel, gone->side, 1, gone->order.id)).status,
                CommandStatus::kOk);
      oracle.resting().erase(gone);
      continue;
    }
    const Side side = random() % 2 == 0 ? Side::kBuy : Side::kSell;
    const auto price = static_cast<std::uint32_t>(90 + random() % 20);
    const auto quantity = static_cast<std::uint32_t>(1 + random() % 30);
    const Placed wanted = oracle.place(side, id, price, quantity);
    ASSERT_EQ(placed(run(place_body(side, id, price, quantity))), wanted);
  }
  EXPECT_TRUE(hashes_agree(service_));
  ASSERT_TRUE(service_.on_segments_installed().ok());
  EXPECT_TRUE(hashes_agree(service_));
}

TEST_F(OrderBookTest, MalformedBodiesAreRefused) {
  const std::string sound = place_body(Side::kBuy, 1, 5, 5);
  for (std::size_t size = 0; size < sound.size(); ++size) {
    EXPECT_EQ(run(sound.substr(0, size)).status, CommandStatus::kMalformed);
  }
  for (const std::string& bad :
       {sound + "x", place_body(Side::kBuy, 1, 5, 0), place_body(Side::kBuy, 1, 0, 5),
        place_body(Side::kBuy, 1, 5, 5, kInstruments), place_body(Side{2}, 1, 5, 5),
        body_of(OrderOp{0}, Side::kBuy, 1, 1), body_of(OrderOp{9}, Side::kBuy, 1, 1)}) {
    EXPECT_EQ(run(bad).status, CommandStatus::kMalformed);
  }
}

/// The orders that rest, by instrument and arrival, with the commands that place them again.
Witnesses list_orders(Service& service) {
  Witnesses orders;
  for (std::uint32_t i = 0; i < service.segments().id_end(); ++i) {
    if (!service.segments().live(SegmentId{i})) continue;
    const auto& book = *reinterpret_cast<const Book*>(service.segments().at(SegmentId{i}));
    const auto instrument = static_cast<std::uint16_t>(book.common.key_class.get());
    for (const Side side : {Side::kBuy, Side::kSell}) {
      for (const Order& order : book.sides[static_cast<std::size_t>(side)].all()) {
        const std::string name =
            std::to_string(instrument) + "/" + std::to_string(1'000 + order.arrival);
        orders[name] = {instrument,
                        place_body(side, order.id, order.price, order.quantity, instrument)};
      }
    }
  }
  return orders;
}

TEST_F(OrderBookTest, FootprintsNameTheBooksTouched) {
  const auto make = [] { return std::make_unique<OrderBookService>(std::uint8_t{3}); };
  for (std::uint64_t id = 0; id < 60; ++id) {
    const bool buy = id % 2 == 0;
    run(place_body(buy ? Side::kBuy : Side::kSell, id, buy ? 90 : 110, 5,
                   static_cast<std::uint16_t>(id % 3)));
  }
  for (const std::string& body :
       {body_of(OrderOp::kBest, Side::kBuy, 2, 0), place_body(Side::kBuy, 100, 90, 12, 1),
        place_body(Side::kBuy, 101, 120, 12, 1), body_of(OrderOp::kCancel, Side::kBuy, 0, 6)}) {
    EXPECT_EQ(footprint_fault(service_, body, make, list_orders, harness_), "");
  }
}

TEST_F(OrderBookTest, DamagedBooksAreRefused) {
  for (std::uint64_t id = 0; id < 10; ++id) run(place_body(Side::kBuy, id, 90, 5));
  auto& book = *reinterpret_cast<Book*>(service_.segments().at(SegmentId{0}));
  std::swap(book.sides[0].orders[2], book.sides[0].orders[3]);
  EXPECT_FALSE(service_.on_segments_installed().ok());
  std::swap(book.sides[0].orders[2], book.sides[0].orders[3]);
  EXPECT_TRUE(service_.on_segments_installed().ok());
  book.sides[1].count = kOrdersMax + 1;
  EXPECT_FALSE(service_.on_segments_installed().ok());
}

}  // namespace
}  // namespace annulus::examples
