"""Starts and drives the processes of the DPDK transport tests: hubs and dpdk_peer programs."""

import json
import os
import select
import signal
import subprocess
import sys
import time


# A test that is stopped still ends what it started.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def eventually(what, condition, seconds=20):
    """Polls until the condition holds and returns its value; fails the test otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Process:
    """A program that prints `ready` when it serves."""

    def __init__(self, command, **options):
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, bufsize=1, **options)

    def line(self, seconds=20):
        readable, _, _ = select.select([self.popen.stdout], [], [], seconds)
        assert readable, f"{self.popen.args}: silent for {seconds} s"
        text = self.popen.stdout.readline().strip()
        assert text, f"{self.popen.args}: ended with {self.popen.wait()}"
        return text

    def await_ready(self):
        text = self.line()
        assert text == "ready", f"'{text}' in the place of 'ready'"
        return self

    def kill(self):
        self.popen.kill()
        self.popen.wait()

    def stop(self):
        """Asks the program to end and returns its exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=20)

    def end(self):
        """Whatever happened before: nothing is left running."""
        if self.popen.poll() is None:
            self.kill()
        self.popen.stdin.close()
        self.popen.stdout.close()


class Peer(Process):
    def __init__(self, program, device, address, mtu=1500, multicast=None, prefix=(), **options):
        self.address = address
        command = [*prefix, program, "--device", device, "--address", address, "--mtu", str(mtu)]
        super().__init__(command + (["--group", multicast] if multicast else []), **options)

    def tell(self, line):
        self.popen.stdin.write(line + "\n")

    def report(self):
        self.tell("report")
        return json.loads(self.line())

    def send(self, to, frames, size):
        """Orders frames and waits until they have been handed to the device."""
        self.tell(f"send {to} {frames} {size}")
        eventually(f"{self.address} sends", lambda: not self.report()["busy"])

    def from_peer(self, sender):
        nothing = {"received": 0, "duplicates": 0, "overtaken": 0, "corrupt": 0}
        return self.report()["from"].get(sender.address, nothing)

    def meet(self, other):
        """Sends single frames until one arrives: hardware addresses are known after that."""
        before = other.from_peer(self)["received"]

        def arrived():
            self.tell(f"send {other.address} 1 10")
            return other.from_peer(self)["received"] > before
        eventually(f"{self.address} reaches {other.address}", arrived)


class Hub(Process):
    def __init__(self, program, directory, ports, *arguments, **options):
        self.program, self.directory, self.options = program, directory, options
        super().__init__([program, "hub", "--dir", directory, "--ports", str(ports), *arguments],
                         **options)

    def tell(self, command):
        done = subprocess.run([self.program, "hub", "--dir", self.directory, "--tell", command],
                              capture_output=True, text=True, timeout=30, **self.options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def counters(self, port):
        lines = [line.split() for line in self.tell("counters").splitlines()]
        return {name: int(value) for number, name, value in lines if int(number) == port}


def unprivileged(program):
    """How to start a program as nobody when this is root and nobody may read the program."""
    if os.geteuid() != 0:
        return {}
    options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    try:
        subprocess.run([program, "--help"], check=True, stdout=subprocess.DEVNULL, **options)
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
        return {}
    return options
