"""Servers and raw connections for the tests of the Redis front end: nothing here interprets a reply
beyond finding where it ends."""

import shutil
import socket
import subprocess
import sys
import time

SKIPPED = 77


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A program that serves on a port of its own, until the block ends."""

    def __init__(self, command):
        self.port = free_port()
        self.command = [part.replace("{port}", str(self.port)) for part in command]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                # Serves once it answers a command that needs all of it.
                with Connection(self.port, timeout=10) as connection:
                    if connection.call("DBSIZE").startswith(b":"):
                        return self
            except OSError:
                pass
            if self.process.poll() is not None:
                sys.exit(f"{self.command} ended with {self.process.returncode} before it served")
            if time.monotonic() > deadline:
                self.__exit__()
                sys.exit(f"{self.command} did not serve within 30 s")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def redis_server():
    """Debian's server, set up as the proxy describes itself; ends the test as skipped without."""
    if shutil.which("redis-server") is None:
        print("redis-server is missing: apt-get install redis-server")
        sys.exit(SKIPPED)
    return Server(["redis-server", "--port", "{port}", "--databases", "1", "--save", "",
                   "--appendonly", "no", "--daemonize", "no", "--dir", "/tmp"])


def proxy_server(arguments):
    """The server under test: the command line to start it, with {port} in it."""
    if not arguments:
        sys.exit("usage: TEST COMMAND... with {port} where the port belongs")
    return Server(arguments)


def encode(*words):
    """One command as an array of bulk strings."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def reply_end(data, at):
    """Where the reply that starts at `at` ends, or None if it is not whole yet."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, rest, after = data[at:at + 1], data[at + 1:line], line + 2
    if kind in b"$=":
        if int(rest) < 0:
            return after
        end = after + int(rest) + 2
        return end if end <= len(data) else None
    if kind in b"*~%":
        for _ in range(max(int(rest), 0) * (2 if kind == b"%" else 1)):
            after = reply_end(data, after)
            if after is None:
                return None
        return after
    return after


class Connection:
    """A socket with a buffer of unread bytes."""

    def __init__(self, port, timeout=20):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        """The bytes of the next reply; what is left, if the server closed before its end."""
        pieces = self.unread
        wanted = 1
        while True:
            if len(pieces) >= wanted:
                end = reply_end(pieces, 0)
                if end is not None:
                    self.unread = pieces[end:]
                    return pieces[:end]
                wanted = len(pieces) + 1
            more = self.received()
            if not more:
                self.unread = b""
                return pieces
            pieces += more

    def received(self):
        """What the socket has; nothing at the end of the stream, however it ended."""
        try:
            return self.socket.recv(1 << 16)
        except ConnectionResetError:
            return b""

    def call(self, *words):
        self.send(encode(*words))
        return self.reply()

    def until_closed(self):
        """Everything until the server closes."""
        data, self.unread = self.unread, b""
        while more := self.received():
            data += more
        return data
