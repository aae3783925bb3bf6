"""Counters of a cluster's processes, as `annulus top` reads them."""

import json
import subprocess
import time


def snapshots(annulus, directory):
    told = subprocess.run([annulus, "top", "--dir", directory, "--json"], text=True,
                          capture_output=True, timeout=30)
    assert told.returncode == 0, told.stderr
    return {snapshot["process"]: snapshot for snapshot in json.loads(told.stdout)}


def counter(snapshot, stage, name):
    return sum(group["values"].get(name, 0) for group in snapshot["groups"]
               if group["stage"] == stage)


def gauge(snapshot, stage, name):
    return sum(one["value"] for one in snapshot["gauges"]
               if one["stage"] == stage and one["name"] == name)


def replicas_agree(annulus, directory):
    """Both replicas come to have executed the same commands."""
    for _ in range(100):
        found = snapshots(annulus, directory)
        executed = [counter(found[name], "worker", "commands") for name in ("replica1", "replica2")]
        if executed[0] == executed[1] and executed[0] > 0:
            print(f"each replica executed {executed[0]} commands", flush=True)
            return
        time.sleep(0.1)
    raise AssertionError(f"replicas executed {executed} commands")


def show_logs(directory):
    for log in sorted(directory.glob("*.log")):
        print(f"--- {log.name}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
