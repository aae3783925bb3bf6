#!/usr/bin/env python3
"""A cluster of real processes under stock Redis clients: 3 acceptors, 2 replicas, 1 proxy, started
by `annulus dev --processes`, over udp or over memif through the hub; optionally with frames lost,
delayed and swapped.

usage: processes.py ANNULUS udp|memif [FAULT ...]     FAULT as `annulus hub --help` has them
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SKIP = 77


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cli(port, *words, stdin=None):
    """The output of redis-cli for one command, or for commands from stdin."""
    done = subprocess.run(["redis-cli", "-p", str(port), *words], input=stdin, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0, f"redis-cli {words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def expect(found, wanted):
    assert found == wanted, f"found {found!r}, wanted {wanted!r}"


def commands_work(port):
    expect(cli(port, "SET", "k", "v"), "OK")
    expect(cli(port, "GET", "k"), "v")
    expect(cli(port, "INCR", "n"), "1")
    expect(cli(port, stdin="MULTI\nINCR n\nAPPEND k w\nEXEC\n"), "OK\nQUEUED\nQUEUED\n2\n2")
    for key in (5, 1, 3):
        expect(cli(port, "BT.INSERT", str(key), f"value{key}"), "1")
    expect(cli(port, "BT.RANGE", "1", "4").split(), ["1", "value1", "3", "value3"])
    expect(cli(port, "BT.COUNT", "0", "10"), "3")
    big = "x" * 40_000  # many fragments
    expect(cli(port, "SET", "big", big), "OK")
    expect(cli(port, "GET", "big"), big)


def benchmark_works(port, requests):
    for extra in ([], ["-P", "16", "-r", "10000"]):
        done = subprocess.run(["redis-benchmark", "-p", str(port), "-t", "set,get", "-n",
                               str(requests), "-c", "20", "-d", "64", "--csv", *extra],
                              text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [line for line in done.stdout.splitlines() if line.startswith(('"SET"', '"GET"'))]
        assert len(rows) == 2, done.stdout + done.stderr
        print("\n".join(rows))


def snapshots(annulus, directory):
    told = subprocess.run([annulus, "top", "--dir", directory, "--json"], text=True,
                          capture_output=True, timeout=30)
    assert told.returncode == 0, told.stderr
    return {snapshot["process"]: snapshot for snapshot in json.loads(told.stdout)}


def counter(snapshot, stage, name):
    return sum(group["values"].get(name, 0) for group in snapshot["groups"]
               if group["stage"] == stage)


def replicas_agree(annulus, directory):
    """Both replicas come to have executed the same commands."""
    for _ in range(100):
        found = snapshots(annulus, directory)
        executed = [counter(found[name], "worker", "commands") for name in ("replica1", "replica2")]
        if executed[0] == executed[1] and executed[0] > 0:
            print(f"each replica executed {executed[0]} commands")
            return
        time.sleep(0.1)
    raise AssertionError(f"replicas executed {executed} commands")


def survive_spare(annulus, directory, pids, port):
    """A killed acceptor that is no coordinator is not missed; started again it stays mute."""
    os.kill(pids["acceptor2"], signal.SIGKILL)
    for i in range(20):
        expect(cli(port, "SET", f"after{i}", str(i)), "OK")
    log = open(f"{directory}/acceptor2.log", "a")
    again = subprocess.Popen([annulus, "node", "--config", f"{directory}/cluster.toml", "--name",
                              "acceptor2"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            if "acceptor2" in snapshots(annulus, directory):
                break
            time.sleep(0.1)
        assert "acceptor2" in snapshots(annulus, directory), "the node did not start again"
        expect(cli(port, "GET", "after19"), "19")
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


def show_logs(directory):
    for log in sorted(Path(directory).glob("*.log")):
        print(f"--- {log.name}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]))


def main():
    annulus, transport, faults = sys.argv[1], sys.argv[2], sys.argv[3:]
    for tool in ("redis-cli", "redis-benchmark"):
        if shutil.which(tool) is None:
            print(f"{tool} is missing: apt-get install redis-tools")
            return SKIP
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
        commands_work(port)
        benchmark_works(port, 500 if faults else 5_000)
        replicas_agree(annulus, directory)
        if not faults:
            survive_spare(annulus, directory, pids, port)
        dev.send_signal(signal.SIGINT)
        expect(dev.wait(timeout=30), 0)
        for name, pid in pids.items():
            assert not Path(f"/proc/{pid}").exists(), f"{name} still runs"
        return 0
    except BaseException:
        show_logs(directory)
        raise
    finally:
        if dev is not None and dev.poll() is None:
            dev.terminate()
            dev.wait(timeout=30)
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
