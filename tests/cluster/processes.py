#!/usr/bin/env python3
"""A cluster of real processes under stock Redis clients: 3 acceptors, 2 replicas, 1 proxy, started
by `annulus dev --processes`, over udp or over memif through the hub; optionally with frames lost,
delayed and swapped.

usage: processes.py ANNULUS udp|memif [FAULT ...]     FAULT as `annulus hub --help` has them
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from redis_clients import RedisClients, expect, require_clients
from telemetry import replicas_agree, show_logs, snapshots


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def survive_spare(annulus, directory, pids, clients):
    """A killed acceptor that is no coordinator is not missed; started again it is admitted anew."""
    os.kill(pids["acceptor2"], signal.SIGKILL)
    for i in range(20):
        expect(clients.cli("SET", f"after{i}", str(i)), "OK")
    log = open(f"{directory}/acceptor2.log", "a")
    again = subprocess.Popen([annulus, "node", "--config", f"{directory}/cluster.toml", "--name",
                              "acceptor2"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            if "acceptor2" in snapshots(annulus, directory):
                break
            time.sleep(0.1)
        assert "acceptor2" in snapshots(annulus, directory), "the node did not start again"
        expect(clients.cli("GET", "after19"), "19")
    finally:
        again.terminate()
        again.wait(timeout=20)


def start(annulus, directory, transport, port):
    dev = subprocess.Popen([annulus, "dev", "--processes", "--transport", transport, "--port",
                            str(port), "--dir", directory], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    said = []
    for line in dev.stdout:
        said.append(line)
        if line == "ready\n":
            return dev
    dev.wait()
    raise AssertionError("annulus dev ended: " + "".join(said))


def main():
    annulus, transport, faults = sys.argv[1], sys.argv[2], sys.argv[3:]
    require_clients()
    directory = tempfile.mkdtemp(prefix="annulus-")
    port = free_port()
    dev = None
    try:
        dev = start(annulus, directory, transport, port)
        pids = {name: int(pid) for name, pid in
                (line.split() for line in Path(directory, "pids").read_text().splitlines())}
        assert {"acceptor1", "acceptor3", "replica1", "replica2", "proxy1"} <= pids.keys(), pids
        for fault in faults:
            subprocess.run([annulus, "hub", "--dir", f"{directory}/hub", "--tell", fault],
                           check=True, timeout=30)
        clients = RedisClients(port)
        clients.commands_work()
        clients.benchmark_works(500 if faults else 5_000)
        clients.flush_works(lossy=bool(faults))
        replicas_agree(annulus, directory)
        if not faults:
            survive_spare(annulus, directory, pids, clients)
        dev.send_signal(signal.SIGINT)
        expect(dev.wait(timeout=30), 0)
        for name, pid in pids.items():
            assert not Path(f"/proc/{pid}").exists(), f"{name} still runs"
        return 0
    except BaseException:
        show_logs(Path(directory))
        raise
    finally:
        if dev is not None and dev.poll() is None:
            dev.terminate()
            dev.wait(timeout=30)
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
