#include "statemachine/btree/btree.h"

#include <algorithm>
#include <cstring>

namespace annulus::statemachine::btree {

namespace {

/// Fills all of `request` from a body by anyone: kOk, kMalformed or kTooLarge.
CommandStatus decode(Bytes body, BtreeRequest& request) {
  if (body.size() < sizeof(BtreeHead)) return CommandStatus::kMalformed;
  const auto& head = *reinterpret_cast<const BtreeHead*>(body.data());
  const Bytes rest = body.subspan(sizeof(BtreeHead));
  request.op = static_cast<BtreeOp>(head.op);
  request.key = head.key;
  request.last = 0;
  request.limit = head.limit;
  request.bytes_limit = 0;
  request.value = {};
  if (head.reserved != 0) return CommandStatus::kMalformed;
  switch (request.op) {
    case BtreeOp::kInsert:
      if (rest.size() != head.value_bytes || head.limit != 0) return CommandStatus::kMalformed;
      if (rest.size() > kValueBytesMax) return CommandStatus::kTooLarge;
      request.value = rest;
      return CommandStatus::kOk;
    case BtreeOp::kDelete:
    case BtreeOp::kRead:
      return rest.empty() && head.value_bytes == 0 && head.limit == 0 ? CommandStatus::kOk
                                                                      : CommandStatus::kMalformed;
    case BtreeOp::kRange:
    case BtreeOp::kCount: {
      if (rest.size() != sizeof(BtreeRange) || head.value_bytes != 0) {
        return CommandStatus::kMalformed;
      }
      const auto& range = *reinterpret_cast<const BtreeRange*>(rest.data());
      request.last = range.last;
      request.bytes_limit = range.bytes_limit;
      const bool limited = request.limit != 0 || request.bytes_limit != 0;
      if (range.reserved != 0 || (request.op == BtreeOp::kCount && limited)) {
        return CommandStatus::kMalformed;
      }
      return CommandStatus::kOk;
    }
    case BtreeOp::kClear: {
      const bool bare = head.value_bytes == 0 && head.limit == 0 && head.key == 0;
      return bare && rest.empty() ? CommandStatus::kOk : CommandStatus::kMalformed;
    }
  }
  return CommandStatus::kMalformed;
}

void answer(Replies& replies, Bytes bytes) {
  const std::span<std::byte> room = replies.reserve(static_cast<std::uint32_t>(bytes.size()));
  if (room.size() < bytes.size()) return replies.done(CommandStatus::kTooLarge);
  if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
  replies.done(CommandStatus::kOk, static_cast<std::uint32_t>(bytes.size()));
}

void answer_integer(Replies& replies, std::uint64_t value) {
  const u64le wire = value;
  answer(replies, std::as_bytes(std::span{&wire, 1}));
}

/// Writes entries behind each other into a reply, as many as fit.
class RangeWriter {
 public:
  RangeWriter(std::span<std::byte> room, std::uint32_t entries_max)
      : begin_(room.data()),
        at_(room.data() + sizeof(RangeHead)),
        end_(room.data() + room.size()),
        left_(entries_max) {}

  /// False when a limit ends the reply before all entries [first, last) of the leaf.
  bool add(const BtreeSegment& segment, const Leaf& leaf, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t i = first; i < last; ++i) {
      const std::uint16_t size = leaf.sizes[i];
      if (left_ == 0 || static_cast<std::size_t>(end_ - at_) < sizeof(RangeEntry) + size) {
        more_ = true;
        return false;
      }
      std::memcpy(at_, &leaf.keys[i], sizeof(leaf.keys[i]));
      std::memcpy(at_ + 8, &size, sizeof(size));
      if (size == 8) {
        std::memcpy(at_ + sizeof(RangeEntry), &leaf.words[i], 8);
      } else if (size > 0) {
        std::memcpy(at_ + sizeof(RangeEntry), segment.value(leaf, i).data(), size);
      }
      at_ += sizeof(RangeEntry) + size;
      --left_;
      ++count_;
    }
    return true;
  }
  /// Writes the head; returns the reply's bytes.
  std::uint32_t finish() {
    RangeHead head{};
    head.count = count_;
    head.more = more_ ? 1 : 0;
    std::memcpy(begin_, &head, sizeof(head));
    return static_cast<std::uint32_t>(at_ - begin_);
  }

 private:
  std::byte* const begin_;
  std::byte* at_;
  std::byte* const end_;
  std::uint32_t left_;
  std::uint32_t count_ = 0;
  bool more_ = false;
};

}  // namespace

void BtreeService::footprint(std::span<const std::byte> body, Footprint& footprint) const {
  BtreeRequest request;
  if (decode(body, request) != CommandStatus::kOk) return;
  if (request.op == BtreeOp::kClear) return footprint.add({0, kLastKey, true});
  const bool wide = request.op == BtreeOp::kRange || request.op == BtreeOp::kCount;
  const std::uint64_t last = wide ? std::max(request.key, request.last) : request.key;
  footprint.add({request.key, last, !read_only(request.op)});
}

void BtreeService::execute(std::span<const Command> commands, Replies& replies) {
  for (std::size_t begin = 0; begin < commands.size(); begin += kStaged) {
    const std::size_t size = std::min<std::size_t>(commands.size() - begin, kStaged);
    const std::span<Staged> all{staged_.data(), size};
    // Level by level over all commands, so that each level's cache misses overlap. What cannot be
    // read has key 0 or any other: looking it up does no harm.
    for (std::size_t i = 0; i < size; ++i) {
      Staged& staged = all[i];
      staged.request.key = 0;
      staged.status = decode(commands[begin + i].body, staged.request);
      staged.cursor.key = staged.request.key;
      tree_.seek_segment(staged.cursor);
    }
    for (Staged& staged : all) tree_.prefetch_root(staged.cursor);
    for (Staged& staged : all) tree_.seek_group(staged.cursor);
    for (Staged& staged : all) tree_.seek_leaf(staged.cursor);
    for (Staged& staged : all) tree_.prefetch_leaf(staged.cursor);
    for (Staged& staged : all) {
      if (staged.status != CommandStatus::kOk) {
        replies.done(staged.status);
        continue;
      }
      // A command before it may have moved the key to another leaf or segment.
      if (!tree_.current(staged.cursor)) staged.cursor = tree_.locate(staged.request.key);
      run(staged, replies);
    }
  }
}

void BtreeService::run(const Staged& staged, Replies& replies) {
  const BtreeRequest& request = staged.request;
  switch (request.op) {
    case BtreeOp::kInsert: {
      const BtreeTree::Stored stored = tree_.store(staged.cursor, request.value);
      if (stored == BtreeTree::Stored::kNoSpace) return replies.done(CommandStatus::kNoSpace);
      return answer_integer(replies, stored == BtreeTree::Stored::kNew ? 1 : 0);
    }
    case BtreeOp::kDelete: {
      const bool removed = tree_.remove(staged.cursor);
      return replies.done(removed ? CommandStatus::kOk : CommandStatus::kNotFound);
    }
    case BtreeOp::kRead: {
      Bytes value;
      if (!tree_.find(staged.cursor, value)) return replies.done(CommandStatus::kNotFound);
      return answer(replies, value);
    }
    case BtreeOp::kRange:
      return range(staged, replies);
    case BtreeOp::kCount: {
      const bool empty = request.key > request.last;
      return answer_integer(replies, empty ? 0 : tree_.count(staged.cursor, request.last));
    }
    case BtreeOp::kClear:
      tree_.clear();
      return replies.done(CommandStatus::kOk);
  }
}

void BtreeService::range(const Staged& staged, Replies& replies) {
  const BtreeRequest& request = staged.request;
  const std::uint32_t most = replies.reply_bytes_max();
  const std::uint32_t wanted =
      request.bytes_limit == 0 ? most : std::max(request.bytes_limit, kRangeBytesLeast);
  const std::uint32_t bytes = std::min(wanted, most);
  RangeWriter writer(replies.reserve(bytes), request.limit == 0 ? ~0u : request.limit);
  if (request.key <= request.last) {
    tree_.scan(staged.cursor, request.last,
               [&](const BtreeSegment& segment, const Leaf& leaf, std::uint32_t first,
                   std::uint32_t last) { return writer.add(segment, leaf, first, last); });
  }
  replies.done(CommandStatus::kOk, writer.finish());
}

}  // namespace annulus::statemachine::btree
