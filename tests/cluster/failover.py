#!/usr/bin/env python3
"""The coordinator dies, with real processes: another acceptor is elected by itself, every
acknowledged write is there, each was executed once, and the clients hardly notice.

With memory acceptors one is killed, which is all that three can bear. With durable ones the
coordinator is killed again and again, and comes back each time from its log.

usage: failover.py ANNULUS udp|memif [ROUNDS]     ROUNDS: durable acceptors, so many kills
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import free_port
from redis_clients import RedisClients, expect, require_clients
from telemetry import counter, replicas_agree, show_logs, snapshots

WRITERS = 4


class Writer(threading.Thread):
    """Increments one key as fast as it is answered, and remembers when."""

    def __init__(self, port, name):
        super().__init__(daemon=True)
        self.port, self.name = port, name
        self.completed, self.ended, self.error = [], False, None

    def run(self):
        command = f"*2\r\n$4\r\nINCR\r\n${len(self.name)}\r\n{self.name}\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                while not self.ended:
                    connection.sendall(command)
                    reply = b""
                    while not reply.endswith(b"\r\n"):
                        reply += connection.recv(100)
                    wanted = f":{len(self.completed) + 1}\r\n".encode()
                    assert reply == wanted, f"{reply!r} for {wanted!r}"
                    self.completed.append(time.monotonic())
        except (OSError, AssertionError) as error:
            self.error = error


def coordinator(annulus, directory):
    """The name of the acceptor that proposes."""
    before = snapshots(annulus, directory)
    for _ in range(100):
        time.sleep(0.05)
        after = snapshots(annulus, directory)
        for name in after:
            if name.startswith("acceptor") and name in before and \
                    counter(after[name], "coordinator", "proposals") > \
                    counter(before[name], "coordinator", "proposals"):
                return name
    raise AssertionError("nobody proposes")


def longest_gap(writers, begin, end):
    """The longest time without any completion that began after `begin`."""
    times = sorted(t for writer in writers for t in writer.completed if begin <= t <= end)
    return max(b - a for a, b in zip([begin, *times], [*times, end]))


def kill_one(annulus, directory, pids, writers):
    """Kills the coordinator; the time until the clients were answered again."""
    name = coordinator(annulus, directory)
    begin = time.monotonic()
    os.kill(pids[name], signal.SIGKILL)
    time.sleep(1)
    gap = longest_gap(writers, begin, time.monotonic())
    assert gap < 1, f"no write was acknowledged for {gap:.3f} s after {name} was killed"
    for writer in writers:
        assert writer.error is None, writer.error
    return name, gap


def restart(annulus, directory, name, pids):
    log = open(f"{directory}/{name}.log", "a")
    again = subprocess.Popen([annulus, "node", "--config", f"{directory}/cluster.toml", "--name",
                              name], stdout=log, stderr=log)
    pids[name] = again.pid
    # Until it has what was decided meanwhile: only then may another one die.
    for _ in range(200):
        time.sleep(0.05)
        found = snapshots(annulus, directory)
        if name in found and counter(found[name], "acceptor", "phase2a_accepted") > 0:
            return again
    raise AssertionError(f"{name} did not come back")


def run(annulus, directory, port, rounds, pids):
    writers = [Writer(port, f"count{i}") for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(2)
    restarted = []
    gaps = []
    try:
        for _ in range(rounds or 1):
            name, gap = kill_one(annulus, directory, pids, writers)
            gaps.append(gap)
            if rounds:
                restarted.append(restart(annulus, directory, name, pids))
                time.sleep(0.5)
        for writer in writers:
            writer.ended = True
        for writer in writers:
            writer.join(timeout=30)
            assert writer.error is None, writer.error
            expect(RedisClients(port).cli("GET", writer.name), str(len(writer.completed)))
        replicas_agree(annulus, directory)
    finally:
        for process in restarted:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=20)
    total = sum(len(writer.completed) for writer in writers)
    print(f"{total} increments, each once; coordinator killed {len(gaps)} times, then no answer "
          f"for {statistics.median(gaps) * 1e3:.0f} ms (median), {max(gaps) * 1e3:.0f} ms (most)")


def main():
    annulus, transport = sys.argv[1], sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    require_clients()
    directory = tempfile.mkdtemp(prefix="annulus-")
    port = free_port()
    dev = subprocess.Popen([annulus, "dev", "--processes", "--transport", transport,
                            "--durability", "disk" if rounds else "memory", "--port", str(port),
                            "--dir", directory], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True)
    try:
        said = []
        for line in dev.stdout:
            said.append(line)
            if line == "ready\n":
                break
        else:
            raise AssertionError("annulus dev ended: " + "".join(said))
        pids = {name: int(pid) for name, pid in
                (line.split() for line in Path(directory, "pids").read_text().splitlines())}
        run(annulus, directory, port, rounds, pids)
        return 0
    except BaseException:
        show_logs(Path(directory))
        raise
    finally:
        dev.terminate()
        dev.wait(timeout=30)
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
