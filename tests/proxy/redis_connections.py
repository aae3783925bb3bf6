#!/usr/bin/env python3
"""What many, slow, broken and vanishing clients may and may not do to each other.

Usage: redis_connections.py COMMAND... (starts the proxy's server; {port} is replaced)
"""

import select
import socket
import struct
import sys
import threading
import time

from servers import Connection, encode, proxy_server

MANY = 2_000
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def expect(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got[:300]!r}, wanted {wanted[:300]!r}")


def counters(port):
    with Connection(port) as connection:
        text = connection.call("INFO", "annulus").decode()
    return {name: int(value) for name, value in
            (line.split(":") for line in text.split("\r\n") if line.count(":") == 1 and
             line.split(":")[1].isdigit())}


@check
def many_connections_beside_a_slow_reader(port):
    """2,000 clients in lock step, while one asks for much and reads nothing."""
    value = b"v" * 40_000
    with Connection(port) as slow:
        expect(slow.call("SET", "big", value), b"+OK\r\n")
        # Fills its own buffers and stops being read; must not grow without bound, nor be closed.
        slow.socket.setblocking(False)
        asked = 0
        request = encode("GET", "big") * 50
        for _ in range(200):
            try:
                slow.socket.send(request)
                asked += 1
            except BlockingIOError:
                break
            time.sleep(0.002)
        connections = [Connection(port) for _ in range(MANY)]
        for turn in range(3):
            for i, connection in enumerate(connections):
                connection.send(encode("SET", f"m{i}", turn) + encode("GET", f"m{i}"))
            for i, connection in enumerate(connections):
                expect(connection.reply(), b"+OK\r\n")
                expect(connection.reply(), b"$1\r\n%d\r\n" % turn)
        for connection in connections:
            connection.socket.close()
        # The slow one still gets what it asked for, once it reads.
        slow.socket.setblocking(True)
        for _ in range(100):
            expect(slow.reply(), b"$40000\r\n" + value + b"\r\n")
    if counters(port)["close_output_full"]:
        raise AssertionError("a paused reader was closed")


@check
def half_closed_connections_are_served_then_closed(port):
    with Connection(port) as connection:
        connection.send(encode("SET", "h", "1") + encode("INCR", "h") * 500 + b"*2\r\n$3\r\nGE")
        connection.socket.shutdown(socket.SHUT_WR)
        data = connection.until_closed()
    wanted = b"+OK\r\n" + b"".join(b":%d\r\n" % n for n in range(2, 502))
    expect(data, wanted)


@check
def transactions_are_atomic(port):
    """Two keys written together are never seen apart, nor is a transaction's middle."""
    stop = threading.Event()
    wrong = []

    def write(worker):
        with Connection(port) as connection:
            for n in range(300):
                value = f"{worker}-{n}"
                connection.send(encode("MULTI") + encode("SET", "left", "middle") +
                                encode("SET", "left", value) + encode("SET", "right", value) +
                                encode("EXEC"))
                for _ in range(4):
                    connection.reply()
                if connection.reply() != b"*3\r\n+OK\r\n+OK\r\n+OK\r\n":
                    wrong.append("EXEC failed")
        stop.set()

    def read():
        with Connection(port) as connection:
            while not stop.is_set():
                plain = connection.call("MGET", "left", "right")
                connection.send(encode("MULTI") + encode("GET", "left") + encode("GET", "right") +
                                encode("EXEC"))
                for _ in range(3):
                    connection.reply()
                for pair in (plain, connection.reply()):
                    values = pair.split(b"\r\n")[1:-1]
                    if values[:len(values) // 2] != values[len(values) // 2:]:
                        wrong.append(pair)

    with Connection(port) as connection:
        connection.call("MSET", "left", "0", "right", "0")
    threads = [threading.Thread(target=write, args=(w,)) for w in range(3)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise AssertionError(f"{len(wrong)} torn reads, first {wrong[0]!r}")


@check
def increments_of_many_connections_add_up(port):
    with Connection(port) as connection:
        connection.call("DEL", "sum")
    connections = [Connection(port) for _ in range(100)]
    for connection in connections:
        connection.send(encode("INCR", "sum") * 100)
    seen = [connection.reply() for connection in connections for _ in range(100)]
    numbers = sorted(int(reply[1:]) for reply in seen)
    if numbers != list(range(1, 10_001)):
        raise AssertionError("an increment was lost or repeated")
    for connection in connections:
        connection.socket.close()


@check
def oversized_commands_are_refused_and_the_stream_goes_on(port):
    with Connection(port) as connection:
        for words in (["SET", "k", "v" * 65_537], ["SET", "k", "v" * 3_000_000],
                      ["DEL"] + ["k"] * 9_000):
            reply = connection.call(*words)
            if not reply.startswith(b"-ERR command is too large"):
                raise AssertionError(f"got {reply!r}")
        expect(connection.call("SET", "k", "v" * 49_153),
               b"-ERR value is too large: 49153 bytes, at most 49152\r\n")
        expect(connection.call("SET", "k" * 251, "v"),
               b"-ERR key is too long: 251 bytes, at most 250\r\n")
        expect(connection.call("MULTI"), b"+OK\r\n")
        connection.call("SET", "k", "v" * 65_537)
        reply = connection.call("EXEC")
        if not reply.startswith(b"-EXECABORT"):
            raise AssertionError(f"got {reply!r}")
        expect(connection.call("SET", "k", "v" * 49_152), b"+OK\r\n")
        expect(connection.call("STRLEN", "k"), b":49152\r\n")


@check
def the_btree_keeps_its_own_keys(port):
    with Connection(port) as connection:
        for key in (7, 5, 18446744073709551615, 6):
            expect(connection.call("BT.INSERT", key, f"v{key}"), b":1\r\n")
        expect(connection.call("BT.INSERT", 5, "five"), b":0\r\n")
        expect(connection.call("BT.RANGE", 5, 6), b"*4\r\n$1\r\n5\r\n$4\r\nfive\r\n$1\r\n6\r\n"
                                                  b"$2\r\nv6\r\n")
        expect(connection.call("BT.RANGE", "-", "+", "LIMIT", 1),
               b"*2\r\n$1\r\n5\r\n$4\r\nfive\r\n")
        expect(connection.call("BT.COUNT", 6, "+"), b":3\r\n")
        expect(connection.call("BT.DELETE", 6), b":1\r\n")
        expect(connection.call("BT.DELETE", 6), b":0\r\n")
        expect(connection.call("BT.INSERT", "x", "v"),
               b"-ERR value is not an integer or out of range\r\n")
        expect(connection.call("GET", 5), b"$-1\r\n")
        connection.send(encode("MULTI") + encode("BT.INSERT", 9, "n") + encode("SET", "n", "9") +
                        encode("BT.COUNT", 9, 9) + encode("EXEC"))
        for _ in range(4):
            connection.reply()
        expect(connection.reply(), b"*3\r\n:1\r\n+OK\r\n:1\r\n")
        connection.call("HELLO", "3")
        expect(connection.call("BT.RANGE", 5, 5), b"*1\r\n*2\r\n$1\r\n5\r\n$4\r\nfive\r\n")


@check
def vanishing_clients_give_their_places_back(port):
    for round_ in range(20):
        connections = [Connection(port) for _ in range(50)]
        for i, connection in enumerate(connections):
            connection.send(encode("SET", f"g{i}", "v" * 1_000) * 20 + b"*3\r\n$3\r\nSET\r\n$9")
            if i % 2 == 0:  # a reset instead of an orderly end
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                             struct.pack("ii", 1, 0))
            connection.socket.close()
    deadline = time.monotonic() + 10
    while counters(port)["connections_open"] > 1:
        if time.monotonic() > deadline:
            raise AssertionError(f"still open: {counters(port)}")
        time.sleep(0.05)


@check
def a_pipeline_far_ahead_of_its_reader_is_answered_whole(port):
    """A client that sends and reads at once, with far more under way than the proxy holds."""
    count = 30_000
    stream = encode("SET", "p", "x" * 500) + encode("GET", "p") * count
    wanted = b"+OK\r\n" + (b"$500\r\n" + b"x" * 500 + b"\r\n") * count
    with Connection(port) as connection:
        raw = connection.socket
        raw.setblocking(False)
        sent = 0
        got = bytearray()
        while len(got) < len(wanted):
            want_write = [raw] if sent < len(stream) else []
            readable, writable, _ = select.select([raw], want_write, [], 20)
            if not readable and not writable:
                raise AssertionError(f"stuck: {sent} sent, {len(got)} of {len(wanted)} received")
            if writable:
                sent += raw.send(stream[sent:sent + 65_536])
            if readable:
                data = raw.recv(1 << 18)
                if not data:
                    raise AssertionError("closed")
                got += data
        if got != wanted:
            raise AssertionError("a reply is missing or out of place")


def main():
    failed = 0
    with proxy_server(sys.argv[1:]) as server:
        for function in CHECKS:
            started = time.monotonic()
            try:
                function(server.port)
                verdict = "ok"
            except (AssertionError, OSError) as error:
                verdict = f"FAILED: {error}"
                failed += 1
            print(f"{function.__name__}: {verdict} ({time.monotonic() - started:.1f} s)",
                  flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
