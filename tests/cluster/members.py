#!/usr/bin/env python3
"""Members of a cluster of real processes come and go under a Redis client: acceptors that lost
their memory, or their log, are admitted anew; one is added, replaced, removed; and replicas.

usage: members.py ANNULUS memory|disk
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import free_port
from redis_clients import RedisClients, expect, require_clients
from telemetry import show_logs, states_agree


class Members:
    def __init__(self, annulus, durability):
        self.annulus, self.durability = annulus, durability
        self.directory = Path(tempfile.mkdtemp(prefix="annulus-"))
        self.config = self.directory / "cluster.toml"
        self.port = free_port()
        self.started = {}
        self.sets = 0
        self.dev = subprocess.Popen(
            [annulus, "dev", "--processes", "--transport", "udp", "--durability", durability,
             "--port", str(self.port), "--dir", str(self.directory)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.dev.stdout:
            if line == "ready\n":
                break
        else:
            raise AssertionError("annulus dev ended")
        self.pids = {name: int(pid) for name, pid in
                     (line.split() for line in (self.directory / "pids").read_text().splitlines())}
        self.clients = RedisClients(self.port)

    def run(self, *arguments, code=0):
        told = subprocess.run([self.annulus, "cluster", *arguments, "--config", str(self.config)],
                              capture_output=True, text=True, timeout=60)
        assert told.returncode == code, f"{arguments}: {told.returncode} {told.stdout}{told.stderr}"
        return told.stdout + told.stderr

    def status(self):
        return json.loads(self.run("status", "--json"))

    def start(self, name, *options):
        log = open(self.directory / f"{name}.log", "a")
        self.started[name] = subprocess.Popen(
            [self.annulus, "node", "--config", str(self.config), "--name", name, *options],
            stdout=log, stderr=log)

    def kill(self, name):
        if name in self.started:
            process = self.started.pop(name)
            process.kill()
            process.wait()
        else:
            os.kill(self.pids[name], signal.SIGKILL)

    def write(self, count=20):
        for _ in range(count):
            self.sets += 1
            expect(self.clients.cli("SET", f"key{self.sets}", str(self.sets)), "OK")

    def everything_is_there(self):
        keys = [f"key{i}" for i in range(1, self.sets + 1)]
        expect(self.clients.cli("MGET", *keys).split(), [str(i) for i in range(1, self.sets + 1)])

    def wait_for(self, what, seconds=10):
        until = time.monotonic() + seconds
        while not what(self.status()):
            assert time.monotonic() < until, self.run("status")
            time.sleep(0.05)

    def admitted(self, name, epoch):
        """Of a newer configuration, and holding what it must."""
        def check(status):
            own = status["by_node"].get(name)
            return own and own["standing"] == "member" and own["settled"] and own["epoch"] > epoch
        return check

    def lose(self, name):
        """Dies, and comes back without what it promised."""
        epoch = self.status()["members"]["epoch"]
        self.kill(name)
        self.write()
        if self.durability == "disk":
            shutil.rmtree(self.directory / name)
            failed = subprocess.run([self.annulus, "node", "--config", str(self.config), "--name",
                                     name], capture_output=True, text=True, timeout=60)
            assert failed.returncode != 0 and "--join" in failed.stderr, failed.stderr
            self.start(name, "--join")
        else:
            self.start(name)
        begun = time.monotonic()
        self.wait_for(self.admitted(name, epoch))
        print(f"{name} admitted anew within {time.monotonic() - begun:.2f} s")

    def add_to_file(self, name):
        text = self.config.read_text()
        kind = name.rstrip("0123456789")
        disk = (f'directory = "{self.directory}/{name}"\nlog_mb = 64\n'
                if self.durability == "disk" and kind == "acceptor" else "")
        node = (f'\n[[{kind}s]]\nname = "{name}"\nid = {len(text)}\n'
                f'address = "127.0.0.1:{free_port()}"\njoins = true\n{disk}')
        # In one step: nodes that are being started read it.
        whole = self.config.with_suffix(".new")
        whole.write_text(text + node)
        whole.rename(self.config)

    def said(self, name, text, seconds=10, count=1):
        until = time.monotonic() + seconds
        log = self.directory / f"{name}.log"
        while log.read_text().count(text) < count:
            assert time.monotonic() < until, f"{name} did not say: {text}"
            time.sleep(0.05)

    def stop(self):
        for process in self.started.values():
            process.terminate()
        for process in self.started.values():
            process.wait(timeout=20)
        if self.dev.poll() is None:
            self.dev.send_signal(signal.SIGINT)
            self.dev.wait(timeout=30)
        shutil.rmtree(self.directory)


def scenario(cluster):
    cluster.write()
    for name in ("acceptor2", "acceptor1", "acceptor3"):
        cluster.lose(name)
        cluster.write()
    cluster.add_to_file("acceptor4")
    told = cluster.run("add", "acceptor4", "--seconds", "0.3", code=3)
    assert "must be running" in told, told
    operation = told.split("operation ")[1].split()[0]
    cluster.run("status", "--operation", operation, code=3)
    cluster.start("acceptor4")
    cluster.run("add", "acceptor4", "--operation", operation)
    cluster.run("add", "acceptor4", "--operation", operation)  # it is done once
    cluster.run("status", "--operation", operation)
    assert len(cluster.status()["members"]["acceptors"]) == 4
    assert "proxies come and go" in cluster.run("remove", "proxy1", code=1)
    cluster.run("remove", "acceptor2")
    cluster.write()
    cluster.add_to_file("acceptor5")
    cluster.start("acceptor5")
    cluster.run("replace", "acceptor3", "acceptor5")
    cluster.write()
    # Of the three that are left now, one may die.
    cluster.kill("acceptor1")
    cluster.write()
    replicas(cluster)
    cluster.everything_is_there()
    until = time.monotonic() + 20
    while not states_agree(cluster.annulus, str(cluster.directory), ("replica3", "replica4")):
        assert time.monotonic() < until, "the replicas do not tell their states"


def replicas(cluster):
    """A third is added, the first replaced, the second removed; the new ones hold everything."""
    for name in ("replica3", "replica4"):
        cluster.add_to_file(name)
        cluster.start(name)
    cluster.said("replica3", "waits to be admitted")
    cluster.run("add", "replica3")
    cluster.write()
    assert len(cluster.status()["members"]["replicas"]) == 3
    cluster.run("replace", "replica1", "replica4")
    cluster.said("replica1", "was taken out of the cluster")
    cluster.write()
    cluster.run("remove", "replica2")  # waits for the others to have its state
    cluster.said("replica2", "was taken out of the cluster")
    cluster.write()
    # Of the acceptors that the cluster was created with, none is left: the proxy asks the others.
    cluster.kill("proxy1")
    cluster.start("proxy1")
    cluster.said("proxy1", "ready", count=2)
    cluster.write()
    # Without state and without its votes on anything, it comes back as who it was.
    cluster.kill("replica3")
    cluster.write()
    cluster.start("replica3")
    cluster.write()
    assert len(cluster.status()["members"]["replicas"]) == 2


def main():
    annulus, durability = sys.argv[1], sys.argv[2]
    require_clients()
    cluster = Members(annulus, durability)
    try:
        scenario(cluster)
        return 0
    except BaseException:
        show_logs(cluster.directory)
        raise
    finally:
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
