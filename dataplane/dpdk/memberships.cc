#include "dataplane/dpdk/memberships.h"

#include <algorithm>
#include <cstring>

#include "dataplane/hash.h"

namespace annulus::dataplane {
namespace {

constexpr std::uint8_t kQuery = 0x11;
constexpr std::uint8_t kReportV2 = 0x16;
constexpr std::uint8_t kReportV3 = 0x22;
constexpr std::uint8_t kModeIsExclude = 2;
constexpr std::uint8_t kChangeToExclude = 4;
constexpr std::uint32_t kAllV3Routers = 0xe0000016;  // 224.0.0.22
constexpr Nanos kResponseOfV1 = 10 * kSecond;
constexpr Nanos kAnnounceAgainAfter = kSecond;
constexpr std::uint32_t kAnnouncements = 2;

struct IgmpMessage {
  std::uint8_t type;
  std::uint8_t response_time;  // tenths of a second
  u16be checksum;
  u32be group;  // zero: a query for all groups
};
static_assert(sizeof(IgmpMessage) == 8);

struct IgmpReportV3 {
  std::uint8_t type;
  std::uint8_t reserved;
  u16be checksum;
  u16be reserved2;
  u16be record_count;
  std::uint8_t record_type;
  std::uint8_t auxiliary_words;
  u16be source_count;
  u32be group;
};
static_assert(sizeof(IgmpReportV3) == Memberships::kReportBytesMax);
constexpr std::size_t kQueryV3BytesMin = 12;

/// RFC 3376, 4.1.1: from 128 on a floating point number, mantissa 4 bits, exponent 3.
Nanos response_time(std::uint8_t code) {
  const std::int64_t tenths =
      code < 128 ? code : std::int64_t{(code & 0xf) | 0x10} << (((code >> 4) & 7) + 3);
  return tenths * (kSecond / 10);
}

template <typename Message>
void seal(Message& message) {
  InternetChecksum checksum;
  checksum.add(std::as_bytes(std::span{&message, 1}));
  message.checksum = checksum.checksum();
}

}  // namespace

bool Memberships::join(std::uint32_t group) {
  for (const Group& member : std::span{groups_}.first(count_)) {
    if (member.address == group) return true;  // a second port of the same group
  }
  if (count_ == groups_.size()) return false;
  groups_[count_++] = {.address = group, .announcements = kAnnouncements};
  return true;
}

bool Memberships::on_message(Nanos now, std::span<const std::byte> message,
                             std::uint32_t delay_seed) {
  const auto& query = *reinterpret_cast<const IgmpMessage*>(message.data());
  if (query.type != kQuery) return false;
  Nanos within = response_time(query.response_time);
  if (message.size() < kQueryV3BytesMin) {
    older_querier_until_ = now + kOlderQuerierPresent;
    // Version 1 leaves the field zero; version 2 has no floating point.
    within = query.response_time == 0 ? kResponseOfV1 : query.response_time * (kSecond / 10);
  }
  for (Group& group : std::span{groups_}.first(count_)) {
    if (query.group != 0 && query.group != group.address) continue;
    const std::uint32_t key[2] = {delay_seed, group.address};
    const auto drawn = static_cast<Nanos>(hash_bytes(std::as_bytes(std::span{key})) % 1024);
    group.answer_at = std::min(group.answer_at, now + within * drawn / 1024);
  }
  return true;
}

bool Memberships::next_due(Nanos now, Report& report) {
  for (Group& group : std::span{groups_}.first(count_)) {
    const bool announce = group.announcements > 0 && now >= group.announce_at;
    if (!announce && now < group.answer_at) continue;
    const bool version3 = now >= older_querier_until_;
    report = {.group = group.address,
              .to = version3 ? kAllV3Routers : group.address,
              .version3 = version3,
              .joined_just_now = announce};
    if (announce) {
      --group.announcements;
      group.announce_at = now + kAnnounceAgainAfter;
    } else {
      group.answer_at = kNever;
    }
    return true;
  }
  return false;
}

std::uint32_t Memberships::write(const Report& report, std::span<std::byte> message) {
  if (!report.version3) {
    IgmpMessage v2{.type = kReportV2, .group = report.group};
    seal(v2);
    std::memcpy(message.data(), &v2, sizeof v2);
    return sizeof v2;
  }
  IgmpReportV3 v3{.type = kReportV3,
                  .record_count = std::uint16_t{1},
                  .record_type = report.joined_just_now ? kChangeToExclude : kModeIsExclude,
                  .group = report.group};
  seal(v3);
  std::memcpy(message.data(), &v3, sizeof v3);
  return sizeof v3;
}

}  // namespace annulus::dataplane
