// Every check against a machine that fails it: the message names what, where, and how to mend it.
#include "dataplane/dpdk/host_checks.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace annulus::dataplane {
namespace {

namespace fs = std::filesystem;

void expect_error(const Status& status, std::initializer_list<const char*> parts) {
  ASSERT_FALSE(status.ok());
  for (const char* part : parts) {
    EXPECT_NE(status.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << status.error().message;
  }
}

/// A directory in the place of /sys.
class HostChecks : public testing::Test {
 protected:
  void SetUp() override {
    sys_ = fs::temp_directory_path() / ("annulus_sys_" + std::to_string(getpid()));
    fs::create_directories(sys_ / "bus/pci/drivers");
    fs::create_directories(sys_ / "kernel/mm/hugepages");
  }
  void TearDown() override { fs::remove_all(sys_); }
  void add_pci(const std::string& address, const std::string& driver) {
    const fs::path device = sys_ / "bus/pci/devices" / address;
    fs::create_directories(device);
    if (driver.empty()) return;
    fs::create_directories(sys_ / "bus/pci/drivers" / driver);
    fs::create_directory_symlink(sys_ / "bus/pci/drivers" / driver, device / "driver");
  }
  void add_hugepages(const std::string& size, int free) {
    const fs::path directory = sys_ / "kernel/mm/hugepages" / ("hugepages-" + size);
    fs::create_directories(directory);
    std::ofstream(directory / "free_hugepages") << free << "\n";
  }
  fs::path sys_;
};

TEST_F(HostChecks, DeviceStrings) {
  EXPECT_TRUE(is_pci_device("0000:01:00.0"));
  EXPECT_TRUE(is_pci_device("01:00.1,arg=1"));
  EXPECT_FALSE(is_pci_device("net_memif0,socket=/a:b"));
  EXPECT_EQ(device_name("net_memif0,role=client"), "net_memif0");
  EXPECT_EQ(device_argument("net_af_packet0,iface=e0,framesz=16384", "iface"), "e0");
  EXPECT_EQ(device_argument("net_af_packet0,iface=e0,framesz=16384", "framesz"), "16384");
  EXPECT_EQ(device_argument("net_af_packet0,iface=e0", "framesz"), "");
}

TEST_F(HostChecks, MemifStringsAreCompleted) {
  EXPECT_EQ(complete_device("net_memif0,socket=/d/1.sock", 0x0a4d0003, 1500),
            "net_memif0,socket=/d/1.sock,socket-abstract=no,mac=02:00:0a:4d:00:03");
  const std::string whole = "net_memif0,socket=/d/1.sock,socket-abstract=yes,mac=02:00:00:00:00:01";
  EXPECT_EQ(complete_device(whole, 0x0a4d0003, 1500), whole);
  EXPECT_EQ(complete_device(whole, 1, 9000), whole + ",bsize=9024");
  EXPECT_EQ(complete_device(whole, 1, 65'000), whole + ",bsize=65024,rsize=8");
  EXPECT_EQ(complete_device(whole + ",bsize=2048", 1, 9000), whole + ",bsize=2048");
  EXPECT_EQ(complete_device("net_ring0", 1, 9000), "net_ring0");
}

TEST_F(HostChecks, PciDeviceThatIsNotThere) {
  expect_error(check_pci_device(sys_, "0000:99:00.0"),
               {"0000:99:00.0", "no such PCI device", "dpdk-devbind.py --status"});
}

TEST_F(HostChecks, PciDeviceOfTheKernel) {
  add_pci("0000:01:00.0", "ixgbe");
  expect_error(check_pci_device(sys_, "0000:01:00.0"),
               {"bound to the kernel's driver 'ixgbe'", "--bind=vfio-pci 0000:01:00.0"});
  expect_error(check_pci_device(sys_, "01:00.0"), {"--bind=vfio-pci 0000:01:00.0"});
}

TEST_F(HostChecks, PciDeviceWithoutDriver) {
  add_pci("0000:01:00.0", "");
  expect_error(check_pci_device(sys_, "0000:01:00.0"), {"no driver", "--bind=vfio-pci"});
}

TEST_F(HostChecks, PciDevicesThatDpdkMayUse) {
  add_pci("0000:01:00.0", "vfio-pci");
  add_pci("0000:02:00.0", "mlx5_core");
  EXPECT_TRUE(check_pci_device(sys_, "0000:01:00.0").ok());
  EXPECT_TRUE(check_pci_device(sys_, "0000:02:00.0,mprq_en=1").ok());
}

TEST_F(HostChecks, Hugepages) {
  expect_error(check_hugepages(sys_, 96),
               {"0 MiB are free", "96 MiB are needed", "vm.nr_hugepages=48", "hugepages = false"});
  add_hugepages("2048kB", 40);
  expect_error(check_hugepages(sys_, 96), {"80 MiB are free"});
  add_hugepages("1048576kB", 1);
  EXPECT_TRUE(check_hugepages(sys_, 96).ok());
}

TEST_F(HostChecks, Interfaces) {
  EXPECT_TRUE(check_interface("lo", 1500).ok());
  expect_error(check_interface("nosuch0", 1500), {"'nosuch0'", "none of that name", "ip link"});
  expect_error(check_interface("", 1500), {"iface=NAME"});
  expect_error(check_interface("lo", 100'000),
               {"'lo'", "65536", "100000", "ip link set lo mtu 100000"});
}

TEST_F(HostChecks, FramesThatDoNotFitTheDevice) {
  EXPECT_TRUE(check_frame_room("net_af_packet0,iface=e0", 1500).ok());
  expect_error(check_frame_room("net_af_packet0,iface=e0", 9000),
               {"2048", "9000", "framesz=16384"});
  EXPECT_TRUE(check_frame_room("net_af_packet0,iface=e0,framesz=16384", 9000).ok());
  expect_error(check_frame_room("net_af_xdp0,iface=e0", 9000), {"3000 at most", "net_af_packet"});
  expect_error(check_frame_room("net_memif0,bsize=2048", 9000), {"2048", "9000", "9018"});
  EXPECT_TRUE(check_frame_room("net_memif0,bsize=9024", 9000).ok());
  EXPECT_TRUE(check_frame_room("net_memif0,role=server", 9000).ok());
}

}  // namespace
}  // namespace annulus::dataplane
