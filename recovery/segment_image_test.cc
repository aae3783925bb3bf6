#include "recovery/segment_image.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "statemachine/btree/btree.h"
#include "statemachine/kv/kv.h"
#include "statemachine/service_harness.h"

namespace annulus::recovery {
namespace {

using namespace statemachine;

constexpr std::uint64_t kLimit = std::uint64_t{512} << 20;
const ImageIdentity kIdentity{0x1234'5678, consensus::NodeId{7}, {2, consensus::Instance{99}}};

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span{text}); }

template <typename Request>
std::string body_of(const Request& request) {
  std::string body(body_bytes(request), '\0');
  encode(request, std::as_writable_bytes(std::span{body}));
  return body;
}

/// Either service, with commands that fill it and commands that ask for everything in it.
struct Case {
  std::string name;
  std::unique_ptr<Service> (*make)();
  std::string (*fill)(std::mt19937_64& random);
  std::string (*ask)(std::uint64_t n);
};

std::string random_value(std::mt19937_64& random, std::uint32_t most) {
  return std::string(random() % (random() % 8 == 0 ? most : 40), static_cast<char>(random()));
}

const Case kCases[] = {
    {"kv",
     []() -> std::unique_ptr<Service> {
       return std::make_unique<kv::KvService>(kv::KvOptions{.limit_bytes = kLimit});
     },
     [](std::mt19937_64& random) {
       const std::string key = "key" + std::to_string(random() % 30'000);
       const std::string value = random_value(random, 5'000);
       const bool remove = random() % 4 == 0;
       return body_of(kv::KvRequest{.op = remove ? kv::KvOp::kRemove : kv::KvOp::kPut,
                                    .key = bytes(key),
                                    .value = remove ? kv::Bytes{} : bytes(value)});
     },
     [](std::uint64_t n) {
       const std::string key = "key" + std::to_string(n);
       return body_of(kv::KvRequest{.op = kv::KvOp::kRead, .key = bytes(key)});
     }},
    {"btree",
     []() -> std::unique_ptr<Service> {
       return std::make_unique<btree::BtreeService>(btree::BtreeOptions{.limit_bytes = kLimit});
     },
     [](std::mt19937_64& random) {
       const std::uint64_t key = random() % 30'000 * 64;
       const std::string value = random_value(random, 1'000);
       const bool remove = random() % 4 == 0;
       return body_of(
           btree::BtreeRequest{.op = remove ? btree::BtreeOp::kDelete : btree::BtreeOp::kInsert,
                               .key = key,
                               .value = remove ? btree::Bytes{} : bytes(value)});
     },
     [](std::uint64_t n) {
       return body_of(btree::BtreeRequest{
           .op = btree::BtreeOp::kRange, .key = n * 64, .last = (n + 5) * 64, .limit = 20});
     }},
};

/// Every answer and hash of a service, and what some more commands change in them.
std::string everything(const Case& which, Service& service) {
  ServiceHarness harness;
  std::string all;
  std::mt19937_64 random(99);
  for (int pass = 0; pass < 2; ++pass) {
    for (std::uint64_t n = 0; n < 30'000; n += 100) {
      std::vector<std::string> asks;
      for (std::uint64_t i = n; i < n + 100; ++i) asks.push_back(which.ask(i));
      for (const Answer& answer : harness.run_all(service, asks)) {
        all += std::to_string(static_cast<int>(answer.status)) + answer.bytes + "\n";
      }
    }
    std::vector<ContentHash> hashes(service.key_classes());
    service.recompute_hashes(hashes);
    all += std::string(reinterpret_cast<const char*>(hashes.data()),
                       hashes.size() * sizeof(hashes[0]));
    EXPECT_TRUE(hashes_agree(service));
    for (int i = 0; i < 2'000; ++i) harness.run(service, which.fill(random));
  }
  return all;
}

std::unique_ptr<Service> filled(const Case& which) {
  std::unique_ptr<Service> service = which.make();
  ServiceHarness harness;
  std::mt19937_64 random(5);
  for (int i = 0; i < 60'000; ++i) harness.run(*service, which.fill(random));
  return service;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

/// A directory that goes away with the test.
class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/annulus-image-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Scratch() {
    for (const char* file : {"image", "image.part", "expected"}) {
      unlink(file_path(file).c_str());
    }
    rmdir(path_.c_str());
  }
  std::string file_path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

constexpr const char* kChildVariable = "ANNULUS_SEGMENT_IMAGE_TEST";

class SegmentImage : public testing::TestWithParam<int> {
 protected:
  const Case& which() const { return kCases[GetParam()]; }
};

std::string address_of(Service& service) {
  return std::to_string(reinterpret_cast<std::uintptr_t>(service.segments().at(SegmentId{0})));
}

// The parent loads a service, writes image and answers, and starts this same test in a new process,
// which loads the image at other addresses and must answer and hash as the parent did.
TEST_P(SegmentImage, AnswersTheSameInAFreshProcess) {
  if (const char* directory = std::getenv(kChildVariable)) {
    const std::unique_ptr<Service> decoy = which().make();
    const std::unique_ptr<Service> service = which().make();
    const std::string base = directory;
    const std::string expected = read_file(base + "/expected");
    const Status status = read_segment_image(base + "/image", kIdentity, *service);
    ASSERT_TRUE(status.ok()) << status.error().message;
    const std::string parents = expected.substr(0, expected.find('\n'));
    // Address randomisation may repeat itself: of two services one must lie elsewhere.
    ASSERT_TRUE(address_of(*service) != parents || address_of(*decoy) != parents);
    if (address_of(*service) == parents) {
      ASSERT_TRUE(read_segment_image(base + "/image", kIdentity, *decoy).ok());
    }
    Service& other = address_of(*service) == parents ? *decoy : *service;
    ASSERT_EQ(everything(which(), other), expected.substr(parents.size() + 1));
    return;
  }
  const Scratch scratch;
  const std::unique_ptr<Service> service = filled(which());
  ASSERT_TRUE(write_segment_image(scratch.file_path("image"), kIdentity, *service).ok());
  write_file(scratch.file_path("expected"),
             address_of(*service) + "\n" + everything(which(), *service));
  std::string directory = scratch.file_path("");
  directory.pop_back();
  const std::string filter = "--gtest_filter=Services/SegmentImage.AnswersTheSameInAFreshProcess/" +
                             std::to_string(GetParam());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    setenv(kChildVariable, directory.c_str(), 1);
    execl("/proc/self/exe", "recovery_test", filter.c_str(),
          "--gtest_output=", static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "see the child's output above";
}

TEST_P(SegmentImage, DamageIsFound) {
  const Scratch scratch;
  const std::string path = scratch.file_path("image");
  std::unique_ptr<Service> service = which().make();
  ServiceHarness harness;
  std::mt19937_64 random(6);
  for (int i = 0; i < 300; ++i) harness.run(*service, which().fill(random));
  ASSERT_TRUE(write_segment_image(path, kIdentity, *service).ok());
  const std::string whole = read_file(path);
  const auto fails = [&](const std::string& content, const ImageIdentity& identity) {
    write_file(path, content);
    const Status status = read_segment_image(path, identity, *service);
    const std::vector<ContentHash> none(service->key_classes());
    std::vector<ContentHash> hashes(service->key_classes());
    service->hashes(hashes);
    return !status.ok() && hashes == none && service->segments().count() == 0;
  };
  for (int i = 0; i < 200; ++i) {
    std::string bad = whole;
    const std::size_t at = i < 80 ? static_cast<std::size_t>(i) : random() % bad.size();
    bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
    ASSERT_TRUE(fails(bad, kIdentity)) << "byte " << at;
    ASSERT_TRUE(fails(whole.substr(0, random() % whole.size()), kIdentity));
  }
  EXPECT_TRUE(fails(whole + "x", kIdentity));
  ImageIdentity other = kIdentity;
  other.cluster = 1;
  EXPECT_TRUE(fails(whole, other));
  other = kIdentity;
  other.position.instance = consensus::Instance{100};
  EXPECT_TRUE(fails(whole, other));
  // Sound records in the wrong order.
  ImageRecord first;
  std::memcpy(static_cast<void*>(&first), whole.data() + sizeof(ImageHeader), sizeof(first));
  const std::size_t one = sizeof(first) + first.bytes;
  const std::string rest = whole.substr(sizeof(ImageHeader) + one);
  EXPECT_TRUE(
      fails(whole.substr(0, sizeof(ImageHeader)) + rest + whole.substr(sizeof(ImageHeader), one),
            kIdentity));
  write_file(path, whole);
  EXPECT_TRUE(read_segment_image(path, kIdentity, *service).ok());
  EXPECT_FALSE(read_segment_image(path + ".none", kIdentity, *service).ok());
}

TEST(SegmentImageOfAnotherService, IsRefused) {
  const Scratch scratch;
  const std::unique_ptr<Service> kv = kCases[0].make();
  const std::unique_ptr<Service> btree = kCases[1].make();
  const std::string path = scratch.file_path("image");
  ASSERT_TRUE(write_segment_image(path, kIdentity, *kv).ok());
  EXPECT_FALSE(read_segment_image(path, kIdentity, *btree).ok());
  EXPECT_FALSE(write_segment_image("/nonexistent/image", kIdentity, *kv).ok());
}

INSTANTIATE_TEST_SUITE_P(Services, SegmentImage, testing::Range(0, 2));

}  // namespace
}  // namespace annulus::recovery
