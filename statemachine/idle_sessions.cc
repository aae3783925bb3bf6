#include "statemachine/idle_sessions.h"

#include <algorithm>

#include "dataplane/hash.h"

namespace annulus::statemachine {
namespace {

constexpr Nanos kRepeat = 500 * kMillisecond;
constexpr std::uint32_t kExpireBytes = command_bytes(sizeof(CloseSession));

}  // namespace

static_assert(sizeof(BatchHeader) + 16 * kExpireBytes <= 1'100, "must fit the smallest frame");

IdleSessions::IdleSessions(const IdleSessionsOptions& options, const SessionTable& table,
                           dataplane::SpscRing<consensus::Proposal>& out)
    : options_(options),
      table_(table),
      out_(out),
      // One undecided, and older ones that the network stage still refers to; in-process its peers,
      // too, which keep what was decided. Address space until used.
      pool_(4'096, sizeof(BatchHeader) + kExpiriesMax * kExpireBytes),
      seen_(table.slots()) {
  idle_.reserve(kExpiriesMax);
}

Nanos IdleSessions::poll(Nanos now) {
  if (now >= scan_at_) scan(now);
  if (proposal_ && now >= propose_at_) {
    consensus::Submit submit{};
    submit.value = consensus::to_wire(value_);
    submit.fragment = consensus::to_wire(consensus::Fragment{0, 1, value_.bytes});
    submit.oldest = value_.id.sequence;
    out_.push({submit, proposal_});  // a full ring means that it is on its way anyway
    propose_at_ = now + kRepeat;
  }
  return std::min(scan_at_, proposal_ ? propose_at_ : kNever);
}

void IdleSessions::scan(Nanos now) {
  const std::uint32_t end = std::min(next_slot_ + kSlotsPerPoll, table_.slots());
  for (; next_slot_ < end; ++next_slot_) {
    const SessionRecord* session = table_.in_slot(next_slot_);
    if (session == nullptr) continue;
    Seen& seen = seen_[next_slot_];
    if (seen.id != session->id || seen.activity != session->last_activity) {
      seen = {session->id, session->last_activity, now};
    } else if (now - seen.since >= options_.idle_after) {
      waiting_ = proposal_ || idle_.size() == kExpiriesMax;
      if (waiting_) break;
      idle_.push_back(session);
    }
  }
  // A round over all places takes about an eighth of the time that makes a session idle.
  const Nanos rounds = (table_.slots() + kSlotsPerPoll - 1) / kSlotsPerPoll;
  scan_at_ = now + options_.idle_after / 8 / rounds;
  if (next_slot_ >= table_.slots()) next_slot_ = 0;
  if (!idle_.empty()) propose(now);
  idle_.clear();
}

void IdleSessions::propose(Nanos now) {
  proposal_ = pool_.allocate();
  if (!proposal_) return;
  ++sequence_;
  ++proposals_;
  const std::uint32_t bytes =
      static_cast<std::uint32_t>(sizeof(BatchHeader) + idle_.size() * kExpireBytes);
  proposal_.truncate(bytes);
  std::byte* at = proposal_.mutable_data();
  *reinterpret_cast<BatchHeader*>(at) = {.version = kBatchVersion,
                                         .count = static_cast<std::uint16_t>(idle_.size()),
                                         .proposer = raw(options_.node),
                                         .epoch = options_.epoch,
                                         .sequence = sequence_,
                                         .mask = raw(consensus::kAllPartitions),
                                         .reply_address = 0,
                                         .reply_port = 0,
                                         .replier = kNoReplica};
  at += sizeof(BatchHeader);
  for (const SessionRecord* session : idle_) {
    auto& header = *reinterpret_cast<CommandHeader*>(at);
    header = CommandHeader{};
    header.bytes = sizeof(CloseSession);
    header.service = kSystemService;
    auto& body = *reinterpret_cast<CloseSession*>(at + sizeof(CommandHeader));
    body = CloseSession{};
    body.head.kind = static_cast<std::uint8_t>(SystemCommand::kExpireSession);
    body.session = session->id;
    body.last_activity = session->last_activity;
    at += kExpireBytes;
  }
  value_ = {{options_.node, options_.epoch, sequence_},
            dataplane::hash_bytes(proposal_.bytes()),
            consensus::kAllPartitions,
            bytes};
  propose_at_ = now;
}

}  // namespace annulus::statemachine
