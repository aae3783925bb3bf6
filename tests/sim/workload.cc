#include "tests/sim/workload.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::sim {

using statemachine::btree::BtreeOp;
using statemachine::btree::BtreeRequest;
using statemachine::kv::KvOp;
using statemachine::kv::KvRequest;

namespace {

Draw to_draw(const KvRequest& request) {
  Draw draw{kKvService, statemachine::kv::read_only(request.op), {}};
  draw.body.resize(statemachine::kv::body_bytes(request));
  statemachine::kv::encode(request, std::as_writable_bytes(std::span{draw.body}));
  return draw;
}
Draw to_draw(const BtreeRequest& request) {
  Draw draw{kBtreeService, statemachine::btree::read_only(request.op), {}};
  draw.body.resize(statemachine::btree::body_bytes(request));
  statemachine::btree::encode(request, std::as_writable_bytes(std::span{draw.body}));
  return draw;
}

}  // namespace

std::string Workload::key(const KeySpace& space) {
  const std::uint64_t number = rng_.below(options_.kv_keys);
  std::string name = space.letter + std::to_string(number);
  // Some keys are long, some exactly 8 bytes: the services treat these apart.
  if (number % 5 == 1) name.resize(8, '_');
  if (number % 7 == 2) name.resize(60 + number, '+');
  return name;
}

std::string Workload::counter(const KeySpace& space) {
  return std::string("#") + space.letter + std::to_string(rng_.below(4));
}

std::string Workload::value(const std::string& writer, std::uint32_t bytes_max) {
  std::string text = writer;
  if (rng_.chance(options_.large_ppm)) {
    text.resize(
        static_cast<std::size_t>(rng_.between(1'000, std::max(1'001u, options_.value_bytes_max))),
        '=');
  } else if (rng_.coin()) {
    text.resize(std::max<std::size_t>(text.size(), rng_.below(100)), '-');
  }
  if (text.size() > bytes_max) text.resize(bytes_max);
  return text;
}

Draw Workload::draw(const KeySpace& space, const std::string& writer) {
  if (rng_.chance(options_.atomic_ppm)) return draw_atomic(&space, 1, writer);
  if (rng_.chance(options_.btree_ppm)) return draw_btree(space, writer);
  if (rng_.chance(100'000)) return draw_kv_items(&space, 1, writer, rng_.coin());
  return rng_.chance(options_.read_ppm) ? draw_kv_read(space) : draw_kv(space, writer);
}

Draw Workload::draw_across(const std::string& writer) {
  if (rng_.chance(150'000)) return draw_atomic(kPartitionKeys, 2, writer);
  if (rng_.chance(300'000)) {
    BtreeRequest request{.op = rng_.coin() ? BtreeOp::kRange : BtreeOp::kCount};
    request.key = kPartitionKeys[0].btree_first + rng_.below(kBtreeKeys);
    request.last = kPartitionKeys[1].btree_first + rng_.below(kBtreeKeys);
    return to_draw(request);
  }
  return draw_kv_items(kPartitionKeys, 2, writer, rng_.coin());
}

Draw Workload::draw_kv_read(const KeySpace& space) {
  const std::string name = rng_.chance(100'000) ? counter(space) : key(space);
  KvRequest request{.op = KvOp::kRead, .key = as_bytes(name)};
  if (rng_.chance(150'000)) {
    request.op = KvOp::kReadRange;
    request.first = rng_.between(-20, 20);
    request.last = rng_.between(-20, 40);
  } else if (rng_.chance(100'000)) {
    request.op = KvOp::kLength;
  }
  return to_draw(request);
}

Draw Workload::draw_kv(const KeySpace& space, const std::string& writer) {
  const std::uint64_t pick = rng_.below(100);
  const bool counts = pick >= 75 && pick < 88;
  const std::string name = counts ? counter(space) : key(space);
  const std::string text = value(writer, statemachine::kv::kValueBytesMax);
  const std::string expected = rng_.coin() ? writer : std::string("no such value");
  KvRequest request{.op = KvOp::kPut, .key = as_bytes(name)};
  if (pick < 45) {
    request.value = as_bytes(text);
    if (rng_.chance(300'000)) request.flags |= statemachine::kv::kReturnOld;
    if (rng_.chance(150'000))
      request.flags |= statemachine::kv::kNotExists;
    else if (rng_.chance(150'000))
      request.flags |= statemachine::kv::kExists;
  } else if (pick < 55) {
    request.op = KvOp::kRemove;
  } else if (pick < 60) {
    request.op = KvOp::kReadAndRemove;
  } else if (pick < 75) {
    request.op = KvOp::kAppend;
    request.value = as_bytes(writer);
  } else if (counts) {
    request.op = KvOp::kIncrement;
    request.first = rng_.chance(30'000) ? INT64_MAX : rng_.between(-5, 9);
  } else if (pick < 95) {
    request.op = KvOp::kCompareAndSet;
    request.value = as_bytes(text);
    request.expected = as_bytes(expected);
  } else {
    request.op = KvOp::kWriteRange;
    request.first = rng_.between(0, 50);
    request.value = as_bytes(writer);
  }
  return to_draw(request);
}

Draw Workload::draw_kv_items(const KeySpace* spaces, std::size_t count, const std::string& writer,
                             bool read) {
  std::vector<std::string> texts;
  const std::uint64_t items = 1 + rng_.below(5);
  KvRequest request;
  if (read) {
    request.op = rng_.chance(700'000) ? KvOp::kReadMany : KvOp::kExist;
  } else {
    request.op = rng_.chance(800'000) ? KvOp::kPutMany : KvOp::kRemoveMany;
    // Over both partitions writes are blind: a replica of one cannot tell what the other holds.
    if (request.op == KvOp::kPutMany && count == 1 && rng_.chance(150'000)) {
      request.flags = statemachine::kv::kNotExists;
    }
  }
  for (std::uint64_t i = 0; i < items; ++i) {
    texts.push_back(key(spaces[(i + (rng_.coin() ? 1 : 0)) % count]));
    if (request.op == KvOp::kPutMany) texts.push_back(writer + "." + std::to_string(i));
  }
  std::vector<Bytes> views;
  for (const std::string& one : texts) views.push_back(as_bytes(one));
  request.items = views;
  return to_draw(request);
}

Draw Workload::draw_btree(const KeySpace& space, const std::string& writer) {
  const std::uint64_t pick = rng_.below(100);
  BtreeRequest request{.op = BtreeOp::kInsert, .key = space.btree_first + rng_.below(kBtreeKeys)};
  const std::string text = value(writer, statemachine::btree::kValueBytesMax);
  if (pick < 40) {
    request.value = as_bytes(text);
  } else if (pick < 55) {
    request.op = BtreeOp::kDelete;
  } else if (pick < 70) {
    request.op = BtreeOp::kRead;
  } else {
    request.op = pick < 92 ? BtreeOp::kRange : BtreeOp::kCount;
    request.last = std::min(space.btree_first + kBtreeKeys - 1, request.key + rng_.below(60));
    if (rng_.coin()) request.limit = static_cast<std::uint32_t>(1 + rng_.below(20));
    if (rng_.chance(200'000))
      request.bytes_limit = static_cast<std::uint32_t>(20 + rng_.below(500));
    if (request.op == BtreeOp::kCount) request.limit = request.bytes_limit = 0;
  }
  return to_draw(request);
}

Draw Workload::draw_atomic(const KeySpace* spaces, std::size_t count, const std::string& writer) {
  using statemachine::AtomicHead;
  using statemachine::AtomicPart;
  AtomicHead head{};
  head.kind = static_cast<std::uint8_t>(statemachine::SystemCommand::kAtomic);
  const auto parts = static_cast<std::uint32_t>(1 + rng_.below(4));
  head.count = parts;
  Draw group{statemachine::kSystemService, true, std::string(sizeof head, '\0')};
  std::memcpy(group.body.data(), &head, sizeof head);
  for (std::uint32_t i = 0; i < parts; ++i) {
    const KeySpace& space = spaces[rng_.below(count)];
    const Draw one = rng_.coin()   ? draw_btree(space, writer)
                     : rng_.coin() ? draw_kv_read(space)
                                   : draw_kv(space, writer);
    AtomicPart part{};
    part.service = one.service;
    part.bytes = static_cast<std::uint32_t>(one.body.size());
    group.body.append(reinterpret_cast<const char*>(&part), sizeof part);
    group.body += one.body;
    group.body.resize((group.body.size() + 7) & ~std::size_t{7});
    group.read_only &= one.read_only;
  }
  return group;
}

}  // namespace annulus::sim
