#include "statemachine/examples/order_book.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "dataplane/hash.h"

namespace annulus::examples {

using namespace statemachine;

namespace {

constexpr std::uint32_t kSegmentBytes = (sizeof(Book) + 4095) / 4096 * 4096;  // whole pages

/// Null unless the body is exactly one command of this service. All replicas must come to the same
/// verdict, so nothing but the bytes decides.
const OrderCommand* decode(std::span<const std::byte> body) {
  if (body.size() != sizeof(OrderCommand)) return nullptr;
  const auto* command = reinterpret_cast<const OrderCommand*>(body.data());
  if (command->instrument >= kInstruments || command->side > 1 || command->reserved != 0) {
    return nullptr;
  }
  const bool empty = command->price == 0 && command->quantity == 0;
  const bool sound[] = {false, command->quantity > 0 && command->price > 0, empty,
                        empty && command->id == 0};  // by op
  return command->op < std::size(sound) && sound[command->op] ? command : nullptr;
}

// The content hash of a book is a sum over its entries, so each entry's hash must tell all there is
// to know about it, its turn included: two books that would match differently must differ here.
std::uint64_t hash_of(const Order& order, std::uint32_t side) {
  return dataplane::hash_bytes(std::as_bytes(std::span{&order, 1}), side);
}
std::uint64_t hash_of_arrival(std::uint64_t next_arrival) {
  return dataplane::hash_bytes(std::as_bytes(std::span{&next_arrival, 1}), 2);
}
ContentHash hash_of(const Book& book) {
  ContentHash hash;
  hash.add(hash_of_arrival(book.next_arrival));
  for (std::uint32_t side = 0; side < 2; ++side) {
    for (const Order& order : book.sides[side].all()) hash.add(hash_of(order, side));
  }
  return hash;
}

/// Whether `a` lies before `b` on a side: the worse price first, and of equal prices the later.
bool before(const Order& a, const Order& b, std::uint32_t side) {
  if (a.price != b.price) return side == 0 ? a.price < b.price : a.price > b.price;
  return a.arrival > b.arrival;
}

bool crosses(const OrderCommand& incoming, const Order& resting) {
  return incoming.side == 0 ? resting.price <= incoming.price : resting.price >= incoming.price;
}

Order* find_order(BookSide& side, std::uint64_t id) {
  for (Order& order : side.all()) {
    if (order.id == id) return &order;
  }
  return nullptr;
}

/// What is in a foreign segment may be anything: it is checked before it is used.
bool sound(const Book& book) {
  if (book.common.used_bytes != sizeof(Book) || book.common.key_class >= kInstruments) return false;
  for (std::uint32_t side = 0; side < 2; ++side) {
    const BookSide& one = book.sides[side];
    if (one.count > kOrdersMax) return false;
    for (std::uint64_t i = 0; i < one.count; ++i) {
      if (one.orders[i].quantity == 0 || one.orders[i].arrival >= book.next_arrival) return false;
      if (i > 0 && !before(one.orders[i - 1], one.orders[i], side)) return false;
    }
  }
  return true;
}

}  // namespace

OrderBookService::OrderBookService(std::uint8_t service)
    : segments_(service, kSegmentBytes, kInstruments) {}

const Book* OrderBookService::find(std::uint32_t instrument) const {
  if (!books_[instrument]) return nullptr;
  return reinterpret_cast<const Book*>(segments_.at(*books_[instrument]));
}

Book& OrderBookService::find_or_create(std::uint32_t instrument) {
  if (!books_[instrument]) {
    // The store has a segment for each instrument. Where it could run out, the service would have
    // to refuse by content alone: replicas may lay out their segments differently.
    books_[instrument] = segments_.create(instrument);
    CHECK(books_[instrument].has_value());
    segments_.header(*books_[instrument]).used_bytes = sizeof(Book);
    hashes_[instrument].add(hash_of_arrival(0));
  }
  return *reinterpret_cast<Book*>(segments_.at(*books_[instrument]));
}

void OrderBookService::footprint(std::span<const std::byte> body, Footprint& footprint) const {
  const OrderCommand* const command = decode(body);
  if (command == nullptr) return;
  const bool write = static_cast<OrderOp>(command->op) != OrderOp::kBest;
  footprint.add({command->instrument, command->instrument, write});
}

void OrderBookService::execute(std::span<const Command> commands, Replies& replies) {
  for (const Command& command : commands) {
    const OrderCommand* const order = decode(command.body);
    if (order == nullptr) {
      replies.done(CommandStatus::kMalformed);
    } else if (static_cast<OrderOp>(order->op) == OrderOp::kPlace) {
      place(*order, replies);
    } else if (static_cast<OrderOp>(order->op) == OrderOp::kCancel) {
      cancel(*order, replies);
    } else {
      best(*order, replies);
    }
  }
}

// Decides everything first, then changes the book: a command that is refused leaves no trace.
void OrderBookService::place(const OrderCommand& command, Replies& replies) {
  Book& book = find_or_create(command.instrument);
  BookSide& own = book.sides[command.side];
  BookSide& resting = book.sides[1 - command.side];
  if (find_order(own, command.id) != nullptr || find_order(resting, command.id) != nullptr) {
    return replies.done(CommandStatus::kRefused);
  }
  std::uint32_t left = command.quantity;
  std::uint32_t fills = 0;
  for (; left > 0 && fills < resting.count; ++fills) {
    const Order& next = resting.orders[resting.count - 1 - fills];
    if (!crosses(command, next)) break;
    left -= std::min(left, next.quantity);
  }
  if (left > 0 && own.count == kOrdersMax) return replies.done(CommandStatus::kNoSpace);
  const auto bytes = static_cast<std::uint32_t>(sizeof(PlaceReply) + fills * sizeof(Fill));
  const std::span<std::byte> room = replies.reserve(bytes);
  if (room.size() < bytes) return replies.done(CommandStatus::kTooLarge);

  ContentHash& hash = hashes_[command.instrument];
  const PlaceReply reply{fills, left};
  std::memcpy(room.data(), &reply, sizeof(reply));
  std::uint32_t quantity = command.quantity;
  for (std::uint32_t i = 0; i < fills; ++i) {
    Order& next = resting.orders[resting.count - 1];
    const std::uint32_t traded = std::min(quantity, next.quantity);
    const Fill fill{next.id, next.price, traded};
    std::memcpy(room.data() + sizeof(PlaceReply) + i * sizeof(Fill), &fill, sizeof(fill));
    quantity -= traded;
    hash.remove(hash_of(next, 1u - command.side));
    next.quantity -= traded;
    if (next.quantity == 0) {
      --resting.count;
    } else {
      hash.add(hash_of(next, 1u - command.side));
    }
  }
  if (left > 0) {
    hash.remove(hash_of_arrival(book.next_arrival));
    const Order order{command.id, book.next_arrival++, command.price, left};
    hash.add(hash_of_arrival(book.next_arrival));
    hash.add(hash_of(order, command.side));
    const auto at = std::lower_bound(
        own.all().begin(), own.all().end(), order,
        [&](const Order& a, const Order& b) { return before(a, b, command.side); });
    std::copy_backward(at, own.all().end(), own.all().end() + 1);
    *at = order;
    ++own.count;
  }
  replies.done(CommandStatus::kOk, bytes);
}

void OrderBookService::cancel(const OrderCommand& command, Replies& replies) {
  if (find(command.instrument) == nullptr) return replies.done(CommandStatus::kNotFound);
  BookSide& side = find_or_create(command.instrument).sides[command.side];
  Order* const order = find_order(side, command.id);
  if (order == nullptr) return replies.done(CommandStatus::kNotFound);
  const u32le quantity = order->quantity;
  std::memcpy(replies.reserve(sizeof(quantity)).data(), &quantity, sizeof(quantity));
  hashes_[command.instrument].remove(hash_of(*order, command.side));
  std::copy(order + 1, side.orders.data() + side.count, order);
  --side.count;
  replies.done(CommandStatus::kOk, sizeof(quantity));
}

void OrderBookService::best(const OrderCommand& command, Replies& replies) const {
  BestReply reply{};
  if (const Book* const book = find(command.instrument)) {
    const auto [bids, asks] = std::pair(book->sides[0].all(), book->sides[1].all());
    if (!bids.empty())
      reply.bid_price = bids.back().price, reply.bid_quantity = bids.back().quantity;
    if (!asks.empty())
      reply.ask_price = asks.back().price, reply.ask_quantity = asks.back().quantity;
  }
  std::memcpy(replies.reserve(sizeof(reply)).data(), &reply, sizeof(reply));
  replies.done(CommandStatus::kOk, sizeof(reply));
}

Status OrderBookService::on_segments_installed() {
  books_.fill(std::nullopt);
  hashes_.fill(ContentHash{});
  for (std::uint32_t i = 0; i < segments_.id_end(); ++i) {
    if (!segments_.live(SegmentId{i})) continue;
    const Book& book = *reinterpret_cast<const Book*>(segments_.at(SegmentId{i}));
    const std::uint32_t instrument = book.common.key_class;
    if (!sound(book) || books_[instrument]) {
      return Error{"the book of instrument " + std::to_string(instrument) +
                   " is damaged or there twice: install the state of another replica"};
    }
    books_[instrument] = SegmentId{i};
    hashes_[instrument] = hash_of(book);
  }
  return {};
}

void OrderBookService::hashes(std::span<ContentHash> per_class) const {
  std::copy(hashes_.begin(), hashes_.end(), per_class.begin());
}

void OrderBookService::recompute_hashes(std::span<ContentHash> per_class) const {
  for (std::uint32_t i = 0; i < kInstruments; ++i) {
    per_class[i] = find(i) == nullptr ? ContentHash{} : hash_of(*find(i));
  }
}

}  // namespace annulus::examples
