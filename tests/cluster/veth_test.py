#!/usr/bin/env python3
"""Two DPDK ports and one kernel host on a bridge: real frames over af_packet and af_xdp. The kernel
host finds the ports by ARP, pings them, and talks UDP with them both ways, checksums verified.

Usage: veth_test.py (af_packet|af_xdp) DPDK_PEER MTU     (under netns.sh --kernel 3 3 MTU)
"""

import os
import select
import socket
import struct
import subprocess
import sys

from namespaces import DEVICES, in_namespace, kernel_has_xdp
from peers import Peer, eventually

GROUP = "239.77.0.1:4100"
KERNEL_ADDRESS = "10.77.0.3"


def enter_namespace(k):
    """Moves this thread, and so the sockets that it opens, into node k's namespace."""
    import ctypes
    with open(f"/run/netns/{os.environ['ANNULUS_NETNS']}-{k}", encoding="ascii") as namespace:
        assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) == 0


def internet_checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def echo_request(address, size, timeout=0.5):
    """One ping; True when the same bytes come back."""
    body = struct.pack("!BBHHH", 8, 0, 0, 0x4e41, size) + os.urandom(size)
    request = body[:2] + struct.pack("!H", internet_checksum(body)) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ping:
        ping.sendto(request, (address, 0))
        while select.select([ping], [], [], timeout)[0]:
            packet = ping.recv(65536)
            message = packet[(packet[0] & 15) * 4:]
            # The kernel has verified the IPv4 checksum; the ICMP one is ours to verify.
            if message[0] == 0 and message[4:] == request[4:]:
                return internet_checksum(message) == 0
    return False


def answers_ping(mtu):
    for node in (1, 2):
        eventually(f"node {node} answers a ping", lambda: echo_request(f"10.77.0.{node}", 56))
    for size in (0, 1, 999, mtu - 28):
        assert echo_request("10.77.0.1", size, 5), f"ping of {size} bytes"
    neighbours = subprocess.run([*in_namespace(3), "ip", "neigh", "show", "dev", "e0"],
                                capture_output=True, text=True, check=True).stdout
    assert "10.77.0.1 lladdr" in neighbours and "10.77.0.2 lladdr" in neighbours, neighbours


def talks_to_the_kernel(peer, mtu):
    """The kernel drops what has a wrong checksum, and so does the peer: both directions count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((KERNEL_ADDRESS, 5000))
        client.settimeout(5)
        for size in (1, 2, 255, 257, 1000, mtu - 28):
            sent = os.urandom(size)
            client.sendto(sent, ("10.77.0.1", 4000))
            received, sender = client.recvfrom(65536)
            assert received == sent and sender == ("10.77.0.1", 4000), f"echo of {size} bytes"
    packet = peer.report()["packet"]
    assert packet["rx_drop_bad_udp_checksum"] == 0 and packet["rx_drop_bad_ip_checksum"] == 0
    assert peer.report()["transport"]["rx_drop_bad_header"] == 0, packet


def sends_first(peer):
    """The peer finds the kernel host by ARP itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((KERNEL_ADDRESS, 5001))

        def arrived():
            peer.tell(f"send {KERNEL_ADDRESS}:5001 1 700")
            return select.select([server], [], [], 0.3)[0]
        eventually("the kernel host hears from the peer", arrived)
        assert len(server.recv(65536)) == 724


def refuses_bad_checksums(peer):
    """A datagram with one wrong bit in its UDP checksum, made by hand."""
    before = peer.report()
    body = b"wrong"
    length = 8 + len(body)
    pseudo = socket.inet_aton(KERNEL_ADDRESS) + socket.inet_aton("10.77.0.1") + \
        struct.pack("!BBH", 0, 17, length)
    header = struct.pack("!HHHH", 5002, 4000, length, 0)
    checksum = internet_checksum(pseudo + header + body) ^ 1
    datagram = struct.pack("!HHHH", 5002, 4000, length, checksum) + body
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(datagram, ("10.77.0.1", 0))
    eventually("the datagram is dropped by name", lambda:
               peer.report()["packet"]["rx_drop_bad_udp_checksum"] ==
               before["packet"]["rx_drop_bad_udp_checksum"] + 1)
    assert peer.report()["foreign"] == before["foreign"]


def multicast(a, b, mtu):
    """From peer to peer, from the kernel to both, and from a peer to the kernel."""
    before = b.from_peer(a)["received"]
    a.send(GROUP, 100, mtu - 28 - 24)
    eventually("peer to peer", lambda: b.from_peer(a)["received"] == before + 100)
    address, port = GROUP.split(":")
    member = socket.inet_aton(address) + socket.inet_aton(KERNEL_ADDRESS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
        kernel.bind(("", int(port)))
        kernel.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        kernel.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                          socket.inet_aton(KERNEL_ADDRESS))
        kernel.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        a.send(GROUP, 1, 500)
        kernel.settimeout(5)
        assert len(kernel.recv(65536)) == 524, "a peer's multicast reaches the kernel"
        counts = [peer.report()["foreign"] for peer in (a, b)]
        kernel.sendto(b"to all of you", (address, int(port)))
        eventually("the kernel's multicast reaches both", lambda:
                   [peer.report()["foreign"] for peer in (a, b)] == [n + 1 for n in counts])


def main():
    driver, program, mtu = sys.argv[1], sys.argv[2], int(sys.argv[3])
    device = DEVICES[driver, mtu]
    if driver == "af_xdp" and not kernel_has_xdp():
        print("this kernel has no AF_XDP sockets")
        sys.exit(77)
    started = []
    try:
        for k in (1, 2):
            started.append(Peer(program, device, f"10.77.0.{k}:4000", mtu, GROUP,
                                prefix=in_namespace(k)))
        a, b = started
        for peer in started:
            peer.await_ready()
        # The sockets of this thread belong to node 3; the peers' pipes work from anywhere.
        enter_namespace(3)
        answers_ping(mtu)
        a.meet(b)
        b.meet(a)
        a.send(b.address, 200, mtu - 28 - 24)
        eventually("frames of the full MTU arrive whole", lambda: b.from_peer(a)["received"] >= 200)
        assert b.from_peer(a)["corrupt"] == 0
        sends_first(a)
        multicast(a, b, mtu)
        a.tell("echo")
        a.report()  # has read both lines
        talks_to_the_kernel(a, mtu)
        refuses_bad_checksums(a)
        print(f"{driver} mtu {mtu}: ok", flush=True)
    finally:
        for process in started:
            process.end()


if __name__ == "__main__":
    main()
