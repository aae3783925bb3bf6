// What passes between a replica's network stage and its execution stage, over three rings.
#pragma once

#include <array>
#include <cstdint>

#include "consensus/messages.h"
#include "consensus/types.h"
#include "dataplane/buffer.h"

namespace annulus::consensus {

enum class DeliveryKind : std::uint8_t {
  kDecided,  // the next value of the order that concerns this replica (no-ops are not delivered)
  kQuery,    // a client asks for replies it has not got: answer from the session table only
  kDirect,   // client-server mode: execute in order of arrival; `instance` counts them
  // Of the state (state_exchange.h), and without a value:
  kCopyState,     // copy it, as of `instance` or later
  kInstallState,  // replace it by the copy, which is as of `instance`
};

/// Network stage to worker. In order, without gaps among what concerns the replica.
struct Delivery {
  DeliveryKind kind = DeliveryKind::kDecided;
  Instance instance{};
  Value value;
  dataplane::Slice bytes;  // all of the value, contiguous; its hash was verified
  Nanos received = 0;      // when its first frame arrived
};

/// Worker to network stage: one frame to send to a client.
struct ReplyFrame {
  Endpoint to;
  Reply message;
  dataplane::Slice payload;
};

/// Worker to network stage: a value of the replica's own (it expires idle sessions), in one
/// fragment, to be sent as Submit to whom the node holds for the coordinator. The worker has at
/// most one undecided, and repeats it until it is delivered: a node without a coordinator drops it,
/// and no SubmitAck needs to be read. In client-server mode the node delivers `payload` back as
/// kDirect.
struct Proposal {
  Submit message;
  dataplane::Slice payload;
};

}  // namespace annulus::consensus
