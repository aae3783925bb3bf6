#include "statemachine/client.h"

#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "dataplane/hash.h"
#include "statemachine/client_impl.h"

namespace annulus::statemachine {

using consensus::Effects;

namespace {

constexpr std::uint32_t kBlockBytes = 1u << 20;

/// Places for values. Half are for those that are ordered again: answered values keep theirs until
/// the oldest is answered, which may be the very one that waits for a place.
std::uint32_t windows(const ClientOptions& options) {
  return 2 * std::bit_ceil(options.batches_in_flight);
}

ClientOptions complete(ClientOptions options) {
  while (options.epoch == 0) {
    CHECK(getrandom(&options.epoch, sizeof options.epoch, 0) == sizeof options.epoch);
  }
  return options;
}

}  // namespace

Client::Impl::Impl(const ClientOptions& options, const consensus::Configuration& configuration,
                   dataplane::Transport& transport, CompletionSink& sink)
    : options_(complete(options)),
      transport_(transport),
      sink_(sink),
      configuration_(configuration),
      arena_(
          static_cast<std::uint32_t>((options_.buffer_bytes + options_.pinned_bytes) / kBlockBytes),
          kBlockBytes),
      port_(transport, {options_.cluster, options_.ring, options_.node, options_.epoch},
            configuration_, options_.value_bytes_max),
      proposer_({.node = options_.node,
                 .epoch = options_.epoch,
                 .partitions = options_.partitions,
                 .window = windows(options_),
                 .frame_bytes_max = transport.frame_bytes_max(),
                 .retransmit_after = options_.retransmit_after,
                 .client_server = options_.client_server},
                configuration_),
      sessions_(options_.sessions_max, options_.session_window_max),
      assembly_(16),
      batches_(windows(options_)) {
  CHECK(options_.batch_commands > 0 && options_.batch_commands <= kCommandsPerBatchMax);
  CHECK(options_.value_bytes_max <= kBlockBytes && options_.buffer_bytes >= 4 * kBlockBytes);
  CHECK(options_.value_bytes_max <=
        consensus::kFragmentsMax * consensus::fragment_bytes(transport.frame_bytes_max()));
  for (Batch& batch : batches_) batch.commands.resize(options_.batch_commands);
  completions_.reserve(kCommandsPerBatchMax);
}

Result<SessionHandle> Client::Impl::open_session(std::uint32_t window, std::uint32_t reply_bytes) {
  if (!std::has_single_bit(window) || window > options_.session_window_max) {
    return Error{"a session window of " + std::to_string(window) +
                 "; choose a power of two up to " + std::to_string(options_.session_window_max) +
                 " (ClientOptions::session_window_max)"};
  }
  if (reply_bytes > 0xffff) {
    return Error{"a session that keeps replies of " + std::to_string(reply_bytes) +
                 " bytes; the most is 65535"};
  }
  std::uint32_t index = 0;
  if (sessions_.open(window, reply_bytes, index) == nullptr) {
    return Error{"all " + std::to_string(sessions_.size()) +
                 " sessions of this client are in use; raise ClientOptions::sessions_max"};
  }
  return SessionHandle{index};
}

SessionState Client::Impl::session_state(SessionHandle handle) const {
  const auto index = static_cast<std::uint32_t>(handle);
  return index < sessions_.size() ? sessions_[index].state : SessionState::kClosed;
}

void Client::Impl::close_session(SessionHandle handle) {
  const auto index = static_cast<std::uint32_t>(handle);
  if (index >= sessions_.size() || sessions_[index].state == SessionState::kClosed) return;
  ClientSession& session = sessions_[index];
  const bool known = session.state == SessionState::kReady;
  session.closing = true;
  if (known) sessions_.ask_for_command(index);  // an opening one is closed once it has its id
  if (session.state != SessionState::kOpening) session.state = SessionState::kClosed;
  if (!known && session.state == SessionState::kClosed) session.id = 0;
  if (!known) sessions_.release_if_done(index);
}

bool Client::Impl::begin_batch(std::size_t in_flight_max, Nanos now) {
  if (proposer_.outstanding() >= in_flight_max) return false;
  if (arena_.room() < options_.value_bytes_max && !arena_.next_block()) return false;
  Batch& batch = filling();
  batch.sequence = proposer_.next_sequence();
  batch.count = 0;
  batch.left = 0;
  batch.reordered = false;
  batch.deadline = kNever;
  used_ = sizeof(BatchHeader);
  fill_began_ = now;
  return true;
}

/// Sees to it that the batch being filled has room for a command of `bytes`, header included.
bool Client::Impl::make_room(std::uint32_t bytes, Nanos now) {
  if (used_ != 0) {
    const bool full = filling().count == options_.batch_commands ||
                      used_ + bytes > options_.value_bytes_max || used_ >= options_.batch_bytes;
    if (!full) return true;
    if (!proposer_.can_propose()) return false;
    propose_batch(now);
  }
  return begin_batch(batches_.size() / 2, now);
}

Client::Impl::Pending* Client::Impl::append(const CommandHeader& header,
                                            std::span<std::byte>& body) {
  Batch& batch = filling();
  std::byte* place = arena_.at() + used_;
  const std::uint32_t bytes = header.bytes;
  std::memcpy(place, &header, sizeof header);
  place += sizeof header;
  if (bytes != 0) std::memset(place + padded(bytes) - 8, 0, 8);
  body = {place, bytes};
  used_ += command_bytes(bytes);
  ++batch.left;
  return &batch.commands[batch.count++];
}

SubmitOutcome Client::Impl::submit(SessionHandle handle, std::uint8_t service, std::uint8_t flags,
                                   std::uint32_t body_bytes, std::uint64_t tag, Nanos now,
                                   std::span<std::byte>& body, Nanos deadline) {
  const auto index = static_cast<std::uint32_t>(handle);
  if (index >= sessions_.size() || sessions_[index].state != SessionState::kReady) {
    return SubmitOutcome::kSessionNotReady;
  }
  if (body_bytes > options_.value_bytes_max - sizeof(BatchHeader) - sizeof(CommandHeader) - 7) {
    return SubmitOutcome::kTooLarge;
  }
  ClientSession& session = sessions_[index];
  if (session.window_full()) {
    counters_[ClientCounter::kSubmitWindowFull].add();
    return SubmitOutcome::kWindowFull;
  }
  if (!make_room(command_bytes(body_bytes), now)) {
    counters_[ClientCounter::kSubmitBusy].add();
    return SubmitOutcome::kBusy;
  }
  const std::uint64_t sequence = session.take_sequence();
  if ((flags & kReadOnly) == 0) session.last_write = now;
  Pending* pending = append({.session = session.id,
                             .sequence = sequence,
                             .bytes = body_bytes,
                             .acked_distance = session.acked_distance(sequence),
                             .service = service,
                             .flags = flags},
                            body);
  const Nanos due = now + (deadline != 0 ? deadline : options_.deadline);
  *pending = {tag, sequence, now, due, index, Kind::kCommand, false};
  Batch& batch = filling();
  batch.deadline = std::min(batch.deadline, due);
  next_deadline_ = std::min(next_deadline_, due);
  ++outstanding_;
  return SubmitOutcome::kAccepted;
}

bool Client::Impl::batch_due(Nanos now) const {
  return used_ != 0 && proposer_.can_propose() &&
         (proposer_.outstanding() == 0 || now - fill_began_ >= options_.batch_wait);
}

void Client::Impl::propose_batch(Nanos now) {
  Batch& batch = filling();
  if (batch.left == 0) {  // everything in it passed its deadline before it could be sent
    used_ = 0;
    return;
  }
  if (effects_.room() < Effects::kPerStepMax) port_.send(now, effects_);
  const dataplane::Endpoint me = transport_.endpoint();
  const std::uint16_t replier = proposer_.next_replier(now);
  // Session tables are the same everywhere, so that a session's id is.
  const bool sessions =
      std::any_of(batch.commands.begin(), batch.commands.begin() + batch.count,
                  [](const Pending& each) { return each.kind != Kind::kCommand; });
  const consensus::PartitionMask mask = sessions ? consensus::kAllPartitions : options_.partitions;
  auto& header = *reinterpret_cast<BatchHeader*>(arena_.at());
  header = {.version = kBatchVersion,
            .count = static_cast<std::uint16_t>(batch.count),
            .proposer = raw(options_.node),
            .epoch = options_.epoch,
            .sequence = batch.sequence,
            .mask = raw(mask),
            .reply_address = me.address,
            .reply_port = me.port,
            .replier = replier};
  batch.bytes = arena_.commit(used_);
  const consensus::Value value{{options_.node, options_.epoch, batch.sequence},
                               dataplane::hash_bytes(batch.bytes.bytes()),
                               mask,
                               used_};
  counters_[ClientCounter::kBatches].add();
  counters_[ClientCounter::kBatchBytes].add(used_);
  counters_[ClientCounter::kCommands].add(batch.count);
  used_ = 0;
  proposer_.propose(value, batch.bytes, replier, now, effects_);
}

dataplane::PollResult Client::Impl::poll(Nanos now, std::uint32_t budget) {
  bool drained = false;
  const std::uint32_t work = receive(now, budget, drained);
  Nanos due = now;
  if (drained) {
    // An answer that is already here must stop a timer, not follow it.
    due = proposer_.poll(now, effects_);
    check_deadlines(now);
    check_unanswered(now);
    keep_sessions_alive(now);
  }
  if (sessions_.any_asked()) send_session_commands(now);
  if (batch_due(now)) propose_batch(now);
  port_.send(now, effects_);
  if (used_ != 0 && proposer_.can_propose()) due = std::min(due, fill_began_ + options_.batch_wait);
  due = std::min({due, next_deadline_, keep_alive_at_});
  return {work, due};
}

Client::Client(const ClientOptions& options, const consensus::Configuration& configuration,
               dataplane::Transport& transport, CompletionSink& sink)
    : impl_(std::make_unique<Impl>(options, configuration, transport, sink)) {}
Client::~Client() = default;

Result<SessionHandle> Client::open_session(std::uint32_t window, std::uint32_t reply_bytes) {
  return impl_->open_session(window, reply_bytes);
}
SessionState Client::session_state(SessionHandle session) const {
  return impl_->session_state(session);
}
void Client::close_session(SessionHandle session, Nanos) { impl_->close_session(session); }
SubmitOutcome Client::submit(SessionHandle session, std::uint8_t service, std::uint8_t flags,
                             std::uint32_t body_bytes, std::uint64_t tag, Nanos now,
                             std::span<std::byte>& body, Nanos deadline) {
  return impl_->submit(session, service, flags, body_bytes, tag, now, body, deadline);
}
dataplane::PollResult Client::poll(Nanos now, std::uint32_t budget) {
  return impl_->poll(now, budget);
}
int Client::wait_descriptor() const { return impl_->transport().wait_descriptor(); }
void Client::touch_memory() { impl_->touch_memory(); }
std::uint32_t Client::outstanding() const { return impl_->outstanding(); }
const dataplane::Counters<ClientCounter>& Client::counters() const { return impl_->counters(); }
const dataplane::Counters<consensus::ProposerCounter>& Client::proposer_counters() const {
  return impl_->proposer().counters();
}
const dataplane::Counters<consensus::PortCounter>& Client::port_counters() const {
  return impl_->port_counters();
}
const dataplane::Histogram& Client::latency() const { return impl_->latency(); }
void Client::add_counters(dataplane::Registry& registry, const std::string& node) {
  registry.add(node, "stage.client", stage_counters());
  registry.add(node, "client", counters());
  registry.add(node, "proposer", proposer_counters());
  registry.add(node, "port", port_counters());
  registry.add(node, "transport", impl_->transport().counters());
  registry.add(node, "command_ns", latency());
}

}  // namespace annulus::statemachine

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(statemachine::ClientCounter::kCount)>
    CounterNames<statemachine::ClientCounter>::names = {"commands",
                                                        "completions",
                                                        "outcome_unknown",
                                                        "batches",
                                                        "batch_bytes",
                                                        "reordered",
                                                        "keep_alives",
                                                        "submit_busy",
                                                        "submit_window_full",
                                                        "reply_streams",
                                                        "reply_drop_unknown",
                                                        "reply_drop_malformed",
                                                        "reply_drop_no_buffer",
                                                        "reply_drop_unwanted",
                                                        "message_drop_unwanted"};

}  // namespace annulus::dataplane
