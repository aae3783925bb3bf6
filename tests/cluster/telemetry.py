"""Counters of a cluster's processes, as `annulus top` reads them."""

import json
import socket
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


def state(directory, name, at):
    """What a replica tells of its state once it has executed instance `at`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(f"{directory}/{name}.sock")
        connection.sendall(f"GET /state?at={at} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def states_agree(annulus, directory, names):
    """Replicas have one state, the hash they keep of it is its own; False if that takes longer."""
    found = snapshots(annulus, directory)
    top = max(gauge(found[name], "worker", "executed_instance") for name in names)
    told = [state(directory, name, top) for name in names]
    if any("executed" not in each for each in told):
        return False
    assert told[0]["kept"] == told[0]["recomputed"] and all(one == told[0] for one in told), told
    return True


def show_logs(directory):
    for log in sorted(directory.glob("*.log")):
        print(f"--- {log.name}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
