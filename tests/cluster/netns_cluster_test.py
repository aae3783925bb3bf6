#!/usr/bin/env python3
"""A cluster on a network: 3 acceptors, 2 replicas and a proxy, each a process with a DPDK port and
a network namespace of its own, under stock Redis clients. A second proxy has no such port: it
speaks to the same nodes through the kernel's sockets. An acceptor is killed on the way.

Usage: netns_cluster_test.py ANNULUS (af_packet|af_xdp)     (under netns.sh --kernel 7 7 1500)
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from namespaces import DEVICES, in_namespace, kernel_has_xdp
from peers import eventually
from redis_clients import RedisClients, expect, require_clients
from telemetry import replicas_agree, show_logs, snapshots

MTU = 1500
REDIS_PORT = 6379
# Node K of the network is 10.77.0.K. The kernel has an address on the last one only.
NODES = ["acceptor1", "acceptor2", "acceptor3", "replica1", "replica2", "proxy1", "proxy2"]
BY_KERNEL = "proxy2"


def configuration(driver, directory, cluster):
    """The nodes' file, or with driver None the same cluster for a process with kernel sockets."""
    lines = ["[cluster]", f"id = {cluster}", f'transport = "{"dpdk" if driver else "udp"}"',
             f"mtu = {MTU}", 'group = "239.77.0.1:4100"']
    for number, name in enumerate(NODES, 1):
        kind = name[:-1]
        table = "proxies" if kind == "proxy" else kind + "s"
        if kind == "proxy" and (name == BY_KERNEL) == bool(driver):
            continue
        lines += [f"[[{table}]]", f'name = "{name}"', f"id = {number}",
                  f'address = "10.77.0.{number}:4000"']
        if kind == "proxy":
            lines.append(f'listen = "127.0.0.1:{REDIS_PORT}"')
        if driver:
            lines.append(f'device = "{DEVICES[driver, MTU]}"')
    # Each node has an address, but not a machine, of its own: they share its cores.
    lines += ["[process]", 'idle = "yield"', f'runtime = "{directory}"', ""]
    path = directory / ("nodes.toml" if driver else "kernel.toml")
    path.write_text("\n".join(lines), encoding="ascii")
    return path


class Cluster:
    """The processes; gone at the end whatever happens."""

    def __init__(self, annulus, driver, directory):
        self.annulus, self.directory, self.running = annulus, directory, {}
        identity = random.getrandbits(62) | 1
        nodes = configuration(driver, directory, identity)
        kernel = configuration(None, directory, identity)
        for file in (nodes, kernel):
            subprocess.run([annulus, "config", "check", str(file)], check=True, timeout=30)
        self.files = {name: kernel if name == BY_KERNEL else nodes for name in NODES}

    def start(self, name):
        command = [self.annulus, "proxy" if name.startswith("proxy") else "node", "--config",
                   str(self.files[name]), "--name", name]
        if name.startswith("acceptor"):
            command.append("--bootstrap")
        with open(self.directory / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                [*in_namespace(NODES.index(name) + 1), *command], stdout=log, stderr=log)

    def clients(self, name):
        """Clients of a proxy that serves."""
        prefix = in_namespace(NODES.index(name) + 1)
        clients = RedisClients(REDIS_PORT, prefix)

        def served():
            assert self.running[name].poll() is None, f"{name} has ended"
            return subprocess.run([*prefix, "redis-cli", "-p", str(REDIS_PORT), "GET", "none"],
                                  capture_output=True, timeout=30).stdout == b"\n"
        eventually(f"{name} serves", served, 60)
        return clients

    def kill(self, name):
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self):
        """Ends all; each says that it ended well."""
        for process in self.running.values():
            process.terminate()
        for name, process in self.running.items():
            assert process.wait(timeout=30) == 0, f"{name} ended with {process.returncode}"
        self.running.clear()

    def end(self):
        for process in self.running.values():
            process.kill()
            process.wait()


def exercise(cluster):
    for name in NODES:
        cluster.start(name)
    clients = cluster.clients("proxy1")
    clients.commands_work()
    print("redis-cli through the proxy with a DPDK port: ok", flush=True)
    clients.benchmark_works(2_000)

    kernel = cluster.clients(BY_KERNEL)
    expect(kernel.cli("GET", "k"), "vw")
    expect(kernel.cli("INCR", "n"), "3")
    expect(kernel.cli("BT.RANGE", "1", "4").split(), ["1", "value1", "3", "value3"])
    kernel.benchmark_works(2_000)
    expect(clients.cli("GET", "n"), "3")
    print("redis-cli through the proxy with kernel sockets: ok", flush=True)

    replicas_agree(cluster.annulus, str(cluster.directory))
    found = snapshots(cluster.annulus, str(cluster.directory))
    assert set(found) == set(NODES), found.keys()
    cluster.kill("acceptor2")
    started = time.monotonic()
    for i in range(20):
        expect(clients.cli("SET", f"after{i}", str(i)), "OK")
    expect(kernel.cli("GET", "after19"), "19")
    print(f"20 writes after an acceptor's death: {time.monotonic() - started:.2f} s", flush=True)
    cluster.stop()


def main():
    annulus, driver = sys.argv[1], sys.argv[2]
    require_clients()
    if driver == "af_xdp" and not kernel_has_xdp():
        print("this kernel has no AF_XDP sockets")
        return 77
    with tempfile.TemporaryDirectory(prefix="annulus-") as name:
        cluster = Cluster(annulus, driver, Path(name))
        try:
            exercise(cluster)
        except BaseException:
            show_logs(cluster.directory)
            raise
        finally:
            cluster.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
