#include "statemachine/reply_assembly.h"

#include <cstring>

#include "dataplane/defect.h"

namespace annulus::statemachine {

bool ReplyAssembly::Stream::is_of(const consensus::Reply& message,
                                  const consensus::Fragment& cut) const {
  const bool same =
      content_hash == message.content_hash && number == message.stream && bytes == message.bytes;
  return missing != 0 && value == consensus::from_wire(message.value) &&
         (same || DEFECT(kReplyPartsMixed)) && fragment.bytes == cut.bytes &&
         fragment.count == cut.count;
}

ReplyAssembly::Outcome ReplyAssembly::add(const consensus::Reply& message,
                                          const dataplane::Slice& payload,
                                          dataplane::Slice& stream) {
  const consensus::Fragment fragment = consensus::from_wire(message.fragment);
  if (fragment.count > kFragmentsMax) return Outcome::kRefused;
  Stream* place = &streams_[0];
  for (Stream& each : streams_) {
    if (each.is_of(message, fragment)) {
      place = &each;
      break;
    }
    if (each.added < place->added) place = &each;
  }
  if (!place->is_of(message, fragment)) {
    if (!place->memory) place->memory = pool_.allocate();
    if (!place->memory) return Outcome::kRefused;
    place->value = consensus::from_wire(message.value);
    place->content_hash = message.content_hash;
    place->number = message.stream;
    place->fragment = fragment;
    place->bytes = message.bytes;
    place->missing = fragment.count;
    place->have.reset();
  }
  place->added = ++turn_;
  if (place->have[fragment.index]) return Outcome::kPartial;
  place->have.set(fragment.index);
  std::memcpy(place->memory.mutable_data() + fragment.offset(), payload.data(), payload.size());
  if (--place->missing != 0) return Outcome::kPartial;
  stream = std::move(place->memory);
  stream.truncate(place->bytes);
  place->added = 0;
  return Outcome::kComplete;
}

}  // namespace annulus::statemachine
