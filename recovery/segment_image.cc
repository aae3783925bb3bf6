#include "recovery/segment_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>

#include "dataplane/hash.h"

namespace annulus::recovery {

namespace {

using statemachine::SegmentId;
using statemachine::SegmentStore;

/// An open file that closes itself.
class File {
 public:
  File(const std::string& path, int flags)
      : path_(path), descriptor_(open(path.c_str(), flags, 0600)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  bool ok() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }
  Error error(const char* doing) const {
    return Error{std::string(doing) + " " + path_ + ": " + std::strerror(errno)};
  }

  bool write_all(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t done = write(descriptor_, bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
    return true;
  }
  /// Fewer bytes than asked for only at the end of the file, or after an error.
  std::size_t read_all(std::span<std::byte> bytes) {
    std::size_t got = 0;
    while (got < bytes.size()) {
      const ssize_t done = read(descriptor_, bytes.data() + got, bytes.size() - got);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) break;
      got += static_cast<std::size_t>(done);
    }
    return got;
  }

 private:
  std::string path_;
  int descriptor_;
};

template <typename T>
std::span<const std::byte> bytes_of(const T& object) {
  return std::as_bytes(std::span{&object, 1});
}

ImageHeader make_header(const ImageIdentity& identity, const SegmentStore& segments) {
  ImageHeader header{};
  header.magic = kImageMagic;
  header.version = kImageVersion;
  header.ring = identity.position.ring;
  header.service = segments.service();
  header.cluster = identity.cluster;
  header.instance = raw(identity.position.instance);
  header.node = raw(identity.node);
  header.segment_bytes = segments.segment_bytes();
  header.segments = segments.count();
  header.checksum = dataplane::hash_bytes(bytes_of(header).first(offsetof(ImageHeader, checksum)));
  return header;
}

std::uint64_t record_checksum(const ImageHeader& header, const ImageRecord& record,
                              std::span<const std::byte> bytes) {
  const auto place = bytes_of(record).first(offsetof(ImageRecord, checksum));
  return dataplane::hash_bytes(bytes, dataplane::hash_bytes(place, header.checksum));
}

Error damaged(const std::string& path, const std::string& what) {
  return Error{"segment image " + path + ": " + what +
               ". The state was not loaded; take another copy of the image, or fetch the state "
               "from another replica"};
}

/// Whether the header is one that this service, with this identity, can have written.
Status check_header(const std::string& path, const ImageHeader& header,
                    const ImageIdentity& identity, const SegmentStore& segments) {
  if (header.magic != kImageMagic) return damaged(path, "not a segment image (wrong magic number)");
  if (header.version != kImageVersion) {
    return damaged(path, "format version " + std::to_string(header.version) +
                             ", this program reads " + std::to_string(kImageVersion));
  }
  if (header.checksum !=
      dataplane::hash_bytes(bytes_of(header).first(offsetof(ImageHeader, checksum)))) {
    return damaged(path, "the header's checksum is wrong");
  }
  ImageHeader wanted = make_header(identity, segments);
  if (header.cluster != wanted.cluster || header.node != wanted.node ||
      header.ring != wanted.ring || header.instance != wanted.instance) {
    return damaged(path, "made by node " + std::to_string(header.node) + " of cluster " +
                             std::to_string(header.cluster) + " at instance " +
                             std::to_string(header.instance) + ", not what was asked for");
  }
  if (header.service != wanted.service || header.segment_bytes != wanted.segment_bytes) {
    return damaged(path, "of another service (" + std::to_string(header.service) +
                             "), or with segments of another size");
  }
  if (header.segments > segments.count_max()) {
    return damaged(path, std::to_string(header.segments) +
                             " segments, but the service's limit is " +
                             std::to_string(segments.count_max()) + ": raise its memory limit");
  }
  return {};
}

Status install_all(const std::string& path, File& file, const ImageHeader& header,
                   SegmentStore& segments) {
  const std::unique_ptr<std::byte[]> buffer(new std::byte[segments.segment_bytes()]);
  for (std::uint32_t i = 0; i < header.segments; ++i) {
    const std::string where = "segment " + std::to_string(i);
    ImageRecord record{};
    if (file.read_all(std::as_writable_bytes(std::span{&record, 1})) != sizeof(record)) {
      return damaged(path, "ends before " + where);
    }
    if (record.index != i || record.bytes > segments.segment_bytes()) {
      return damaged(path, where + " is out of place");
    }
    const std::span bytes{buffer.get(), record.bytes};
    if (file.read_all(bytes) != bytes.size()) return damaged(path, "ends within " + where);
    if (record.checksum != record_checksum(header, record, bytes)) {
      return damaged(path, where + " has a wrong checksum");
    }
    const Status sound = segments.verify(bytes);
    if (!sound.ok()) return damaged(path, where + ": " + sound.error().message);
    CHECK(segments.install(bytes).has_value());  // the header's count was checked
  }
  std::byte more;
  if (file.read_all({&more, 1}) != 0) return damaged(path, "has bytes behind the last segment");
  return {};
}

}  // namespace

Status write_segment_image(const std::string& path, const ImageIdentity& identity,
                           statemachine::Service& service) {
  const SegmentStore& segments = service.segments();
  const std::string part_path = path + ".part";
  File file(part_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
  if (!file.ok()) return file.error("cannot create");
  const ImageHeader header = make_header(identity, segments);
  bool written = file.write_all(bytes_of(header));
  std::uint32_t index = 0;
  for (std::uint32_t id = 0; written && id < segments.id_end(); ++id) {
    if (!segments.live(SegmentId{id})) continue;
    const std::span<const std::byte> bytes = segments.bytes(SegmentId{id});
    ImageRecord record{};
    record.index = index++;
    record.bytes = static_cast<std::uint32_t>(bytes.size());
    record.checksum = record_checksum(header, record, bytes);
    written = file.write_all(bytes_of(record)) && file.write_all(bytes);
  }
  if (!written || fsync(file.descriptor()) != 0) {
    const Error error = file.error("cannot write");
    unlink(part_path.c_str());
    return error;
  }
  if (rename(part_path.c_str(), path.c_str()) != 0) return file.error("cannot rename");
  // The name is on disk once its directory is.
  const std::size_t slash = path.rfind('/');
  File directory(slash == std::string::npos ? "." : path.substr(0, slash + 1),
                 O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!directory.ok() || fsync(directory.descriptor()) != 0) return directory.error("cannot sync");
  return {};
}

Status read_segment_image(const std::string& path, const ImageIdentity& identity,
                          statemachine::Service& service) {
  SegmentStore& segments = service.segments();
  segments.clear();
  Status status = [&]() -> Status {
    File file(path, O_RDONLY | O_CLOEXEC);
    if (!file.ok()) return file.error("cannot open segment image");
    ImageHeader header{};
    if (file.read_all(std::as_writable_bytes(std::span{&header, 1})) != sizeof(header)) {
      return damaged(path, "shorter than its header");
    }
    if (Status sound = check_header(path, header, identity, segments); !sound.ok()) return sound;
    return install_all(path, file, header, segments);
  }();
  if (status.ok()) {
    status = service.on_segments_installed();
    if (status.ok()) return status;
    status = damaged(path, status.error().message);
  }
  segments.clear();
  CHECK(service.on_segments_installed().ok());
  return status;
}

}  // namespace annulus::recovery
