#!/usr/bin/env python3
"""A replica of a memory cluster is killed under load, with real processes. The others order more
than the acceptors retain; then it is started again, with nothing, fetches the state of the other
replica, and executes on. To show that it has all of it the other one is killed, and every write is
read back from the one that returned.

usage: state_transfer.py ANNULUS udp|memif
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from failover import Writer
from processes import free_port, start
from redis_clients import RedisClients, expect, require_clients
from telemetry import counter, gauge, show_logs, snapshots, states_agree

WRITERS = 8
KEYS = 2_000
RETAIN = 2_048  # instances that the acceptors keep: the default of [limits]


def ordered(annulus, directory):
    """Instances that were decided, by the replica that lives."""
    return counter(snapshots(annulus, directory)["replica2"], "learner", "delivered")


def wait_for(what, condition, seconds=90):
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


def values(clients, count):
    """Writes `count` keys, a pipeline at a time."""
    commands = "".join(f"SET key{i} value{i}\r\n" for i in range(count))
    told = subprocess.run(["redis-cli", "-p", str(clients.port), "--pipe"], input=commands,
                          text=True, capture_output=True, timeout=60)
    assert told.returncode == 0 and "errors: 0" in told.stdout, told.stdout + told.stderr


def restart(annulus, directory, name, log):
    return subprocess.Popen([annulus, "node", "--config", f"{directory}/cluster.toml", "--name",
                             name], stdout=log, stderr=log)


def rate(writers, begin, end):
    return sum(begin <= t < end for writer in writers for t in writer.completed) / (end - begin)


def kill_and_return(annulus, directory, pids, writers, log):
    """Kills replica1 and starts it again once the log from its end on is gone."""
    os.kill(pids["replica1"], signal.SIGKILL)
    before = ordered(annulus, directory)
    wait_for("as many instances as the acceptors retain",
             lambda: ordered(annulus, directory) > before + 2 * RETAIN)
    begin = time.monotonic()
    time.sleep(2)
    middle = time.monotonic()
    again = restart(annulus, directory, "replica1", log)

    def returned():
        found = snapshots(annulus, directory)
        return "replica1" in found and \
            counter(found["replica1"], "state_receiver", "installed") == 1 and \
            counter(found["replica1"], "worker", "values") > 0
    wait_for("a state installed and values executed after it", returned)
    end = time.monotonic()
    time.sleep(0.5)
    print(f"{rate(writers, begin, middle):.0f} increments/s without replica1, "
          f"{rate(writers, middle, end):.0f} while it came back in {end - middle:.2f} s")
    return again


def run(annulus, directory, port, pids, started):
    clients = RedisClients(port)
    values(clients, KEYS)
    writers = [Writer(port, f"count{i}") for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(1)
    with open(f"{directory}/replica1.log", "a") as log:
        started.append(kill_and_return(annulus, directory, pids, writers, log))
    for writer in writers:
        writer.ended = True
    for writer in writers:
        writer.join(timeout=30)
        assert writer.error is None, writer.error
    found = snapshots(annulus, directory)
    assert counter(found["replica2"], "worker", "states_copied") == 1
    wait_for("both replicas to tell their states",
             lambda: states_agree(annulus, directory, ("replica1", "replica2")))
    os.kill(pids["replica2"], signal.SIGKILL)
    for writer in writers:
        expect(clients.cli("GET", writer.name), str(len(writer.completed)))
    for i in range(0, KEYS, 7):
        expect(clients.cli("GET", f"key{i}"), f"value{i}")
    expect(clients.cli("INCR", "afterwards"), "1")
    total = sum(len(writer.completed) for writer in writers)
    print(f"{total} increments and {KEYS} keys read back from the replica that returned")


def main():
    annulus, transport = sys.argv[1], sys.argv[2]
    require_clients()
    directory = tempfile.mkdtemp(prefix="annulus-")
    port = free_port()
    dev = None
    started = []
    try:
        dev = start(annulus, directory, transport, port)
        pids = {name: int(pid) for name, pid in
                (line.split() for line in Path(directory, "pids").read_text().splitlines())}
        run(annulus, directory, port, pids, started)
        return 0
    except BaseException:
        show_logs(Path(directory))
        raise
    finally:
        for process in started:
            process.kill()
            process.wait(timeout=20)
        if dev is not None:
            dev.terminate()
            dev.wait(timeout=30)
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
