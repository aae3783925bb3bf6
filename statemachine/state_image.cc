#include "statemachine/state_image.h"

#include <cstring>
#include <utility>

#include "dataplane/defect.h"
#include "dataplane/hash.h"

namespace annulus::statemachine {
namespace {

/// See ImageSegment::hash. The bytes follow the head, padded.
std::uint64_t hash_of(const ImageSegment& head, std::uint64_t before) {
  const auto* start = reinterpret_cast<const std::byte*>(&head);
  const std::uint64_t seed = dataplane::hash_bytes({start, offsetof(ImageSegment, hash)}, before);
  return dataplane::hash_bytes({start + sizeof head, padded(head.bytes)}, seed);
}

}  // namespace

std::uint64_t state_bytes_max(std::uint32_t segment_bytes, std::uint32_t segments_max) {
  return (std::uint64_t{segment_bytes} + sizeof(ImageSegment)) * segments_max;
}

SegmentStore* StateParts::store(std::uint32_t service) const {
  if (service == kSystemService) return &sessions.segments();
  if (service >= services.size() || services[service] == nullptr) return nullptr;
  return &services[service]->segments();
}

// --- Copying

/// The next live segment of the state, if there is one.
bool StateCopier::next(const SegmentStore*& store, SegmentId& id) {
  for (; service_ < parts_.count(); ++service_, segment_ = 0) {
    store = parts_.store(service_);
    while (store != nullptr && segment_ < store->id_end()) {
      id = SegmentId{segment_++};
      if (store->live(id)) return true;
    }
  }
  return false;
}

void StateCopier::go_on(Pass pass) {
  pass_ = pass;
  service_ = segment_ = 0;
}

void StateCopier::step(std::uint64_t bytes) {
  switch (pass_) {
    case Pass::kTouch:
      return touch(bytes);
    case Pass::kCopy:
      return copy(bytes);
    case Pass::kHash:
      return hash(bytes);
    case Pass::kDone:
      return;
  }
}

std::uint64_t StateCopier::bytes_in_use() const {
  std::uint64_t sum = 0;
  for (std::uint32_t service = 0; service < parts_.count(); ++service) {
    const SegmentStore* store = parts_.store(service);
    if (store != nullptr) sum += std::uint64_t{store->count()} * store->segment_bytes();
  }
  return sum;
}

/// And as much more as the state has grown by since: it would never be done, if what is executed
/// meanwhile added more than it touches.
void StateCopier::touch(std::uint64_t bytes) {
  constexpr std::uint64_t kPageBytes = 4'096;
  const std::uint64_t before = std::exchange(in_use_, bytes_in_use());
  const std::uint64_t grown = before != 0 && in_use_ > before ? in_use_ - before : 0;
  const std::uint64_t enough = touched_ + bytes + grown;
  const SegmentStore* store = nullptr;
  SegmentId id{};
  while (touched_ < enough) {
    if (touched_ < expected_) {
      exchange_.memory().data()[touched_] = std::byte{};
      touched_ += kPageBytes;
    } else if (next(store, id)) {
      const auto whole = padded(static_cast<std::uint32_t>(store->bytes(id).size()));
      expected_ = std::min(expected_ + sizeof(ImageSegment) + whole, exchange_.memory().size());
    } else {
      exchange_.uses(touched_);
      return go_on(Pass::kCopy);
    }
  }
}

void StateCopier::copy(std::uint64_t bytes) {
  const std::uint64_t enough = exchange_.image().bytes + bytes;
  const SegmentStore* store = nullptr;
  SegmentId id{};
  while (exchange_.image().bytes < enough) {
    if (!next(store, id)) {
      exchange_.uses(exchange_.image().bytes);
      return go_on(Pass::kHash);
    }
    copy(*store, id);
  }
}

void StateCopier::copy(const SegmentStore& store, SegmentId id) {
  consensus::StateImage& image = exchange_.image();
  if (DEFECT(kSessionsNotCopied) && store.service() == kSystemService &&
      store.header(id).key_class != kSessionRootClass) {
    return;
  }
  const std::span<const std::byte> bytes = store.bytes(id);
  const std::uint32_t whole = padded(static_cast<std::uint32_t>(bytes.size()));
  CHECK(image.bytes + sizeof(ImageSegment) + whole <= exchange_.memory().size());
  std::byte* place = exchange_.memory().data() + image.bytes;
  auto& head = *reinterpret_cast<ImageSegment*>(place);
  head = ImageSegment{};
  head.bytes = static_cast<std::uint32_t>(bytes.size());
  head.service = store.service();
  std::memset(place + sizeof head + whole - 8, 0, 8);
  std::memcpy(place + sizeof head, bytes.data(), bytes.size());
  image.bytes += sizeof head + whole;
  ++image.segments;
}

void StateCopier::hash(std::uint64_t bytes) {
  consensus::StateImage& image = exchange_.image();
  const std::uint64_t enough = std::min(hashed_ + bytes, image.bytes);
  if (hashed_ == 0) image.hash = raw(image.instance);
  while (hashed_ < enough) {
    auto& head = *reinterpret_cast<ImageSegment*>(exchange_.memory().data() + hashed_);
    head.hash = image.hash = hash_of(head, image.hash);
    hashed_ += sizeof head + padded(head.bytes);
  }
  if (hashed_ == image.bytes) pass_ = Pass::kDone;
}

// --- Installing

/// The one at at_, if it lies within the copy whole.
const ImageSegment* StateInstaller::next_segment() {
  const std::uint64_t left = exchange_.image().bytes - at_;
  if (left < sizeof(ImageSegment)) return nullptr;
  const auto* head = reinterpret_cast<const ImageSegment*>(exchange_.memory().data() + at_);
  const std::uint64_t whole = (std::uint64_t{head->bytes.get()} + 7) / 8 * 8;
  if (head->bytes == 0 || whole > left - sizeof *head) return nullptr;
  at_ += sizeof *head + whole;
  ++seen_;
  return head;
}

/// Whether it follows the one before, is sound as far as that can be told here, and finds room.
bool StateInstaller::verify(const ImageSegment& head) {
  hash_ = hash_of(head, seen_ == 1 ? raw(exchange_.image().instance) : hash_);
  const SegmentStore* store = parts_.store(head.service);
  if (store == nullptr) return false;
  if (hash_ != head.hash && !DEFECT(kHalfImageInstalled)) return false;
  if (++counts_[head.service] > store->count_max()) return false;
  return store->verify({reinterpret_cast<const std::byte*>(&head + 1), head.bytes.get()}).ok();
}

bool StateInstaller::verified() const {
  const consensus::StateImage& image = exchange_.image();
  if (DEFECT(kHalfImageInstalled)) return true;
  return at_ == image.bytes && seen_ == image.segments && hash_ == image.hash;
}

/// Into the store of its service, which looks at it at once: it lies in the cache.
bool StateInstaller::install(const ImageSegment& head) {
  const auto* content = reinterpret_cast<const std::byte*>(&head + 1);
  const auto id = parts_.store(head.service)->install({content, head.bytes.get()});
  CHECK(id.has_value());
  if (head.service == kSystemService) return parts_.sessions.on_segment_installed(*id).ok();
  return parts_.services[head.service]->on_segment_installed(*id).ok();
}

void StateInstaller::empty_all() {
  emptied_ = true;
  parts_.sessions.reset();
  for (Service* service : parts_.services) {
    if (service == nullptr) continue;
    service->segments().clear();
    CHECK(service->on_segments_installed().ok());
  }
}

bool StateInstaller::adopt(std::uint32_t service) {
  if (service == kSystemService) return parts_.sessions.on_segments_installed().ok();
  if (parts_.store(service) == nullptr) return true;
  return parts_.services[service]->on_segments_installed().ok();
}

StateInstaller::Outcome StateInstaller::step(std::uint64_t bytes) {
  if (pass_ == Pass::kAdopt) {
    if (!adopt(adopted_)) {
      empty_all();
      return Outcome::kRefused;
    }
    return ++adopted_ == parts_.count() ? Outcome::kInstalled : Outcome::kWorking;
  }
  const std::uint64_t enough = at_ + bytes;
  const std::uint64_t end = exchange_.image().bytes;
  while (at_ < end && at_ < enough) {
    const ImageSegment* head = next_segment();
    if (head == nullptr && DEFECT(kHalfImageInstalled)) at_ = end;
    if (head == nullptr && at_ != end) return Outcome::kRefused;
    if (head == nullptr) break;
    if (pass_ == Pass::kVerify) {
      if (!verify(*head)) return Outcome::kRefused;
    } else {
      if (!install(*head)) {
        empty_all();
        return Outcome::kRefused;
      }
    }
  }
  if (at_ < end) return Outcome::kWorking;
  if (pass_ == Pass::kInstall) {
    pass_ = Pass::kAdopt;
  } else if (!verified()) {
    return Outcome::kRefused;
  } else {
    for (std::uint32_t service = 0; service < parts_.count(); ++service) {
      if (SegmentStore* store = parts_.store(service)) store->clear();
    }
    parts_.sessions.before_segments_installed();
    pass_ = Pass::kInstall;
    at_ = 0;
  }
  return Outcome::kWorking;
}

}  // namespace annulus::statemachine
