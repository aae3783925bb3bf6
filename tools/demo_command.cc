#include "tools/demo_command.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/cluster.h"
#include "tools/config_command.h"
#include "tools/redis_link.h"
#include "tools/signals.h"
#include "tools/telemetry.h"
#include "tools/top.h"
#include "tools/traffic.h"

namespace annulus::tools {
namespace {

constexpr std::uint32_t kKeys = 1'000'000;
constexpr std::uint32_t kLoopback = 0x7f000001;

struct Arguments {
  double seconds = 5;
  bool json = false;
};

/// One line of the table.
struct Done {
  std::string what;
  std::uint64_t commands = 0;
  std::uint64_t wrong = 0;
  double seconds = 0;
  double per_second() const { return seconds > 0 ? static_cast<double>(commands) / seconds : 0; }
};

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Demo {
 public:
  explicit Demo(const Arguments& arguments) : arguments_(arguments) {}

  Status run() {
    if (Status started = start(); !started) return started;
    if (Status done = native("key-value, 8 B keys and values, 50 % reads", kv_traffic_); !done) {
      return done;
    }
    if (Status done = native("B-tree inserts, and ranges of 100", btree_traffic_); !done) {
      return done;
    }
    if (Status done = redis(); !done) return done;
    auto hashes = cluster_->state_hashes();
    if (!hashes) return hashes.error();
    const std::string after = snapshot_json(cluster_->registry(), "demo");
    cluster_->stop();
    arguments_.json ? report_json(hashes.value(), after) : report(hashes.value(), after);
    return verdict(hashes.value());
  }

 private:
  Status start() {
    ClusterOptions options;
    for (const std::string& name : service_names()) options.service_names.push_back({name});
    options.services = service_factory(options.service_names);
    auto made = Cluster::create(options);
    if (!made) return made.error();
    cluster_ = std::move(made).value();
    const auto prepare = [&](const char* service, auto& workload, auto& traffic) {
      using Kind = typename std::remove_reference_t<decltype(workload)>::element_type;
      const std::uint8_t id = service_id(options.service_names, service);
      if constexpr (std::is_same_v<Kind, KvWorkload>) {
        workload = std::make_unique<Kind>(id, kKeys);
      } else {
        workload = std::make_unique<Kind>(id);
      }
      traffic = std::make_unique<Traffic>(*workload);
      traffic->set_client(cluster_->make_client(*traffic));
      cluster_->add_stage(std::string(service) + "-client", *traffic);
    };
    prepare("kv", kv_, kv_traffic_);
    prepare("btree", btree_, btree_traffic_);
    listen_ = {kLoopback, free_tcp_port()};
    if (Status added = cluster_->add_proxy(listen_); !added) return added;
    if (Status started = cluster_->start(); !started) return started;
    if (!arguments_.json) {
      std::printf(
          "A cluster in this process: 3 acceptors, 2 replicas, a proxy, 2 native clients; "
          "durability memory\n%s\n",
          cluster_->plan().c_str());
    }
    before_ = snapshot_json(cluster_->registry(), "demo");
    return {};
  }

  /// Runs one native client for a while.
  Status native(const char* what, std::unique_ptr<Traffic>& traffic) {
    say(what);
    const double begun = now_seconds();
    traffic->begin();
    if (signals_.wait(static_cast<int>(arguments_.seconds * 1'000))) return interrupted();
    traffic->end();
    const double patience = now_seconds() + 10;
    while (!traffic->idle() && now_seconds() < patience) usleep(1'000);
    if (!traffic->idle()) return Error{std::string(what) + ": commands are left unanswered"};
    done_.push_back({what, traffic->answered(), traffic->wrong(), now_seconds() - begun});
    if (traffic->answered() == 0) return Error{std::string(what) + ": nothing was answered"};
    return {};
  }

  /// A Redis client, 50 commands at a time, then the commands that a reader would try first.
  Status redis() {
    const char* const what = "Redis SET and GET through the proxy, 50 at a time";
    say(what);
    if (Status served = connect(); !served) return served;
    std::vector<std::vector<std::string>> commands;
    std::vector<std::string> wanted;
    for (int i = 0; i < 25; ++i) {
      const std::string key = "demo:" + std::to_string(i);
      commands.push_back({"SET", key, "value" + std::to_string(i)});
      wanted.push_back("+OK");
      commands.push_back({"GET", key});
      wanted.push_back("$" + std::to_string(5 + std::to_string(i).size()) + "\r\nvalue" +
                       std::to_string(i));
    }
    Done done{what};
    const double begun = now_seconds();
    while (now_seconds() - begun < arguments_.seconds / 2) {
      if (signals_.wait(0)) return interrupted();
      const auto replies = link_->call(commands);
      if (!replies) return replies.error();
      for (std::size_t i = 0; i < wanted.size(); ++i) done.wrong += replies.value()[i] != wanted[i];
      done.commands += wanted.size();
    }
    done.seconds = now_seconds() - begun;
    done_.push_back(done);
    return redis_samples();
  }

  Status connect() {
    const double patience = now_seconds() + 10;
    while (true) {
      auto link = RedisLink::connect(listen_);
      if (link) {
        link_ = std::make_unique<RedisLink>(std::move(link).value());
        return {};
      }
      if (now_seconds() > patience) return link.error();
      usleep(10'000);
    }
  }

  Status redis_samples() {
    const std::vector<std::pair<std::vector<std::string>, std::string>> samples = {
        {{"MULTI"}, "+OK"},
        {{"INCR", "demo:counter"}, "+QUEUED"},
        {{"APPEND", "demo:log", "x"}, "+QUEUED"},
        {{"EXEC"}, "*2\r\n:1\r\n:1"},
        {{"BT.INSERT", "18446744073709551615", "last"}, ":1"},
        {{"BT.COUNT", "18446744073709551615", "18446744073709551615"}, ":1"},
    };
    Done done{"Redis MULTI ... EXEC, BT.INSERT, BT.COUNT"};
    const double begun = now_seconds();
    for (const auto& [command, wanted] : samples) {
      const auto replies = link_->call({command});
      if (!replies) return replies.error();
      const bool right = replies.value().front() == wanted;
      if (!right) {
        std::fprintf(stderr, "%s answered '%s', not '%s'\n", command.front().c_str(),
                     replies.value().front().c_str(), wanted.c_str());
      }
      ++done.commands;
      done.wrong += !right;
    }
    done.seconds = now_seconds() - begun;
    done_.push_back(done);
    return {};
  }

  void say(const char* what) const {
    if (arguments_.json) return;
    std::printf("running: %s\n", what);
    std::fflush(stdout);
  }
  static Error interrupted() { return Error{"interrupted"}; }

  void report(const std::vector<statemachine::StateHashes>& hashes,
              const std::string& after) const {
    std::printf("\n%-52s %12s %12s %8s\n", "TRAFFIC", "COMMANDS", "PER SECOND", "WRONG");
    for (const Done& done : done_) {
      std::printf("%-52s %12llu %12.0f %8llu\n", done.what.c_str(),
                  static_cast<unsigned long long>(done.commands), done.per_second(),
                  static_cast<unsigned long long>(done.wrong));
    }
    std::printf("\n");
    for (const std::string& line : render_top({before_}, {after})) {
      std::printf("%s\n", line.c_str());
    }
    std::printf("\n%-10s %16s %18s %18s\n", "REPLICA", "INSTANCE", "STATE HASH", "KEPT HASH");
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      std::printf("replica%-3zu %16llu   %016llx   %016llx\n", i + 1,
                  static_cast<unsigned long long>(raw(hashes[i].executed)),
                  static_cast<unsigned long long>(hashes[i].recomputed),
                  static_cast<unsigned long long>(hashes[i].kept));
    }
    std::printf("\nstate hashes %s\n", equal(hashes) ? "equal" : "DIFFER");
  }

  void report_json(const std::vector<statemachine::StateHashes>& hashes,
                   const std::string& after) const {
    nlohmann::json json = {{"state_hashes_equal", equal(hashes)},
                           {"traffic", nlohmann::json::array()}};
    for (const Done& done : done_) {
      json["traffic"].push_back({{"what", done.what},
                                 {"commands", done.commands},
                                 {"commands_per_second", done.per_second()},
                                 {"wrong", done.wrong}});
    }
    json["telemetry"] = nlohmann::json::parse(after);
    std::printf("%s\n", json.dump(2).c_str());
  }

  static bool equal(const std::vector<statemachine::StateHashes>& hashes) {
    for (const statemachine::StateHashes& one : hashes) {
      if (one.recomputed != hashes.front().recomputed || one.recomputed != one.kept) return false;
      if (one.executed != hashes.front().executed) return false;
    }
    return true;
  }

  Status verdict(const std::vector<statemachine::StateHashes>& hashes) const {
    if (!equal(hashes))
      return Error{"the replicas' states differ: this is a bug, please report it"};
    for (const Done& done : done_) {
      if (done.wrong != 0) {
        return Error{done.what + ": " + std::to_string(done.wrong) +
                     " wrong replies: this is a bug, please report it"};
      }
    }
    return {};
  }

  const Arguments arguments_;
  const StopSignals signals_;  // before any thread
  std::unique_ptr<KvWorkload> kv_;
  std::unique_ptr<BtreeWorkload> btree_;
  std::unique_ptr<Traffic> kv_traffic_;
  std::unique_ptr<Traffic> btree_traffic_;
  std::unique_ptr<Cluster> cluster_;  // its threads end before what they poll goes
  dataplane::Endpoint listen_;
  std::unique_ptr<RedisLink> link_;
  std::string before_;
  std::vector<Done> done_;
};

}  // namespace

void add_demo_command(CLI::App& app, int& status) {
  CLI::App* demo = app.add_subcommand(
      "demo",
      "An embedded cluster under client traffic, and a table of what it did; exit 1 if a "
      "reply was wrong or the replicas' states differ");
  auto arguments = std::make_shared<Arguments>();
  demo->add_option("--seconds", arguments->seconds, "Length of each part")
      ->check(CLI::Range(0.1, 60.0))
      ->capture_default_str();
  demo->add_flag("--json", arguments->json, "Report as one JSON object");
  demo->callback([arguments, &status] {
    const Status done = Demo(*arguments).run();
    if (!done) print_error(done.error().message);
    status = done ? 0 : 1;
  });
}

}  // namespace annulus::tools
