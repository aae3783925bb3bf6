#include "tests/sim/transfer_watch.h"

#include <utility>

#include "consensus/messages.h"

namespace annulus::sim {

using consensus::MessageType;

void TransferWatch::on_deliver(Nanos now, std::uint32_t receiver, std::span<const std::byte> head) {
  const auto& header = *reinterpret_cast<const dataplane::FrameHeader*>(head.data());
  if (header.version != dataplane::kWireVersion) return;
  const std::byte* message = head.data() + sizeof header;
  if (header.type == static_cast<std::uint8_t>(MessageType::kStateManifest)) {
    const auto& offer = *reinterpret_cast<const consensus::StateManifest*>(message);
    Transfer& transfer = transfers_[receiver];
    if (offer.chunk_bytes == 0 || offer.image == transfer.image) return;
    transfer = {offer.image, (offer.bytes - 1) / offer.chunk_bytes + 1, 0};
  }
  if (header.type != static_cast<std::uint8_t>(MessageType::kStateChunk)) return;
  Transfer& transfer = transfers_[receiver];
  if (reinterpret_cast<const consensus::StateChunk*>(message)->image != transfer.image) return;
  ++transfer.here;
  if (!armed_ || now >= armed_->end || transfer.here >= transfer.pieces ||
      transfer.here * 1'000 < transfer.pieces * armed_->amount) {
    return;
  }
  const Fault fault = *std::exchange(armed_, std::nullopt);
  midway_(fault, consensus::NodeId{header.sender.get()}, receiver);
}

}  // namespace annulus::sim
