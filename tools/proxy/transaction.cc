#include "tools/proxy/transaction.h"

#include <cstring>
#include <vector>

#include "tools/proxy/reply.h"

namespace annulus::proxy {
namespace {

using statemachine::CommandStatus;

using statemachine::AtomicHead;
using statemachine::AtomicPart;

/// How one queued command is answered; after a local one's note, its arguments: length and bytes.
struct Note {
  std::uint8_t local;
  std::uint8_t shape;
  u16le replies;  // parts of the atomic command that it stands for
  u16le arguments;
};

std::string_view view_of(const void* from, std::size_t bytes) {
  return {static_cast<const char*>(from), bytes};
}

/// Walks bytes that this file wrote.
class Cursor {
 public:
  explicit Cursor(std::span<const char> bytes) : rest_(bytes.data(), bytes.size()) {}
  bool done() const { return rest_.empty(); }
  std::string_view take(std::size_t bytes) {
    CHECK(bytes <= rest_.size());
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }
  template <typename T>
  T take() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

 private:
  std::string_view rest_;
};

/// The next reply of the atomic command's answer; false when there is none.
bool next_reply(std::span<const std::byte>& rest, CommandStatus& status,
                std::span<const std::byte>& reply) {
  statemachine::ReplyEntry entry;
  if (rest.size() < sizeof(entry)) return false;
  std::memcpy(&entry, rest.data(), sizeof(entry));
  rest = rest.subspan(sizeof(entry));
  if (rest.size() < entry.bytes) return false;
  status = static_cast<CommandStatus>(entry.status);
  reply = rest.first(entry.bytes);
  rest = rest.subspan(std::min<std::size_t>(rest.size(), statemachine::padded(entry.bytes)));
  return true;
}

/// The next `count` replies as one: the status of the first that went wrong, the last one's bytes.
bool next_replies(std::span<const std::byte>& rest, std::uint32_t count, CommandStatus& status,
                  std::span<const std::byte>& reply) {
  status = CommandStatus::kOk;
  for (std::uint32_t i = 0; i < count; ++i) {
    CommandStatus one{};
    if (!next_reply(rest, one, reply)) return false;
    if (status == CommandStatus::kOk) status = one;
  }
  return true;
}

std::uint32_t count_notes(std::span<const char> flat) {
  std::uint32_t count = 0;
  for (Cursor notes(flat); !notes.done(); ++count) {
    const Note note = notes.take<Note>();
    for (std::uint32_t i = 0; i < note.arguments; ++i) notes.take(notes.take<u32le>());
  }
  return count;
}

}  // namespace

bool Transaction::add(ChunkPool& pool, const Request& request, std::span<std::byte> scratch,
                      std::uint32_t body_bytes_max) {
  const std::uint32_t bytes = request.body_bytes();
  // An atomic command does not nest: the parts of one become parts of this.
  const bool compound = request.service() == statemachine::kSystemService;
  const std::uint32_t padding = statemachine::padded(bytes) - bytes;
  const std::uint64_t total =
      std::uint64_t{body_bytes()} + bytes + padding + (compound ? 0 : sizeof(AtomicPart));
  if (bytes > scratch.size() || total > body_bytes_max) return false;
  if (notes_.bytes() + sizeof(Note) > kNotesBytesMax) return false;
  request.encode(scratch.first(bytes));
  Note note{};
  note.shape = static_cast<std::uint8_t>(request.shape());
  note.replies = 1;
  bool fits = true;
  if (compound) {
    AtomicHead head{};
    std::memcpy(&head, scratch.data(), sizeof(head));
    note.replies = static_cast<std::uint16_t>(head.count);
    fits = entries_.append(pool, view_of(scratch.data() + sizeof(head), bytes - sizeof(head)));
  } else {
    AtomicPart part{};
    part.service = request.service();
    part.bytes = bytes;
    fits = entries_.append(pool, view_of(&part, sizeof(part))) &&
           entries_.append(pool, view_of(scratch.data(), bytes));
  }
  constexpr char kZeros[8] = {};
  ++count_;
  replicated_ += note.replies;
  writes_ = writes_ || (request.flags() & statemachine::kReadOnly) == 0;
  return fits && entries_.append(pool, {kZeros, padding}) &&
         notes_.append(pool, view_of(&note, sizeof(note)));
}

bool Transaction::add_local(ChunkPool& pool, std::span<const std::string_view> arguments) {
  std::uint64_t total = notes_.bytes() + sizeof(Note);
  for (std::string_view argument : arguments) total += argument.size() + sizeof(u32le);
  if (total > kNotesBytesMax) return false;
  Note note{};
  note.local = 1;
  note.arguments = static_cast<std::uint16_t>(arguments.size());
  bool fits = notes_.append(pool, view_of(&note, sizeof(note)));
  for (std::string_view argument : arguments) {
    const u32le bytes = static_cast<std::uint32_t>(argument.size());
    fits = fits && notes_.append(pool, view_of(&bytes, sizeof(bytes))) &&
           notes_.append(pool, argument);
  }
  ++count_;
  return fits;
}

std::uint32_t Transaction::body_bytes() const {
  return static_cast<std::uint32_t>(sizeof(AtomicHead) + entries_.bytes());
}

void Transaction::encode(std::span<std::byte> body) const {
  AtomicHead head{};
  head.kind = static_cast<std::uint8_t>(statemachine::SystemCommand::kAtomic);
  head.count = replicated_;
  std::memcpy(body.data(), &head, sizeof(head));
  entries_.copy_to(reinterpret_cast<char*>(body.data() + sizeof(head)));
}

ByteChain Transaction::take_notes() {
  const ByteChain notes = notes_;
  notes_ = ByteChain{};
  return notes;
}

void Transaction::clear(ChunkPool& pool) {
  entries_.clear(pool);
  notes_.clear(pool);
  *this = Transaction{};
}

void render_transaction(std::span<const char> flat, CommandStatus status,
                        std::span<const std::byte> reply, LocalExecutor& local,
                        RespWriter& writer) {
  if (status != CommandStatus::kOk) {
    writer.error(error_text(status));
    return;
  }
  writer.array(count_notes(flat));
  std::vector<std::string_view> arguments;
  for (Cursor notes(flat); !notes.done();) {
    const Note note = notes.take<Note>();
    arguments.clear();
    for (std::uint32_t i = 0; i < note.arguments; ++i) {
      arguments.push_back(notes.take(notes.take<u32le>()));
    }
    CommandStatus one{};
    std::span<const std::byte> answer;
    if (note.local != 0) {
      local.execute(arguments, writer);
    } else if (next_replies(reply, note.replies, one, answer)) {
      render_reply(static_cast<ReplyShape>(note.shape), one, answer, writer);
    } else {
      writer.error(error_text(CommandStatus::kReplyDropped));
    }
  }
}

}  // namespace annulus::proxy
