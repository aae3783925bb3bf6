#include "tools/config.h"

#include <gtest/gtest.h>

#include "consensus/membership.h"
#include "tools/services.h"
#include "tools/transports.h"

namespace annulus::tools {
namespace {

const char* const kThree = R"(
[cluster]
id = 0x1234
transport = "udp"
group = "239.10.0.1:4100"

[[acceptors]]
name = "a1"
id = 1
address = "127.0.0.1:4101"
[[acceptors]]
name = "a2"
id = 2
address = "127.0.0.1:4102"
[[acceptors]]
name = "a3"
id = 3
address = "127.0.0.1:4103"
[[replicas]]
name = "r1"
id = 11
address = "127.0.0.1:4111"
partitions = [0, 5]
[[proxies]]
name = "p1"
id = 21
address = "127.0.0.1:4121"
listen = "127.0.0.1:6379"
)";

/// kThree with the first `from` replaced.
std::string with(const std::string& from, const std::string& to) {
  std::string text = kThree;
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string error_of(const std::string& text) {
  const Result<Config> config = parse_config(text, "c.toml");
  EXPECT_FALSE(config.ok());
  return config.ok() ? "" : config.error().message;
}

void expect_error(const std::string& text, const std::string& start, const std::string& part) {
  const std::string error = error_of(text);
  EXPECT_EQ(error.rfind(start, 0), 0u) << error;
  EXPECT_NE(error.find(part), std::string::npos) << error;
  EXPECT_EQ(error.find('\n'), std::string::npos) << "one mistake, one line: " << error;
}

TEST(Config, ReadsEveryPart) {
  const Result<Config> config = parse_config(kThree, "c.toml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const ClusterConfig& cluster = config->cluster;
  EXPECT_EQ(cluster.id, 0x1234u);
  EXPECT_EQ(cluster.nodes.size(), 5u);
  EXPECT_EQ(cluster.count(NodeKind::kAcceptor), 3u);
  ASSERT_NE(cluster.find("r1"), nullptr);
  EXPECT_EQ(raw(cluster.find("r1")->partitions), 0b100001u);
  EXPECT_EQ(cluster.find("p1")->listen.port, 6379);
  EXPECT_EQ(cluster.services.size(), service_names().size());
  EXPECT_TRUE(config->warnings.empty());
  const consensus::Configuration ring = ring_configuration(cluster);
  EXPECT_EQ(ring.acceptors.size(), 3u);
  EXPECT_EQ(ring.majority(), 2);
  EXPECT_EQ(ring.learners.at(0).id, consensus::NodeId{11});
  EXPECT_EQ(ring.group.port, 4100);
}

TEST(Config, EffectiveTextReadsBackTheSame) {
  const Result<Config> config =
      parse_config(with("transport = \"udp\"", "transport = \"udp\"\nmtu = 9000\nmode = \"smr\"") +
                       "[cores]\nworker = \"0\"\n\"r1.learner\" = \"0\"\n[process]\nruntime = "
                       "'/tmp/a\"b\\c'\nidle = \"yield\"\n",
                   "c.toml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const std::string text = to_toml(*config);
  const Result<Config> again = parse_config(text, "c.toml");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(to_toml(*again), text);
  EXPECT_EQ(again->process.runtime, "/tmp/a\"b\\c");
  EXPECT_EQ(again->process.cores.at("worker"), "0");
  EXPECT_EQ(again->process.cores.at("r1.learner"), "0");
  EXPECT_EQ(fingerprint(again->cluster), fingerprint(config->cluster));
}

TEST(Config, FingerprintCoversWhatMustBeEqualAndNothingElse) {
  const auto of = [](const std::string& text) {
    const Result<Config> config = parse_config(text, "c.toml");
    EXPECT_TRUE(config.ok()) << config.error().message;
    // The members that it starts with are covered as well, where acceptors compare.
    return consensus::fingerprint(ring_configuration(config->cluster),
                                  fingerprint(config->cluster));
  };
  const std::uint64_t base = of(kThree);
  EXPECT_NE(of(with("id = 0x1234", "id = 0x1235")), base);
  EXPECT_NE(of(with("id = 0x1234", "id = 0x1234\nmtu = 9000")), base);
  EXPECT_NE(of(with("127.0.0.1:4102", "127.0.0.1:4105")), base);
  EXPECT_NE(of(with("[0, 5]", "[0, 6]")), base);
  EXPECT_EQ(of(with("127.0.0.1:6379", "127.0.0.1:6380")), base);
  EXPECT_EQ(of(std::string(kThree) + "[cores]\nworker = \"0\"\n"), base);
}

TEST(Config, WhoJoinsIsNoneOfTheFounders) {
  const std::string fourth = "[[acceptors]]\nname = \"a4\"\nid = 4\naddress = \"127.0.0.1:4199\"\n";
  const Result<Config> config =
      parse_config(std::string(kThree) + fourth + "joins = true\n", "c.toml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(ring_configuration(config->cluster).acceptors.size(), 3u);
  EXPECT_TRUE(config->cluster.find("a4")->joins);
  const Result<Config> again = parse_config(to_toml(*config), "c.toml");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_TRUE(again->cluster.find("a4")->joins);
  EXPECT_FALSE(parse_config(std::string(kThree) + fourth, "c.toml").ok());  // four founders
}

TEST(Config, AReplicaThatJoinsIsNoneOfTheFounders) {
  const std::string third = "[[replicas]]\nname = \"r9\"\nid = 9\naddress = \"127.0.0.1:4199\"\n";
  const Result<Config> config =
      parse_config(std::string(kThree) + third + "joins = true\n", "c.toml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const std::size_t founders = parse_config(kThree, "c.toml")->cluster.count(NodeKind::kReplica);
  EXPECT_EQ(ring_configuration(config->cluster).learners.size(), founders);
  EXPECT_EQ(config->cluster.count(NodeKind::kReplica), founders + 1);
}

TEST(ConfigMistakes, WrongKeyNamesTheNearest) {
  expect_error(with("name = \"r1\"", "nmae = \"r1\""), "c.toml:20: ", "did you mean 'name'?");
  expect_error(with("[cluster]", "[cluster]\ndisemination = \"ring\""),
               "c.toml:3: ", "did you mean 'dissemination'?");
  expect_error(std::string(kThree) + "[limts]\nwindow = 3\n",
               "c.toml:29: ", "did you mean 'limits'?");
  expect_error(std::string(kThree) + "[cores]\nwroker = \"0\"\n",
               "c.toml:30: ", "did you mean 'worker'?");
}

TEST(ConfigMistakes, KeyNearToNothingListsTheKnown) {
  expect_error(with("[cluster]", "[cluster]\nzzzzzzzz = 1"), "c.toml:3: ", "known keys: ");
}

TEST(ConfigMistakes, WrongType) {
  expect_error(with("id = 0x1234", "id = \"x\""), "c.toml:3: ", "is a string; it must be an int");
  expect_error(with("name = \"a2\"", "name = 7"), "c.toml:12: ", "is an integer; it must be a str");
  expect_error(with("[0, 5]", "[\"x\"]"), "c.toml:23: ", "an array of integers");
  expect_error(with("[[proxies]]", "[proxies]"), "c.toml:24: ", "[[proxies]]");
}

TEST(ConfigMistakes, WrongChoice) {
  expect_error(with("\"udp\"", "\"udq\""), "c.toml:4: ", "did you mean 'udp'?");
}

TEST(ConfigMistakes, BadAddress) {
  expect_error(with("127.0.0.1:4102", "127.0.0.1"), "c.toml:14: ", "for example 10.0.0.1:4000");
  expect_error(with("127.0.0.1:4102", "127.0.0.256:1"), "c.toml:14: ", "not an endpoint");
  expect_error(with("127.0.0.1:4102", "239.1.1.1:7"), "c.toml:14: ", "multicast");
  expect_error(with("239.10.0.1:4100", "10.0.0.1:4100"), "c.toml:5: ", "239.0.0.0/8");
}

TEST(ConfigMistakes, Duplicates) {
  expect_error(with("\"a2\"", "\"a1\""), "c.toml:12: ", "'a1' is used twice");
  expect_error(with("id = 2", "id = 1"), "c.toml:13: ", "already used by 'a1'");
  expect_error(with("127.0.0.1:4102", "127.0.0.1:4101"), "c.toml:14: ", "already used by 'a1'");
}

TEST(ConfigMistakes, NodeNameThatIsNoFileName) {
  expect_error(with("\"a2\"", "\"../a2\""), "c.toml:12: ", "letters, digits");
}

TEST(ConfigMistakes, CoreThatDoesNotExist) {
  expect_error(std::string(kThree) + "[cores]\nworker = \"4000\"\n",
               "c.toml:30: ", "this machine has cores 0");
  expect_error(std::string(kThree) + "[cores]\nworker = \"1-\"\n",
               "c.toml:30: ", "not a list of CPUs");
}

TEST(ConfigMistakes, RingWithoutMajority) {
  const std::string text = kThree;
  const std::size_t third = text.find("[[acceptors]]\nname = \"a3\"");
  const std::size_t replicas = text.find("[[replicas]]");
  expect_error(text.substr(0, third) + text.substr(replicas), "c.toml: ", "list 2f+1");
  const std::size_t first = text.find("[[acceptors]]");
  expect_error(text.substr(0, first) + text.substr(replicas), "c.toml: ", "majority");
}

TEST(ConfigMistakes, SingleAcceptorIsAWarning) {
  const std::string text = kThree;
  const std::size_t second = text.find("[[acceptors]]\nname = \"a2\"");
  const Result<Config> config =
      parse_config(text.substr(0, second) + text.substr(text.find("[[replicas]]")), "c.toml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->warnings.size(), 1u);
}

TEST(ConfigMistakes, OutOfRange) {
  expect_error(with("id = 0x1234", "id = 1\nmtu = 1000"), "c.toml:4: ", "1280 to 65535");
  expect_error(with("id = 11", "id = 16777216"), "c.toml:21: ", "1 to 1048575");
  expect_error(with("[0, 5]", "[64]"), "c.toml:23: ", "0 to 63");
  expect_error(std::string(kThree) + "[limits]\nvalue_bytes = 1000000\n", "c.toml:30: ", "to 8");
  expect_error(std::string(kThree) + "[limits]\nwindow = 100\n", "c.toml:30: ", "such as 128");
  expect_error(std::string(kThree) + "[limits]\nretain = 64\n", "c.toml:30: ", "1024 to ");
  expect_error(std::string(kThree) + "[limits]\nwindow = 1024\n", "c.toml:30: ", "1 to 512");
  expect_error(std::string(kThree) + "[limits]\nretain_mb = 31\n",
               "c.toml:30: ", "at least 32, twice what 'window' values of 'value_bytes' take");
}

TEST(ConfigMistakes, DiskNeedsADirectoryForEachAcceptor) {
  const std::string error = error_of(with("id = 0x1234", "id = 1\ndurability = \"disk\""));
  for (const char* line : {"c.toml:8: ", "c.toml:12: ", "c.toml:16: "}) {
    EXPECT_NE(error.find(line + std::string("[[acceptors]] has no 'directory'")), std::string::npos)
        << error;
  }
  expect_error(with("id = 1\n", "id = 1\ndirectory = \"/a\"\n"), "c.toml:10: ", "durability");
  expect_error(with("id = 1\n", "id = 1\nlog_mb = 5\n"), "c.toml:10: ", "durability");
}

TEST(ConfigTest, DirectoriesOfADiskClusterAreKept) {
  std::string text = with("id = 0x1234", "id = 1\ndurability = \"disk\"");
  std::string::size_type at = 0;
  for (int i = 0; (at = text.find("[[acceptors]]\n", at)) != std::string::npos; ++i) {
    at += std::string("[[acceptors]]\n").size();
    text.insert(at, "directory = \"/a" + std::to_string(i) + "\"\nlog_mb = 64\n");
  }
  const auto config = parse_config(text, "c.toml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto again = parse_config(to_toml(*config), "again.toml");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(again->cluster.durability, Durability::kDisk);
  EXPECT_EQ(again->cluster.nodes[0].directory, "/a0");
  EXPECT_EQ(again->cluster.nodes[0].log_mb, 64u);
  EXPECT_EQ(fingerprint(again->cluster), fingerprint(config->cluster));
}

TEST(ConfigTest, OnlyNodesThatEverythingWakesMaySleep) {
  ClusterConfig cluster = parse_config(kThree, "c.toml").value().cluster;
  for (const NodeConfig& node : cluster.nodes) EXPECT_TRUE(host_of(cluster, node).wakes);
  EXPECT_EQ(host_of(cluster, cluster.nodes[2]).processes, 5u);
  EXPECT_EQ(host_of(cluster, cluster.nodes[2]).process, 2u);
  // Nobody of a cluster with logs: a node that yields gets little beside one that never does.
  cluster.durability = Durability::kDisk;
  for (const NodeConfig& node : cluster.nodes) EXPECT_FALSE(host_of(cluster, node).wakes);
  cluster.durability = Durability::kMemory;
  cluster.transport = TransportKind::kDpdk;
  EXPECT_FALSE(host_of(cluster, cluster.nodes[0]).wakes);
}

TEST(ConfigMistakes, MissingKeys) {
  expect_error(with("id = 0x1234\n", ""), "c.toml:2: ", "has no 'id'");
  expect_error(with("group = \"239.10.0.1:4100\"\n", ""), "c.toml:2: ", "has no 'group'");
  const std::string error = error_of(with("\"udp\"", "\"dpdk\""));
  EXPECT_EQ(error.rfind("c.toml:7: [[acceptors]] has no 'device'", 0), 0u) << error;
}

TEST(ConfigMistakes, AllAreReportedAtOnceInFileOrder) {
  const std::string error =
      error_of("[cluster]\nid = 1\nmtu = 3\n[[replicas]]\nid = 0\naddress = \"x\"\n");
  EXPECT_NE(error.find("c.toml:3: 'mtu'"), std::string::npos) << error;
  EXPECT_NE(error.find("c.toml:5: 'id'"), std::string::npos) << error;
  EXPECT_LT(error.find("c.toml:3:"), error.find("c.toml:6:")) << error;
}

TEST(ConfigMistakes, NotToml) { expect_error("[cluster\nid = 1\n", "c.toml:1: ", "TOML"); }

TEST(ConfigMistakes, NoSuchFile) {
  const Result<Config> config = load_config("/nonexistent/c.toml");
  ASSERT_FALSE(config.ok());
  EXPECT_NE(config.error().message.find("/nonexistent/c.toml"), std::string::npos);
}

TEST(NearestName, SwapsCountOnce) {
  EXPECT_EQ(nearest_name("wroker", {"worker", "proxy"}), "worker");
  EXPECT_EQ(nearest_name("quux", {"worker", "proxy"}), "");
}

}  // namespace
}  // namespace annulus::tools
