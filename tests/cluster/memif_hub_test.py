#!/usr/bin/env python3
"""Processes exchange frames through `annulus hub` over memif: unprivileged, without hugepages, with
faults injected, a process killed and started again, and the hub itself replaced.

Usage: memif_hub_test.py ANNULUS DPDK_PEER
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from peers import Hub, Peer, eventually, unprivileged

GROUP = "239.77.0.1:4100"
ANNULUS, PEER = sys.argv[1:3]


class Cluster:
    """A hub and three peers, gone at the end whatever happens."""

    def __init__(self, directory, options, mtu):
        self.directory, self.options, self.mtu = directory, options, mtu
        self.hub, self.started = None, []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.hub = Hub(ANNULUS, self.directory, 3, "--mtu", str(self.mtu), "--seed", "7",
                       **self.options)
        self.started.append(self.hub)
        self.hub.await_ready()
        self.peers = [self.peer(k) for k in (1, 2, 3)]
        a, b, c = self.peers
        for one, other in ((a, b), (b, a), (a, c), (c, a), (b, c), (c, b)):
            one.meet(other)

    def peer(self, k):
        device = f"net_memif0,role=client,socket={self.directory}/{k}.sock"
        peer = Peer(PEER, device, f"10.77.0.{k}:4000", self.mtu, GROUP, **self.options)
        self.started.append(peer)
        return peer.await_ready()

    def __exit__(self, *_):
        for process in self.started:
            process.end()


def settled(peer, sender):
    """What a peer has received once nothing more arrives."""
    last = peer.from_peer(sender)
    while True:
        time.sleep(0.2)
        now = peer.from_peer(sender)
        if now == last:
            return now
        last = now


def gained(peer, sender, action):
    before = settled(peer, sender)
    action()
    after = settled(peer, sender)
    return {key: after[key] - before[key] for key in after}


def deliver(sender, receiver, to, frames, size):
    """Sends in parts that fit the rings, each once the last has arrived: none may be lost."""
    before = receiver.from_peer(sender)
    for sent in range(100, frames + 1, 100):
        sender.send(to, 100, size)
        eventually(f"{sent} frames of {size} bytes to {to} arrive", lambda:
                   receiver.from_peer(sender)["received"] >= before["received"] + sent)
    after = receiver.from_peer(sender)
    return {key: after[key] - before[key] for key in after}


def whole_frames(cluster):
    a, b, c = cluster.peers
    for size in (0, 300, cluster.mtu - 28 - 24):
        got = deliver(a, b, b.address, 500, size)
        assert got == {"received": 500, "duplicates": 0, "overtaken": 0, "corrupt": 0}, (size, got)
    before = settled(c, a)
    got = deliver(a, b, GROUP, 500, 1000)
    assert got["received"] == 500 and got["corrupt"] == 0, got
    assert settled(c, a)["received"] == before["received"] + 500, "multicast reaches every member"
    assert a.report()["from"].get(a.address) is None, "multicast does not come back to its sender"


def injected_faults(cluster):
    a, b, _ = cluster.peers
    hub = cluster.hub
    hub.tell("loss 0.2")
    counted = hub.counters(2)["fault_lost"]
    got = gained(b, a, lambda: [a.send(b.address, 100, 100) for _ in range(20)])
    lost = hub.counters(2)["fault_lost"] - counted
    # A full ring may lose some more while this machine is busy with other things.
    assert 0 < got["received"] <= 2000 - lost and got["corrupt"] == 0, (got, lost)
    assert 300 < lost < 500, lost
    hub.tell("clear")
    hub.tell("duplicate 0.2 1 2")
    got = deliver(a, b, b.address, 1000, 100)
    assert 100 < got["duplicates"] < 300 and got["corrupt"] == 0, got
    hub.tell("clear")
    settled(b, a)
    hub.tell("reorder 0.1 2000")
    got = deliver(a, b, b.address, 1000, 100)
    assert got["received"] == 1000 and got["overtaken"] > 10, got
    hub.tell("clear")
    hub.tell("delay 1000 1000")
    got = deliver(a, b, b.address, 1000, 100)
    assert got == {"received": 1000, "duplicates": 0, "overtaken": 0, "corrupt": 0}, got
    hub.tell("clear")


def partitions(cluster):
    a, b, c = cluster.peers
    hub = cluster.hub
    hub.tell("cut 1 2")
    assert gained(b, a, lambda: a.send(b.address, 50, 10))["received"] == 0
    assert gained(a, b, lambda: b.send(a.address, 50, 10))["received"] == 50, "one way only"
    hub.tell("heal")
    hub.tell("isolate 3")
    assert gained(c, a, lambda: a.send(GROUP, 50, 10))["received"] == 0
    hub.tell("heal")
    assert gained(c, a, lambda: a.send(GROUP, 50, 10))["received"] == 50


def stock_telemetry_client(cluster):
    """Debian's dpdk-telemetry.py reads the registry."""
    client = shutil.which("dpdk-telemetry.py")
    if client is None:
        print("dpdk-telemetry.py is not installed (dpdk-dev): telemetry is not tested")
        return
    peer = cluster.peers[0]
    prefix = f"annulus_peer_{peer.popen.pid}"
    asked = "/annulus/counters\n/annulus/counters,peer/transport\n/annulus/latency\n"
    told = subprocess.run([client, "-f", prefix], input=asked, capture_output=True, text=True,
                          check=True, timeout=30, **cluster.options).stdout
    assert '"peer/transport"' in told and '"peer/net_stack"' in told, told
    assert f'"tx_frames": {peer.report()["transport"]["tx_frames"]}' in told, told
    assert '"/annulus/latency": []' in told, told


def killed_client_resumes(cluster):
    a, b, _ = cluster.peers
    b.popen.send_signal(signal.SIGKILL)
    b.popen.wait()
    a.send(b.address, 100, 100)
    b = cluster.peers[1] = cluster.peer(2)
    a.meet(b)
    b.meet(a)
    assert deliver(a, b, b.address, 500, 1000)["corrupt"] == 0


def replaced_hub_is_found(cluster):
    a, b, _ = cluster.peers
    cluster.hub.kill()  # leaves its sockets behind
    assert os.path.exists(f"{cluster.directory}/1.sock")
    cluster.hub = Hub(ANNULUS, cluster.directory, 3, **cluster.options)
    cluster.started.append(cluster.hub)
    cluster.hub.await_ready()
    a.meet(b)
    deliver(a, b, b.address, 100, 100)
    assert cluster.hub.stop() == 0
    eventually("sockets are removed", lambda: not os.path.exists(f"{cluster.directory}/1.sock"))
    assert not os.path.exists(f"{cluster.directory}/control.sock")


def main():
    options = unprivileged(PEER)
    for mtu in (1500, 9000):
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o777)
            with Cluster(directory, options, mtu) as cluster:
                for step in (whole_frames, injected_faults, partitions, stock_telemetry_client,
                             killed_client_resumes, replaced_hub_is_found):
                    step(cluster)
                    print(f"mtu {mtu}: {step.__name__} ok", flush=True)


if __name__ == "__main__":
    main()
