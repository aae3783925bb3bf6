#include "statemachine/reply_writer.h"

#include <algorithm>
#include <cstring>

#include "dataplane/hash.h"

namespace annulus::statemachine {

using consensus::kReplyStreamBytesMax;
using dataplane::Slice;

static_assert(kReplyStreamBytesMax == kReplyBytesMax + sizeof(ReplyEntry));

ReplyWriter::ReplyWriter(const ReplyWriterOptions& options,
                         dataplane::SpscRing<consensus::ReplyFrame>& out)
    : options_(options),
      fragment_bytes_(consensus::fragment_bytes(options.frame_bytes_max)),
      out_(out),
      arena_(options.blocks, options.block_bytes),
      kept_(options.blocks_kept),
      // Every block may hold its own streams: of one value at most one a command.
      pending_(kCommandsPerBatchMax) {
  CHECK(options.block_bytes >= kReplyStreamBytesMax && options.blocks > options.blocks_kept + 1);
  CHECK(options.blocks_kept > 0);
  CHECK(consensus::cut(kReplyStreamBytesMax, fragment_bytes_, 0).count < 0xffff);
}

void ReplyWriter::begin(const consensus::ValueId& value, const consensus::Endpoint& to) {
  value_ = value;
  to_ = to;
  written_ = 0;
  number_ = 0;
  last_ = {};
}

bool ReplyWriter::add(std::uint32_t command, CommandStatus status,
                      std::span<const std::byte> reply) {
  const auto bytes = static_cast<std::uint32_t>(reply.size());
  const std::uint32_t needed = static_cast<std::uint32_t>(sizeof(ReplyEntry)) + padded(bytes);
  if (written_ + needed > std::min(arena_.room(), kReplyStreamBytesMax)) {
    close_stream();
    if (needed > arena_.room()) {
      if (!arena_.next_block()) return false;
      kept_[arena_.generation() % kept_.size()] = arena_.block();
    }
  }
  std::byte* place = arena_.at() + written_;
  const ReplyEntry entry{static_cast<std::uint16_t>(command), static_cast<std::uint8_t>(status), 0,
                         bytes};
  std::memcpy(place, &entry, sizeof entry);
  if (bytes != 0) {
    std::memset(place + needed - 8, 0, 8);
    std::memcpy(place + sizeof entry, reply.data(), bytes);
  }
  written_ += needed;
  return true;
}

void ReplyWriter::close_stream() {
  if (written_ == 0) return;
  Slice stream = arena_.commit(written_);
  last_ = {arena_.generation(), stream.offset() - arena_.block().offset(), written_};
  queue(std::move(stream), value_, to_, number_);
  ++number_;
  written_ = 0;
}

ReplyWriter::Kept ReplyWriter::end() {
  close_stream();
  return number_ == 1 ? last_ : Kept{};
}

bool ReplyWriter::resend(const Kept& kept, const consensus::ValueId& value,
                         const consensus::Endpoint& to) {
  const std::uint32_t age = arena_.generation() - kept.generation;
  if (kept.bytes == 0 || age >= kept_.size()) return false;
  const Slice& block = kept_[kept.generation % kept_.size()];
  queue(block.part(kept.offset, kept.bytes), value, to, 0);
  return true;
}

void ReplyWriter::queue(Slice stream, const consensus::ValueId& value,
                        const consensus::Endpoint& to, std::uint16_t number) {
  CHECK(pending_count_ < pending_.size());
  Pending& pending = pending_[(pending_first_ + pending_count_++) % pending_.size()];
  consensus::Reply& message = pending.frame.message;
  message.value = consensus::to_wire(value);
  message.content_hash =
      stream.size() > fragment_bytes_ ? dataplane::hash_bytes(stream.bytes()) : 0;
  message.replica = options_.replica;
  message.stream = number;
  message.bytes = stream.size();
  pending.frame.to = to;
  pending.frame.payload = std::move(stream);
  pending.next = 0;
  ++streams_;
}

bool ReplyWriter::flush() {
  while (pending_count_ > 0) {
    if (!push_fragments(pending_[pending_first_])) return false;
    pending_first_ = (pending_first_ + 1) % static_cast<std::uint32_t>(pending_.size());
    --pending_count_;
  }
  return true;
}

bool ReplyWriter::push_fragments(Pending& pending) {
  const std::uint32_t bytes = pending.frame.message.bytes;
  const std::uint32_t count = consensus::cut(bytes, fragment_bytes_, 0).count;
  for (; pending.next < count; ++pending.next) {
    const consensus::Fragment fragment = consensus::cut(bytes, fragment_bytes_, pending.next);
    consensus::ReplyFrame frame;
    frame.to = pending.frame.to;
    frame.message = pending.frame.message;
    frame.message.fragment = consensus::to_wire(fragment);
    const std::uint32_t offset = fragment.offset();
    frame.payload =
        count == 1 ? std::move(pending.frame.payload)
                   : pending.frame.payload.part(offset, std::min(fragment.bytes, bytes - offset));
    if (!out_.push(std::move(frame))) {
      if (count == 1) pending.frame.payload = std::move(frame.payload);
      return false;
    }
    ++frames_;
  }
  pending.frame.payload.reset();
  return true;
}

}  // namespace annulus::statemachine
