#!/usr/bin/env python3
"""Durability on disk, with real processes: what was acknowledged survives kill -9 of everything,
an acceptor that was killed comes back with its votes and catches up, damage is mended from the
others, and a disk that is full is told.

usage: durable.py ANNULUS
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import free_port
from redis_clients import RedisClients, expect, require_clients
from telemetry import show_logs, snapshots

NODES = ("acceptor1", "acceptor2", "acceptor3", "replica1", "replica2", "proxy1")


def cli(port, *words):
    return RedisClients(port).cli(*words)


class Processes:
    """The nodes of one cluster, each killed and started by name."""

    def __init__(self, annulus, directory):
        self.annulus, self.directory, self.running = annulus, directory, {}

    def start(self, name):
        log = open(f"{self.directory}/{name}.log", "a")
        kind = "proxy" if name.startswith("proxy") else "node"
        self.running[name] = subprocess.Popen(
            [self.annulus, kind, "--config", f"{self.directory}/cluster.toml", "--name", name],
            stdout=log, stderr=log)

    def kill(self, names):
        for name in names:
            self.running[name].kill()
        for name in names:
            self.running.pop(name).wait(timeout=20)

    def stop(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=30)
        self.running = {}


def create(annulus, directory, port):
    """Makes a disk cluster with `annulus dev`, writes to it, and kills it all at once."""
    dev = subprocess.Popen([annulus, "dev", "--processes", "--transport", "udp", "--durability",
                            "disk", "--port", str(port), "--dir", directory],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in dev.stdout:
        said.append(line)
        if line == "ready\n":
            break
    else:
        raise AssertionError("annulus dev ended: " + "".join(said))
    pids = [int(line.split()[1]) for line in Path(directory, "pids").read_text().splitlines()]
    return dev, pids, said


def wait_served(port, seconds=90):
    """Until a read is answered: the replicas have executed the whole log again."""
    end = time.monotonic() + seconds
    last = ""
    while time.monotonic() < end:
        try:
            last = cli(port, "GET", "annulus:ready")
            if last == "":
                return
        except (AssertionError, subprocess.TimeoutExpired) as error:
            last = str(error)
        time.sleep(0.2)
    raise AssertionError(f"not served after {seconds} s: {last}")


class Writer(threading.Thread):
    """Sets keys one after another; remembers what was acknowledged."""

    def __init__(self, port, prefix):
        super().__init__(daemon=True)
        self.port, self.prefix = port, prefix
        self.acknowledged, self.ended = 0, False

    def run(self):
        client = subprocess.Popen(["redis-cli", "-p", str(self.port)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, bufsize=1)
        while not self.ended:
            number = self.acknowledged
            client.stdin.write(f"SET {self.prefix}{number} value{number}\n")
            if client.stdout.readline().strip() != "OK":
                break  # unacknowledged: it may or may not be there
            self.acknowledged += 1
        client.kill()
        client.wait()


def read_back(port, prefix, count):
    for first in range(0, count, 500):
        numbers = range(first, min(first + 500, count))
        found = cli(port, "MGET", *(f"{prefix}{n}" for n in numbers)).split("\n")
        expect(found, [f"value{n}" for n in numbers])


def power_cut(annulus, directory, port):
    """kill -9 of everything, in the midst of writes, then a start from the directories."""
    dev, pids, _ = create(annulus, directory, port)
    expect(cli(port, "SET", "big", "x" * 40_000), "OK")
    for i in range(20):
        expect(cli(port, "INCR", "counter"), str(i + 1))
    writer = Writer(port, "first")
    writer.start()
    time.sleep(2)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    dev.terminate()
    dev.wait(timeout=30)
    writer.join(timeout=20)
    assert writer.acknowledged > 100, writer.acknowledged

    processes = Processes(annulus, directory)
    for name in NODES:
        processes.start(name)
    wait_served(port)
    read_back(port, "first", writer.acknowledged)
    expect(cli(port, "GET", "counter"), "20")  # each once
    expect(len(cli(port, "GET", "big")), 40_000)
    print(f"{writer.acknowledged} acknowledged writes survived the loss of every process")
    return processes, writer.acknowledged


def acceptor_returns(processes, port):
    """kill -9 of an acceptor under load: nothing stops, and it votes again when it is back."""
    writer = Writer(port, "second")
    writer.start()
    time.sleep(1)
    before = writer.acknowledged
    processes.kill(["acceptor2"])
    time.sleep(2)
    during = writer.acknowledged
    assert during > before + 20, f"{before} then {during} writes"
    processes.start("acceptor2")
    # The ring of the others must not be needed: with acceptor 3 gone, acceptor 2 has to vote.
    for _ in range(150):
        found = snapshots(processes.annulus, processes.directory)
        if "acceptor2" in found:
            break
        time.sleep(0.1)
    time.sleep(2)
    processes.kill(["acceptor3"])
    time.sleep(3)
    with_it = writer.acknowledged
    time.sleep(2)
    writer.ended = True
    writer.join(timeout=20)
    assert writer.acknowledged > with_it, "the acceptor that came back does not vote"
    processes.start("acceptor3")
    read_back(port, "second", writer.acknowledged)
    print(f"{writer.acknowledged} writes, {during - before} while an acceptor was dead")
    return writer.acknowledged


def inspect(annulus, path):
    told = subprocess.run([annulus, "inspect", "log", path, "--json"], text=True,
                          capture_output=True, timeout=60)
    return told.returncode, json.loads(told.stdout)


def damage_is_mended(processes, annulus, directory, port, written):
    """Blocks of one acceptor's log rot while all is down: the others give back what they held."""
    processes.kill(NODES)
    log = f"{directory}/acceptor1/acceptor.log"
    code, found = inspect(annulus, log)
    assert code == 0 and found["intact"], found
    with open(log, "r+b") as file:
        file.seek((16 + found["blocks_used"] // 3) * 4096 + 1000)
        file.write(b"rotten")
    code, found = inspect(annulus, log)
    assert code == 1 and not found["intact"] and found["missing"], found
    for name in NODES:
        processes.start(name)
    wait_served(port)
    for prefix, count in written.items():
        read_back(port, prefix, count)
    for _ in range(100):
        _, found = inspect(annulus, log)
        if not found["missing"]:
            print("damaged instances were had from the other acceptors")
            return
        time.sleep(0.2)
    raise AssertionError(f"still missing: {found['missing'][:10]}")


def started_again_by_dev(annulus, directory, port, written):
    dev, _, _ = create(annulus, directory, port)
    for prefix, count in written.items():
        read_back(port, prefix, count)
    dev.send_signal(signal.SIGINT)
    expect(dev.wait(timeout=60), 0)


def embedded_survives(annulus, directory):
    """A whole cluster in one process: the same, and an identity that its logs remember."""
    said = []
    for life in range(3):
        port = free_port()
        dev = subprocess.Popen([annulus, "dev", "--durability", "disk", "--port", str(port),
                                "--dir", f"{directory}/embedded"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in dev.stdout:
                said.append(line)
                if line == "ready\n":
                    break
            else:
                raise AssertionError("annulus dev ended: " + "".join(said))
            expect(cli(port, "INCR", "lives"), str(life + 1))
        finally:
            dev.kill()
            dev.wait(timeout=20)


def lost_log_is_refused(annulus, directory):
    """An acceptor whose log is gone has lost its votes, and must not start as if it had none."""
    os.rename(f"{directory}/acceptor2/acceptor.log", f"{directory}/aside")
    node = [annulus, "node", "--config", f"{directory}/cluster.toml", "--name", "acceptor2"]
    told = subprocess.run(node, text=True, capture_output=True, timeout=60)
    assert told.returncode == 1 and "does not exist" in told.stderr, told
    os.rename(f"{directory}/aside", f"{directory}/acceptor2/acceptor.log")
    told = subprocess.run([*node, "--bootstrap"], text=True, capture_output=True, timeout=60)
    assert told.returncode == 1 and "may have promised and voted" in told.stderr, told


def cluster_is_never_written_over(annulus, directory):
    """A directory with a durable cluster is no place for another, whichever way it is asked for."""
    configured = Path(f"{directory}/cluster.toml").read_text()
    dev = [annulus, "dev", "--processes", "--port", str(free_port()), "--dir"]
    for arguments, reason in (([directory], "with durability disk over udp"),
                              ([directory, "--durability", "disk", "--transport", "memif"],
                               "with durability disk over udp"),
                              ([f"{directory}/embedded", "--durability", "disk"],
                               "runs in one process")):
        told = subprocess.run([*dev, *arguments], text=True, capture_output=True, timeout=60)
        assert told.returncode == 1 and reason in told.stderr, told
    assert Path(f"{directory}/cluster.toml").read_text() == configured
    assert not os.path.exists(f"{directory}/embedded/cluster.toml")


def port_of_another_is_refused(annulus, directory):
    """Whoever else answers Redis commands at the port is not taken for the cluster's proxy."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        told = subprocess.run([annulus, "dev", "--processes", "--dir", f"{directory}/none",
                               "--port", str(other.getsockname()[1])], text=True,
                              capture_output=True, timeout=60)
    assert told.returncode == 1 and "another program listens there" in told.stderr, told


def start_goes_on_without_one(annulus, directory, port, written):
    """One acceptor that cannot start is told at once, and is not missed."""
    with open(f"{directory}/acceptor2/acceptor.log", "r+b") as log:
        log.write(bytes(1 << 20))
    dev, _, said = create(annulus, directory, port)
    for prefix, count in written.items():
        read_back(port, prefix, count)
    dev.send_signal(signal.SIGINT)
    said += dev.stdout.readlines()
    expect(dev.wait(timeout=60), 0)
    assert any("acceptor2" in line and "has ended" in line for line in said), said


def full_disk_is_told(annulus, directory):
    """A disk without room for the log: said at start, with what to do."""
    small = f"{directory}/small"
    os.makedirs(small, exist_ok=True)
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], capture_output=True,
        check=False).returncode == 0
    if not mounted:
        print("no full disk was tried: mounting a small one needs root")
        return
    try:
        config = Path(f"{directory}/cluster.toml").read_text()
        config = config.replace(f'directory = "{directory}/acceptor2"', f'directory = "{small}/a"')
        Path(f"{directory}/full.toml").write_text(config)
        told = subprocess.run([annulus, "node", "--bootstrap", "--config", f"{directory}/full.toml",
                               "--name", "acceptor2"], text=True, capture_output=True, timeout=60)
        assert told.returncode == 1, told
        assert "make room for" in told.stderr or "O_DIRECT" in told.stderr, told.stderr
        print("full disk: " + told.stderr.strip())
    finally:
        subprocess.run(["umount", small], check=True)


def main():
    annulus = sys.argv[1]
    require_clients()
    directory = tempfile.mkdtemp(prefix="annulus-")
    port = free_port()
    processes = None
    try:
        processes, first = power_cut(annulus, directory, port)
        second = acceptor_returns(processes, port)
        written = {"first": first, "second": second}
        time.sleep(1)
        damage_is_mended(processes, annulus, directory, port, written)
        processes.stop()
        started_again_by_dev(annulus, directory, port, written)
        embedded_survives(annulus, directory)
        lost_log_is_refused(annulus, directory)
        cluster_is_never_written_over(annulus, directory)
        port_of_another_is_refused(annulus, directory)
        start_goes_on_without_one(annulus, directory, port, written)
        full_disk_is_told(annulus, directory)
        return 0
    except BaseException:
        show_logs(Path(directory))
        raise
    finally:
        if processes is not None:
            processes.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
