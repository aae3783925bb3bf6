#include "tools/chaos/mix.h"

#include <cmath>

namespace annulus::chaos {

Object Mix::growing(ObjectType type, bool write, std::uint64_t& place) {
  const std::size_t kind = type == ObjectType::kList ? 0 : 1;
  Growing& chosen = growing_[kind][random_.below(kSlots)];
  if (chosen.writes == kWritesMax) chosen = {{type, ++fresh_[kind]}, 0};
  if (write) place = ++chosen.writes;
  return chosen.object;
}

Command Mix::draw() {
  struct Share {
    ObjectType type;
    bool write;
    std::uint32_t percent;
  };
  static constexpr Share kShares[] = {
      {ObjectType::kRegister, true, 20}, {ObjectType::kRegister, false, 20},
      {ObjectType::kCounter, true, 14},  {ObjectType::kCounter, false, 6},
      {ObjectType::kList, true, 14},     {ObjectType::kList, false, 6},
      {ObjectType::kGroup, true, 14},    {ObjectType::kGroup, false, 6}};
  auto share = static_cast<std::uint32_t>(random_.below(100));
  std::size_t at = 0;
  while (share >= kShares[at].percent) share -= kShares[at++].percent;
  const ObjectType type = kShares[at].type;
  Command command{{type, 0}, kShares[at].write, 0};
  std::uint64_t place = 0;
  if (type == ObjectType::kRegister) {
    command.object.number = 1 + static_cast<std::uint32_t>(random_.below(kRegisters));
  } else if (type == ObjectType::kCounter) {
    command.object.number = 1 + static_cast<std::uint32_t>(random_.below(kCounters));
  } else {
    command.object = growing(type, command.write, place);
  }
  if (command.write) command.number = type == ObjectType::kGroup ? place : ++written_;
  objects_.insert(command.object);
  return command;
}

Nanos Mix::gap(double rate) {
  return static_cast<Nanos>(-std::log1p(-random_.unit()) * 1e9 / rate);
}

}  // namespace annulus::chaos
