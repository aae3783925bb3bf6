// An example of a replicated service: a matching engine for limit orders. Read this file and
// order_book.cc with service.h beside them; order_book_test.cc shows how to test a service.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "statemachine/service.h"

namespace annulus::examples {

// What a service author has to settle, and how it is settled here:
//  - Commands are structs of little-endian integers, read in place; anyone may have sent them.
//  - All state lies in segments, without pointers: one segment for each instrument's book.
//  - The footprint names the instrument: orders of different instruments never meet, and may be
//    executed at the same time.
//  - The key class is the instrument too: the unit in which replicas compare and transfer state.

constexpr std::uint32_t kInstruments = 64;
constexpr std::uint32_t kOrdersMax = 300;  // resting, of one side of one instrument

enum class Side : std::uint8_t { kBuy = 0, kSell = 1 };

enum class OrderOp : std::uint8_t {
  kPlace = 1,   // PlaceReply and its fills. kRefused: the id is in the book already. kNoSpace: what
                // rests would not fit the book
  kCancel = 2,  // u32 quantity that was left. kNotFound
  kBest = 3,    // BestReply; read-only
};

/// The body of every command. What its op does not need is 0.
struct OrderCommand {
  std::uint8_t op;
  std::uint8_t side;
  u16le instrument;
  u32le price;     // buys at most, sells at least for this; from 1
  u32le quantity;  // from 1
  u32le reserved;  // 0
  u64le id;        // the client's name for the order
};
static_assert(sizeof(OrderCommand) == 24);

struct PlaceReply {
  u32le fills;
  u32le rests;  // quantity that went into the book
};
/// One match: the order that was resting sets the price.
struct Fill {
  u64le id;
  u32le price;
  u32le quantity;
};
struct BestReply {
  u32le bid_price, bid_quantity, ask_price, ask_quantity;  // 0 where a side is empty
};

/// A resting order as it lies in a segment.
struct Order {
  std::uint64_t id;
  std::uint64_t arrival;  // among equal prices the first to come is the first to trade
  std::uint32_t price;
  std::uint32_t quantity;
};

/// One side of a book: sorted, the best order last, so that a match takes it off the end.
struct BookSide {
  std::uint64_t count;
  std::array<Order, kOrdersMax> orders;
  std::span<Order> all() { return {orders.data(), count}; }
  std::span<const Order> all() const { return {orders.data(), count}; }
};

/// A segment: the engine's header first, then what the service wants.
struct Book {
  statemachine::SegmentHeader common;
  std::uint64_t next_arrival;
  std::array<BookSide, 2> sides;  // by Side
};

class OrderBookService final : public statemachine::Service {
 public:
  explicit OrderBookService(std::uint8_t service);

  const char* name() const override { return "orders"; }
  void footprint(std::span<const std::byte> body,
                 statemachine::Footprint& footprint) const override;
  void execute(std::span<const statemachine::Command> commands,
               statemachine::Replies& replies) override;
  statemachine::SegmentStore& segments() override { return segments_; }
  Status on_segments_installed() override;
  std::uint32_t key_classes() const override { return kInstruments; }
  void hashes(std::span<statemachine::ContentHash> per_class) const override;
  void recompute_hashes(std::span<statemachine::ContentHash> per_class) const override;

 private:
  const Book* find(std::uint32_t instrument) const;
  Book& find_or_create(std::uint32_t instrument);
  void place(const OrderCommand& command, statemachine::Replies& replies);
  void cancel(const OrderCommand& command, statemachine::Replies& replies);
  void best(const OrderCommand& command, statemachine::Replies& replies) const;

  statemachine::SegmentStore segments_;
  // Kept beside the segments: quick ways in, and sums. on_segments_installed() gets it all back
  // from the segments.
  std::array<std::optional<statemachine::SegmentId>, kInstruments> books_;
  std::array<statemachine::ContentHash, kInstruments> hashes_;
};

}  // namespace annulus::examples
