// Endpoints: parsing, printing, multicast ranges.
#include "dataplane/transport.h"

#include <gtest/gtest.h>

namespace annulus::dataplane {
namespace {

TEST(Endpoint, ParsesWhatItPrints) {
  for (const char* text : {"10.0.0.1:4000", "255.255.255.255:65535", "0.0.0.0:1"}) {
    const Result<Endpoint> endpoint = parse_endpoint(text);
    ASSERT_TRUE(endpoint) << text;
    EXPECT_EQ(to_string(endpoint.value()), text);
  }
  EXPECT_EQ(parse_endpoint("1.2.3.4:5").value(), (Endpoint{0x01020304, 5}));
}

TEST(Endpoint, RefusesAnythingElseAndQuotesIt) {
  for (const char* text :
       {"", ":", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:4000x",
        "10.0.0.1:-1", "10.0.0.1: 4000", "10.0.0.256:4000", "10.0.1:4000", "node:4000", ":4000",
        " 10.0.0.1:4000", "10.0.0.1:4000:4000", "10.0.0.1:99999999999999999999"}) {
    const Result<Endpoint> endpoint = parse_endpoint(text);
    ASSERT_FALSE(endpoint) << text;
    const std::string message = endpoint.error().message;
    EXPECT_TRUE(message.starts_with(std::string("'").append(text).append("'"))) << message;
    EXPECT_NE(message.find("10.0.0.1:4000"), std::string::npos) << message;
  }
}

TEST(Endpoint, KnowsMulticast) {
  EXPECT_TRUE(parse_endpoint("224.0.0.1:1").value().multicast());
  EXPECT_TRUE(parse_endpoint("239.255.255.255:1").value().multicast());
  EXPECT_FALSE(parse_endpoint("223.255.255.255:1").value().multicast());
  EXPECT_FALSE(parse_endpoint("240.0.0.0:1").value().multicast());
}

}  // namespace
}  // namespace annulus::dataplane
