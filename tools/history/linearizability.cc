#include "tools/history/linearizability.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "dataplane/hash.h"
#include "dataplane/result.h"

namespace annulus::history {
namespace {

/// The search: a list of invocations and returns in time order. An invocation before the first
/// return may come next; once chosen, it and its return leave the list until it is taken back.
class Search {
 public:
  Search(std::span<const Operation> history, std::uint32_t reply_bytes_max)
      : history_(history), model_(reply_bytes_max), chosen_((history.size() + 63) / 64) {
    struct Event {
      Nanos at;
      bool is_return;
      std::uint32_t operation;
    };
    std::vector<Event> events;
    for (std::uint32_t i = 0; i < history.size(); ++i) {
      events.push_back({history[i].invoked, false, i});
      events.push_back({history[i].returned, true, i});
    }
    // At one moment, invocations come first: then the two overlap, which claims less.
    std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
      return std::pair(a.at, a.is_return) < std::pair(b.at, b.is_return);
    });
    nodes_.resize(events.size() + 1);  // node 0 is the head
    for (std::uint32_t i = 0; i < events.size(); ++i) {
      Node& node = nodes_[i + 1];
      node = {events[i].operation, events[i].is_return, i, i + 2};
      if (!events[i].is_return) continue;
      for (std::uint32_t j = 1; j <= i; ++j) {
        if (nodes_[j].operation == node.operation) nodes_[j].match = i + 1;
      }
    }
    nodes_[0].next = 1;
    nodes_.back().next = 0;
  }

  Verdict run(std::uint64_t steps_max) {
    std::uint32_t at = nodes_[0].next;
    for (std::uint64_t step = 0; step < steps_max; ++step) {
      // What is left are returns that never came: their operations need not take effect.
      if (at == 0) return Verdict::kLinearizable;
      const Node& node = nodes_[at];
      if (!node.is_return) {
        at = choose(at) ? nodes_[0].next : node.next;
        continue;
      }
      if (history_[node.operation].returned == kNever) return Verdict::kLinearizable;
      if (stack_.empty()) return Verdict::kNotLinearizable;
      at = take_back();
    }
    return Verdict::kGaveUp;
  }

 private:
  struct Node {
    std::uint32_t operation = 0;
    bool is_return = false;
    std::uint32_t previous = 0;
    std::uint32_t next = 0;
    std::uint32_t match = 0;  // of an invocation: the node of its return
  };
  struct Step {
    std::uint32_t node;
    Model before;
  };

  bool choose(std::uint32_t at) {
    const std::uint32_t index = nodes_[at].operation;
    const Operation& operation = history_[index];
    Model after = model_;
    const Outcome outcome = after.apply(operation.service, as_bytes(operation.body));
    if (operation.returned != kNever && operation.reply_known && outcome != operation.outcome)
      return false;
    chosen_[index / 64] |= std::uint64_t{1} << (index % 64);
    if (!seen_.emplace(chosen_, after.hash()).second) {
      chosen_[index / 64] &= ~(std::uint64_t{1} << (index % 64));
      return false;
    }
    stack_.push_back({at, std::exchange(model_, std::move(after))});
    unlink(at);
    unlink(nodes_[at].match);
    return true;
  }

  std::uint32_t take_back() {
    const std::uint32_t at = stack_.back().node;
    model_ = std::move(stack_.back().before);
    stack_.pop_back();
    const std::uint32_t index = nodes_[at].operation;
    chosen_[index / 64] &= ~(std::uint64_t{1} << (index % 64));
    relink(nodes_[at].match);
    relink(at);
    return nodes_[at].next;
  }

  void unlink(std::uint32_t at) {
    nodes_[nodes_[at].previous].next = nodes_[at].next;
    if (nodes_[at].next != 0) nodes_[nodes_[at].next].previous = nodes_[at].previous;
  }
  void relink(std::uint32_t at) {
    nodes_[nodes_[at].previous].next = at;
    if (nodes_[at].next != 0) nodes_[nodes_[at].next].previous = at;
  }

  std::span<const Operation> history_;
  Model model_;
  std::vector<std::uint64_t> chosen_;
  std::vector<Node> nodes_;
  std::vector<Step> stack_;
  std::set<std::pair<std::vector<std::uint64_t>, std::uint64_t>> seen_;
};

std::string printable(const std::string& bytes) {
  std::string text;
  for (const char c : bytes.substr(0, 40)) {
    static constexpr char kHex[] = "0123456789abcdef";
    if (c >= ' ' && c <= '~') {
      text += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      text += {'\\', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text + (bytes.size() > 40 ? "..." : "") + " (" + std::to_string(bytes.size()) + " B)";
}

/// Executes an order and judges each operation.
class Witness {
 public:
  Witness(std::span<const Operation> history, std::span<const Placed> order,
          std::uint32_t reply_bytes_max)
      : history_(history), order_(order), taken_(order.size()), model_(reply_bytes_max) {
    for (const Operation& operation : history) by_id_.emplace(operation.id, &operation);
    // A place is taken no later than any place above it.
    Nanos earliest = kNever;
    for (std::size_t i = order.size(); i-- > 0;) {
      taken_[i] = earliest = std::min(earliest, order[i].latest);
    }
  }

  std::string run() {
    for (std::size_t i = 0; i < order_.size(); ++i) {
      const auto found = by_id_.find(order_[i].operation);
      if (found == by_id_.end()) {
        return "place " + std::to_string(i) + " holds operation " +
               std::to_string(order_[i].operation) + ", which no client sent";
      }
      const Operation& operation = *found->second;
      if (changes_nothing(operation.service, as_bytes(operation.body))) {
        if (!judge_time(operation, taken_[i]) && !judge_reply(operation)) {
          open_reads_.push_back(&operation);
        }
      } else {
        if (!executed_.insert(operation.id).second) return "executed twice: " + describe(operation);
        const bool bad_time = judge_time(operation, taken_[i]);
        if (!judge_reply(operation) || bad_time) return complaints_[operation.id];
        judge_open_reads(taken_[i]);
      }
    }
    for (const Operation& operation : history_) {
      if (operation.returned == kNever || explained_.contains(operation.id)) continue;
      const auto complaint = complaints_.find(operation.id);
      if (complaint != complaints_.end()) return complaint->second;
      return "acknowledged but never executed: " + describe(operation);
    }
    return {};
  }

 private:
  /// True, with a complaint, if the place was not taken within the operation's interval.
  bool judge_time(const Operation& operation, Nanos taken) {
    if (operation.invoked > taken) {
      complaints_[operation.id] = "ordered " + std::to_string(operation.invoked - taken) +
                                  " ns before it was invoked: " + describe(operation);
      return true;
    }
    if (operation.returned < taken) {
      complaints_[operation.id] = "returned before its place in the order was taken: ";
      complaints_[operation.id] += describe(operation);
      return true;
    }
    return false;
  }

  /// Executes it. True if the reply is what the state makes it.
  bool judge_reply(const Operation& operation) {
    const Outcome outcome = model_.apply(operation.service, as_bytes(operation.body));
    if (operation.returned == kNever || !operation.reply_known || outcome == operation.outcome) {
      explained_.insert(operation.id);
      return true;
    }
    complaints_[operation.id] = "answered wrongly: " + describe(operation) + "; expected status " +
                                std::to_string(static_cast<int>(outcome.status)) + " reply " +
                                printable(outcome.reply);
    return false;
  }

  void judge_open_reads(Nanos taken) {
    std::erase_if(open_reads_, [&](const Operation* read) {
      if (read->returned < taken || explained_.contains(read->id)) return true;
      return judge_reply(*read);
    });
  }

  std::span<const Operation> history_;
  std::span<const Placed> order_;
  std::vector<Nanos> taken_;
  Model model_;
  std::map<std::uint64_t, const Operation*> by_id_;
  std::set<std::uint64_t> executed_;
  std::set<std::uint64_t> explained_;
  std::map<std::uint64_t, std::string> complaints_;
  std::vector<const Operation*> open_reads_;
};

}  // namespace

Verdict search_order(std::span<const Operation> history, std::uint64_t steps_max,
                     std::uint32_t reply_bytes_max) {
  return Search(history, reply_bytes_max).run(steps_max);
}

std::vector<std::vector<Operation>> independent_parts(std::span<const Operation> history) {
  std::vector<std::uint32_t> parent(history.size());
  for (std::uint32_t i = 0; i < parent.size(); ++i) parent[i] = i;
  const auto root = [&](std::uint32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::map<std::string, std::uint32_t> owner;
  bool all_kv = false;
  bool all_btree = false;
  for (std::uint32_t i = 0; i < history.size(); ++i) {
    for (const std::string& key : touched(history[i].service, as_bytes(history[i].body))) {
      all_kv |= key == "*kv";
      all_btree |= key == "*bt";
      const auto [at, fresh] = owner.emplace(key, i);
      if (!fresh) parent[root(i)] = root(at->second);
    }
  }
  // Whoever reads all of a service joins all that touch it.
  for (const auto& [key, first] : owner) {
    const bool kv = key == "*kv" || key.starts_with("kv ");
    if (kv && all_kv) parent[root(first)] = root(owner.at("*kv"));
    if (!kv && all_btree) parent[root(first)] = root(owner.at("*bt"));
  }
  std::map<std::uint32_t, std::vector<Operation>> parts;
  for (std::uint32_t i = 0; i < history.size(); ++i) parts[root(i)].push_back(history[i]);
  std::vector<std::vector<Operation>> result;
  for (auto& [first, part] : parts) result.push_back(std::move(part));
  return result;
}

std::string check_witness(std::span<const Operation> history, std::span<const Placed> order,
                          std::uint32_t reply_bytes_max) {
  return Witness(history, order, reply_bytes_max).run();
}

std::string describe(const Operation& operation) {
  std::string text = "operation " + std::to_string(operation.id) + " service " +
                     std::to_string(operation.service) + " [" + printable(operation.body) +
                     "] invoked " + std::to_string(operation.invoked) + " returned ";
  if (operation.returned == kNever) return text + "never";
  return text + std::to_string(operation.returned) + " status " +
         std::to_string(static_cast<int>(operation.outcome.status)) + " reply " +
         printable(operation.outcome.reply);
}

}  // namespace annulus::history
