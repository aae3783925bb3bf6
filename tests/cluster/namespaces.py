"""The network namespaces that netns.sh made: what runs in them, and the devices there."""

import os
import socket

# Device of node K's e0 by driver and MTU.
DEVICES = {
    ("af_packet", 1500): "net_af_packet0,iface=e0,blocksz=4096,framesz=2048,framecnt=512",
    ("af_packet", 9000): "net_af_packet0,iface=e0,blocksz=16384,framesz=16384,framecnt=256",
    ("af_xdp", 1500): "net_af_xdp0,iface=e0",
}


def kernel_has_xdp():
    af_xdp = 44
    try:
        socket.socket(af_xdp, socket.SOCK_RAW).close()
    except OSError:
        return False
    return True


def in_namespace(k):
    """Starts a program on node k."""
    return ["ip", "netns", "exec", f"{os.environ['ANNULUS_NETNS']}-{k}"]
