#!/usr/bin/env python3
"""`annulus chaos` in short: it ends well, finds what is planted, and leaves nothing behind.

usage: chaos.py ANNULUS run|interrupted|killed|planted TRANSPORT DURABILITY SEED SECONDS
       chaos.py ANNULUS veth veth DURABILITY SEED SECONDS     (under netns.sh --kernel 6 6 1500)
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from namespaces import in_namespace
from telemetry import show_logs


def command(annulus, transport, durability, seed, seconds):
    return [annulus, "chaos", "--transport", transport, "--durability", durability, "--seed", seed,
            "--minutes", str(float(seconds) / 60)]


def nothing_left(parent):
    """No process that was started in a run's directory, and no mount there."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            assert parent not in words or int(entry.name) == os.getpid(), words
    assert parent not in Path("/proc/mounts").read_text(), "something is still mounted"


def run(words, parent):
    report = f"{parent}/report.json"
    done = subprocess.run([*words, "--json", report], env={**os.environ, "TMPDIR": parent},
                          check=False, timeout=280)
    told = json.loads(Path(report).read_text())
    assert done.returncode == 0 and told["passed"], told
    faults = sum(row["times"] for row in told["faults"])
    assert faults >= 3, told
    for client in ("native", "proxy"):
        assert told[client]["answered"] > 500, told
    os.remove(report)
    assert not os.listdir(parent), os.listdir(parent)


def start(words, parent):
    """A run that has begun; its process and its port."""
    chaos = subprocess.Popen(words, env={**os.environ, "TMPDIR": parent}, stdout=subprocess.PIPE,
                             text=True)
    line = chaos.stdout.readline()
    told = re.search(r"proxy at 127\.0\.0\.1:(\d+)", line)
    assert told, line
    return chaos, told.group(1)


def interrupted(words, parent):
    """Ctrl-C in the midst of faults."""
    chaos, _ = start(words, parent)
    time.sleep(4)
    chaos.send_signal(signal.SIGINT)
    output = chaos.communicate(timeout=60)[0]
    assert chaos.returncode == 1 and "interrupted" in output, output
    assert not os.listdir(parent), os.listdir(parent)


def killed(words, parent):
    """Nothing could clean up: the nodes end all the same, and the mount is gone with them."""
    chaos, _ = start(words, parent)
    time.sleep(4)
    chaos.kill()
    chaos.communicate(timeout=60)
    time.sleep(1)


def planted(words, parent):
    """Somebody else increments a counter: as if increments had been executed again, and more of
    them than those of unknown outcome could account for."""
    chaos, port = start(words, parent)
    time.sleep(3)
    for _ in range(20):
        told = subprocess.run(["redis-cli", "-p", port, "INCRBY", "c1", "100"], capture_output=True,
                              text=True, timeout=30, check=False).stdout.strip()
        if told.isdigit():
            break
        time.sleep(0.2)
    assert told.isdigit(), told
    output = chaos.communicate(timeout=200)[0]
    assert chaos.returncode == 1 and "FAILED: c1, after" in output, output
    kept = re.search(r"seed (\d+) failed; logs, faults and history are in (\S+)", output)
    assert kept and "INCR c1" in Path(kept.group(2), "violation.txt").read_text(), output
    print("found: " + next(line for line in output.splitlines() if "FAILED" in line))


def main():
    annulus, how, *options = sys.argv[1:]
    words = command(annulus, *options)
    if how == "veth":
        prefix = os.environ["ANNULUS_NETNS"]
        words = [*in_namespace(6), *words, "--namespaces", prefix]
        how = "run"
    with tempfile.TemporaryDirectory(prefix="annulus-") as parent:
        try:
            {"run": run, "interrupted": interrupted, "killed": killed, "planted": planted}[how](
                words, parent)
        except BaseException:
            for kept in Path(parent).glob("annulus-chaos-*"):
                print((kept / "chaos.log").read_text())
                show_logs(kept)
            raise
        nothing_left(parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
