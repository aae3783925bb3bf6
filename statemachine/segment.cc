#include "statemachine/segment.h"

#include <sys/mman.h>

#include <cstring>
#include <string>

namespace annulus::statemachine {

namespace {
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
}

SegmentStore::SegmentStore(std::uint8_t service, std::uint32_t segment_bytes,
                           std::uint32_t count_max)
    : service_(service), segment_bytes_(segment_bytes), live_(count_max, 0) {
  CHECK(segment_bytes % 4096 == 0 && segment_bytes > 0 && count_max > 0);
  free_.reserve(count_max);
  // One huge page more than needed, so that the first segment can start on a huge page.
  mapped_bytes_ = std::size_t{segment_bytes} * count_max + kHugePageBytes;
  void* const mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(mapped != MAP_FAILED);
  mapped_ = static_cast<std::byte*>(mapped);
  const auto address = reinterpret_cast<std::uintptr_t>(mapped);
  base_ = mapped_ + ((address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes - address);
  // Refused where the kernel has no huge pages: slower, not wrong.
  (void)madvise(base_, mapped_bytes_ - kHugePageBytes, MADV_HUGEPAGE);
}

SegmentStore::~SegmentStore() { munmap(mapped_, mapped_bytes_); }

std::optional<SegmentId> SegmentStore::take() {
  std::uint32_t id;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
    std::memset(at(SegmentId{id}), 0, segment_bytes_);
  } else if (next_ < live_.size()) {
    id = next_++;
  } else {
    return std::nullopt;
  }
  live_[id] = 1;
  ++count_;
  return SegmentId{id};
}

std::optional<SegmentId> SegmentStore::create(std::uint32_t key_class) {
  const std::optional<SegmentId> id = take();
  if (!id) return id;
  SegmentHeader& fresh = header(*id);
  fresh.magic = kSegmentMagic;
  fresh.version = kSegmentVersion;
  fresh.service = service_;
  fresh.key_class = key_class;
  fresh.used_bytes = static_cast<std::uint32_t>(sizeof(SegmentHeader));
  return id;
}

void SegmentStore::destroy(SegmentId id) {
  CHECK(live(id));
  live_[static_cast<std::uint32_t>(id)] = 0;
  free_.push_back(static_cast<std::uint32_t>(id));
  --count_;
}

Status SegmentStore::verify(std::span<const std::byte> bytes) const {
  if (bytes.size() < sizeof(SegmentHeader) || bytes.size() > segment_bytes_) {
    return Error{"a segment of " + std::to_string(bytes.size()) + " bytes; this service's have " +
                 std::to_string(sizeof(SegmentHeader)) + " to " + std::to_string(segment_bytes_)};
  }
  const auto& head = *reinterpret_cast<const SegmentHeader*>(bytes.data());
  if (head.magic != kSegmentMagic) return Error{"not a segment: wrong magic number"};
  if (head.version != kSegmentVersion) {
    return Error{"segment layout version " + std::to_string(head.version) +
                 "; this program reads " + std::to_string(kSegmentVersion)};
  }
  if (head.service != service_ || head.reserved != 0) {
    return Error{"segment of service " + std::to_string(head.service) + ", wanted service " +
                 std::to_string(service_)};
  }
  if (head.used_bytes != bytes.size()) {
    return Error{"segment header says " + std::to_string(head.used_bytes) + " bytes used, got " +
                 std::to_string(bytes.size())};
  }
  return {};
}

std::optional<SegmentId> SegmentStore::install(std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= segment_bytes_);
  const std::optional<SegmentId> id = take();
  if (id) std::memcpy(at(*id), bytes.data(), bytes.size());
  return id;
}

void SegmentStore::clear() {
  for (std::uint32_t id = 0; id < next_; ++id) {
    if (live_[id] != 0) destroy(SegmentId{id});
  }
}

}  // namespace annulus::statemachine
