#include "tools/chaos/verify.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace annulus::chaos {
namespace {

using history::Operation;
using history::Placed;
using statemachine::CommandStatus;

constexpr std::uint32_t kReplyBytesMax = statemachine::kReplyBytesMax;
constexpr std::size_t kSearchedMax = 400;  // operations; beyond, a search would take too long
constexpr std::uint64_t kSearchSteps = 200'000;
constexpr std::size_t kViolationsMax = 10;
constexpr std::size_t kReplyShown = 60;

bool answered(const Entry& entry) { return entry.end == End::kAnswered; }

/// Where an operation belongs: by `slot`, then by when it was sent.
struct Slot {
  std::tuple<Nanos, int, Nanos> slot;
  const Operation* operation;
};

std::vector<Placed> in_order(std::vector<Slot>& slots) {
  std::stable_sort(slots.begin(), slots.end(),
                   [](const Slot& a, const Slot& b) { return a.slot < b.slot; });
  std::vector<Placed> order;
  for (const Slot& each : slots) order.push_back({each.operation->id, each.operation->returned});
  return order;
}

/// All that concerns one value of a register: its write, and the reads that saw it. The register
/// held it at least from the first of them to end to the last of them to begin, if that is a while;
/// else at any moment between (Gibbons and Korach's zones).
struct Zone {
  const Operation* write = nullptr;
  std::vector<const Operation*> reads;
  Nanos first_end = kNever;
  Nanos last_begin = INT64_MIN;

  void widen(const Operation& operation) {
    first_end = std::min(first_end, operation.returned);
    last_begin = std::max(last_begin, operation.invoked);
  }
  bool held_a_while() const { return first_end < last_begin; }
};

std::vector<Placed> order_register(const std::vector<Entry>& part) {
  std::map<std::uint64_t, Zone> zones;
  for (const Entry& entry : part) {
    std::uint64_t value = entry.command.number;
    if (!entry.command.write) {
      if (!answered(entry)) continue;
      value = value_number(entry.operation.outcome.reply);
    }
    Zone& zone = zones[value];
    if (value == 0) zone.first_end = INT64_MIN;  // nothing was written yet
    zone.widen(entry.operation);
    entry.command.write ? void(zone.write = &entry.operation)
                        : zone.reads.push_back(&entry.operation);
  }
  std::vector<const Zone*> held;
  for (const auto& [value, zone] : zones) {
    if (zone.held_a_while()) held.push_back(&zone);
  }
  std::sort(held.begin(), held.end(),
            [](const Zone* a, const Zone* b) { return a->first_end < b->first_end; });
  std::vector<Slot> slots;
  for (const auto& [value, zone] : zones) {
    // Nobody saw it, and it may not have been executed: without it all is as before.
    if (zone.write != nullptr && zone.reads.empty() && zone.write->returned == kNever) continue;
    Nanos at = zone.first_end;
    if (!zone.held_a_while()) {
      at = zone.last_begin;
      const auto next = std::upper_bound(held.begin(), held.end(), at,
                                         [](Nanos t, const Zone* z) { return t <= z->first_end; });
      if (next != held.begin()) at = std::max(at, (*std::prev(next))->last_begin);
    }
    // In the block of a value the write comes first; blocks at one moment stay apart by `value`,
    // those that were held a while last.
    const int last = zone.held_a_while() ? 1 : 0;
    std::vector<const Operation*> block = zone.reads;
    std::stable_sort(block.begin(), block.end(), [](const Operation* a, const Operation* b) {
      return a->invoked < b->invoked;
    });
    if (zone.write != nullptr) block.insert(block.begin(), zone.write);
    for (const Operation* operation : block) {
      slots.push_back({{at, last, zone.last_begin}, operation});
    }
  }
  return in_order(slots);
}

/// A counter or a list: what a write answers is its place. Those without an answer fill the places
/// that nobody has, as far as something was seen to be beyond.
std::vector<Placed> order_by_places(const std::vector<Entry>& part, bool list) {
  std::map<std::uint64_t, const Operation*> placed;
  std::vector<const Entry*> fillers;
  std::vector<Slot> slots;
  std::uint64_t highest = 0;
  const std::uint64_t unit = list ? kElementBytes : 1;
  const Entry* longest = nullptr;
  for (const Entry& entry : part) {
    const std::string& reply = entry.operation.outcome.reply;
    if (!answered(entry)) {
      if (entry.command.write) fillers.push_back(&entry);
      continue;
    }
    std::uint64_t place = list ? reply.size() / unit : counter_number(reply);
    if (entry.command.write) {
      place = reply_number(reply) / unit;
      placed.emplace(place, &entry.operation);
    } else if (longest == nullptr || reply.size() > longest->operation.outcome.reply.size()) {
      longest = &entry;
    }
    highest = std::max(highest, place);
    slots.push_back(
        {{static_cast<Nanos>(place), entry.command.write ? 0 : 1, entry.operation.invoked},
         &entry.operation});
  }
  std::stable_sort(fillers.begin(), fillers.end(), [](const Entry* a, const Entry* b) {
    return a->operation.invoked < b->operation.invoked;
  });
  const auto fill = [&](const Entry* entry, std::uint64_t place) {
    slots.push_back({{static_cast<Nanos>(place), 0, 0}, &entry->operation});
  };
  if (list) {
    const std::string seen = longest == nullptr ? "" : longest->operation.outcome.reply;
    std::erase_if(fillers, [&](const Entry* entry) {
      const std::size_t at = seen.find(element_text(entry->command.number));
      if (at == std::string::npos) return false;
      placed.emplace(at / unit + 1, &entry->operation);
      fill(entry, at / unit + 1);
      return true;
    });
  }
  auto next = fillers.begin();
  for (std::uint64_t place = 1; place <= highest && next != fillers.end(); ++place) {
    if (!placed.contains(place)) fill(*next++, place);
  }
  for (; next != fillers.end(); ++next) {
    if ((*next)->end == End::kExecuted) fill(*next, highest + 1);
  }
  return in_order(slots);
}

/// Keys are only ever added, so ranges come in the order of what they hold, and an insert before
/// the first that shows it.
std::vector<Placed> order_group(const std::vector<Entry>& part) {
  std::vector<const Entry*> ranges;
  for (const Entry& entry : part) {
    if (!entry.command.write && answered(entry)) ranges.push_back(&entry);
  }
  std::stable_sort(ranges.begin(), ranges.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->operation.outcome.reply.size(), a->operation.invoked) <
           std::pair(b->operation.outcome.reply.size(), b->operation.invoked);
  });
  std::map<std::uint64_t, Nanos> shown_first;  // place in the group -> range
  std::vector<Slot> slots;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Operation& operation = ranges[i]->operation;
    const auto at = static_cast<Nanos>(i);
    for (const std::uint64_t place : places_of(part[0].command.object, operation.outcome.reply)) {
      shown_first.emplace(place, at);
    }
    slots.push_back({{at, 1, 0}, &operation});
  }
  for (const Entry& entry : part) {
    if (!entry.command.write) continue;
    const auto shown = shown_first.find(entry.command.number);
    const bool seen = shown != shown_first.end();
    if (!seen && entry.operation.returned == kNever) continue;
    const Nanos at = seen ? shown->second : static_cast<Nanos>(ranges.size());
    slots.push_back({{at, 0, entry.operation.invoked}, &entry.operation});
  }
  return in_order(slots);
}

/// What is wrong with one object's history, or "".
std::string judge(const std::vector<Entry>& part) {
  std::vector<Operation> operations;
  for (const Entry& entry : part) operations.push_back(entry.operation);
  const std::vector<Placed> order = derive_order(part);
  const std::string wrong = history::check_witness(operations, order, kReplyBytesMax);
  if (wrong.empty() || operations.size() > kSearchedMax) return wrong;
  const history::Verdict found = history::search_order(operations, kSearchSteps, kReplyBytesMax);
  return found == history::Verdict::kLinearizable ? "" : wrong;
}

/// The witness's complaint with the operation it is about in words.
std::string in_words(const std::string& wrong, const std::vector<Entry>& part, Nanos begin) {
  static constexpr std::string_view kNamed = "operation ";
  const std::size_t at = wrong.find(kNamed);
  if (at == std::string::npos) return wrong;
  const std::uint64_t id = counter_number(std::string_view(wrong).substr(at + kNamed.size()));
  for (const Entry& entry : part) {
    if (entry.operation.id == id) return wrong.substr(0, at) + describe(entry, begin, kReplyShown);
  }
  return wrong;
}

/// The history as it was known at `moment`.
std::vector<Entry> until(const std::vector<Entry>& part, Nanos moment) {
  std::vector<Entry> early;
  for (const Entry& entry : part) {
    if (entry.operation.invoked > moment) continue;
    early.push_back(entry);
    if (entry.operation.returned <= moment) continue;
    early.back().operation.returned = kNever;
    early.back().end = End::kUnknown;
  }
  return early;
}

/// The shortest beginning that is wrong: what was wrong once stays so.
std::vector<Entry> shortest(const std::vector<Entry>& part) {
  std::vector<Nanos> moments;
  for (const Entry& entry : part) {
    if (entry.operation.returned != kNever) moments.push_back(entry.operation.returned);
  }
  std::sort(moments.begin(), moments.end());
  std::size_t good = 0;  // as many moments may pass
  std::size_t bad = moments.size();
  while (good + 1 < bad) {
    const std::size_t middle = (good + bad) / 2;
    (judge(until(part, moments[middle - 1])).empty() ? good : bad) = middle;
  }
  return moments.empty() ? part : until(part, moments[bad - 1]);
}

/// How an acknowledged write and what was read at last compare, in a word more than the witness
/// has.
std::string totals(const std::vector<Entry>& part) {
  std::uint64_t acknowledged = 0;
  std::uint64_t unknown = 0;
  const Entry* last = nullptr;
  for (const Entry& entry : part) {
    if (entry.command.write) {
      ++(entry.operation.returned == kNever ? unknown : acknowledged);
    } else if (answered(entry) &&
               (last == nullptr || entry.operation.invoked > last->operation.invoked)) {
      last = &entry;
    }
  }
  std::string text = std::to_string(acknowledged) + " acknowledged writes and " +
                     std::to_string(unknown) + " of unknown outcome";
  if (last == nullptr) return text;
  const std::string& reply = last->operation.outcome.reply;
  switch (part[0].command.object.type) {
    case ObjectType::kRegister:
      return text;
    case ObjectType::kCounter:
      return text + ", counted " + std::to_string(counter_number(reply)) + " at last";
    case ObjectType::kList:
      return text + ", " + std::to_string(reply.size() / kElementBytes) + " elements at last";
    case ObjectType::kGroup:
      return text + ", " + std::to_string(places_of(part[0].command.object, reply).size()) +
             " keys at last";
  }
  return text;
}

}  // namespace

std::vector<Placed> derive_order(const std::vector<Entry>& part) {
  if (part.empty()) return {};
  switch (part[0].command.object.type) {
    case ObjectType::kRegister:
      return order_register(part);
    case ObjectType::kCounter:
      return order_by_places(part, false);
    case ObjectType::kList:
      return order_by_places(part, true);
    case ObjectType::kGroup:
      return order_group(part);
  }
  return {};
}

Verdict verify(const History& history, Nanos begin) {
  Verdict verdict;
  std::map<Object, std::vector<Entry>> parts;
  for (const Entry& entry : history.entries()) {
    if (entry.end == End::kRefused && verdict.violations.size() < kViolationsMax) {
      verdict.violations.push_back("refused: " + describe(entry, begin));
    }
    // Who says that it was not executed vouches for it: to see its effect is then a violation.
    if (entry.end != End::kNotExecuted) parts[entry.command.object].push_back(entry);
  }
  verdict.objects = parts.size();
  for (const auto& [object, part] : parts) {
    verdict.operations += part.size();
    if (verdict.violations.size() >= kViolationsMax) continue;
    if (judge(part).empty()) continue;
    const std::vector<Entry> early = shortest(part);
    verdict.violations.push_back(name_of(object) + ", after " + std::to_string(early.size()) +
                                 " commands: " + in_words(judge(early), early, begin) +
                                 " (in all: " + totals(part) + ")");
    if (!verdict.evidence.empty()) continue;
    for (const Entry& entry : early) verdict.evidence.push_back(describe(entry, begin));
  }
  return verdict;
}

}  // namespace annulus::chaos
