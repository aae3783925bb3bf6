#!/usr/bin/env python3
"""Sends the same bytes to Debian's redis-server and to the proxy, in RESP2 and in RESP3, and
compares the replies byte by byte: scripted cases, broken streams, and random pipelines.

Usage: redis_differential.py COMMAND... (starts the proxy's server; {port} is replaced)
"""

import random
import re
import sys

from servers import Connection, encode, proxy_server, redis_server

BIG = "v" * 30_000

# Each case: commands in order, on one connection. A bytes entry is sent as it is.
CASES = {
    "ping": [["PING"], ["PING", "a b"], ["PING", "a", "b"], ["ECHO", "x"], ["ECHO"], ["echo", ""]],
    "select": [["SELECT", "0"], ["SELECT", "1"], ["SELECT", "x"], ["SELECT", "-1"], ["SELECT"],
               ["SELECT", "99999999999"]],
    "auth": [["AUTH", "p"], ["AUTH", "default", "p"], ["AUTH", "u", "p"], ["AUTH"],
             ["AUTH", "a", "b", "c"]],
    "hello": [["HELLO"], ["HELLO", "2"], ["HELLO", "4"], ["HELLO", "1"], ["HELLO", "x"],
              ["HELLO", "3", "SETNAME", "n"], ["CLIENT", "GETNAME"], ["HELLO", "2", "FOO"],
              ["HELLO", "2", "SETNAME"], ["HELLO", "2", "AUTH", "u", "p"],
              ["HELLO", "2", "AUTH", "default", "p"], ["HELLO", "2", "SETNAME", "a b"]],
    "client": [["CLIENT", "GETNAME"], ["CLIENT", "SETNAME", "n"], ["CLIENT", "GETNAME"],
               ["CLIENT", "SETNAME", "a b"], ["CLIENT", "SETNAME", ""], ["CLIENT", "GETNAME"],
               ["CLIENT"], ["CLIENT", "NOPE"], ["CLIENT", "SETNAME"], ["CLIENT", "ID", "x"],
               ["CLIENT", "NO-EVICT", "on"], ["CLIENT", "NO-EVICT", "x"],
               ["CLIENT", "LIST", "FOO"], ["CLIENT", "LIST", "TYPE", "x"]],
    "config": [["CONFIG", "GET", "save"], ["CONFIG", "GET", "appendonly"],
               ["CONFIG", "GET", "maxmemory", "MAXMEMORY"], ["CONFIG", "GET", "nope*"],
               ["CONFIG", "GET", "MAXMEMORY-POL*"], ["CONFIG"], ["CONFIG", "GET"],
               ["CONFIG", "NOPE", "x"]],
    "command": [["COMMAND", "INFO", "nope"], ["COMMAND", "COUNT", "x"], ["COMMAND", "NOPE"],
                ["COMMAND", "DOCS", "nope"], ["COMMAND", "LIST", "x"]],
    "unknown": [["NOPE"], ["NOPE", "a", "b"], ["NOPE", "x" * 200, "y"], ["N" * 200, "a"],
                ["nope", "a\r\nb", "c"], ["", "a"], ["GET\0", "a"], ["NOPE", "a\0b", "c"],
                ["NOPE"] + ["arg%d" % i for i in range(40)]],
    "arity": [["GET"], ["GET", "a", "b"], ["SET", "a"], ["MSET", "a"], ["MSET", "a", "1", "b"],
              ["MSETNX", "a", "1", "b"], ["INCRBY", "a"], ["DEL"], ["EXEC", "x"], ["MULTI", "x"],
              ["DBSIZE", "x"], ["FLUSHALL", "x"], ["FLUSHDB", "a", "b"], ["QUIT", "x"]],
    "strings": [["SET", "k", "v"], ["GET", "k"], ["GET", "none"], ["SETNX", "k", "w"],
                ["SETNX", "n", "w"], ["GETSET", "k", "x"], ["GETSET", "new", "x"], ["GETDEL", "k"],
                ["GETDEL", "k"], ["APPEND", "a", "12"], ["APPEND", "a", "34"], ["STRLEN", "a"],
                ["STRLEN", "none"], ["APPEND", "a", ""], ["DBSIZE"], ["SET", "e", ""],
                ["GET", "e"], ["STRLEN", "e"], ["EXISTS", "e", "none", "e"],
                ["SET", "b", b"\x00\r\n\xff"], ["GET", "b"], ["FLUSHDB", "SYNC"], ["DBSIZE"]],
    "large": [["SET", "k", BIG], ["GET", "k"], ["APPEND", "k", "tail"], ["STRLEN", "k"],
              ["GETRANGE", "k", "29998", "30001"], ["MGET", "k", "none", "k"],
              ["MULTI"], ["GET", "k"], ["STRLEN", "k"], ["EXEC"]],
    "set options": [["SET", "k", "1", "XX"], ["SET", "k", "1", "NX"], ["SET", "k", "2", "NX"],
                    ["SET", "k", "2", "xx"], ["SET", "k", "3", "GET"], ["SET", "n", "3", "GET"],
                    ["SET", "k", "4", "NX", "GET"], ["SET", "m", "4", "GET", "NX"],
                    ["SET", "z", "4", "XX", "GET"], ["GET", "z"], ["GET", "m"],
                    ["SET", "k", "4", "NX", "XX"], ["SET", "k", "5", "KEEPTTL"],
                    ["SET", "k", "5", "FOO"], ["SET", "k", "5", "EX"],
                    ["SET", "k", "5", "EX", "x"], ["SET", "k", "5", "EX", "0"],
                    ["SET", "k", "5", "EX", "-1"], ["SET", "k", "5", "EX", "1", "KEEPTTL"],
                    ["SET", "k", "5", "PX", "1", "EX", "1"], ["GET", "k"]],
    "keys": [["MSET", "a", "1", "b", "2", "a", "3"], ["MGET", "a", "b", "c"],
             ["MSETNX", "c", "1", "a", "2"], ["MGET", "a", "c"], ["MSETNX", "c", "1", "d", "2"],
             ["DEL", "a"], ["DEL", "a"], ["DEL", "b", "c", "x", "b"], ["EXISTS", "d"],
             ["EXISTS", "x"], ["EXISTS", "d", "d", "x"], ["FLUSHALL", "async"], ["DBSIZE"]],
    "numbers": [["INCR", "n"], ["INCRBY", "n", "41"], ["DECR", "n"], ["DECRBY", "n", "50"],
                ["GET", "n"], ["INCRBY", "n", "x"], ["INCRBY", "n", "1.5"], ["INCRBY", "n", " 1"],
                ["INCRBY", "n", "9223372036854775808"], ["SET", "s", "abc"], ["INCR", "s"],
                ["SET", "m", "9223372036854775807"], ["INCR", "m"], ["INCRBY", "m", "-1"],
                ["SET", "m", "-9223372036854775808"], ["DECR", "m"], ["INCR", "m"],
                ["DECRBY", "m", "-9223372036854775808"], ["SET", "w", " 1"], ["INCR", "w"],
                ["SET", "w", "01"], ["INCR", "w"], ["SET", "w", "-0"], ["INCR", "w"],
                ["SET", "w", ""], ["INCR", "w"], ["SET", "w", "+1"], ["INCR", "w"]],
    "ranges": [["SET", "k", "Hello World"], ["SETRANGE", "k", "6", "Redis"], ["GET", "k"],
               ["SETRANGE", "k", "-1", "x"], ["SETRANGE", "k", "x", "x"],
               ["SETRANGE", "pad", "5", "x"], ["GET", "pad"], ["SETRANGE", "none", "3", ""],
               ["SETRANGE", "none", "0", ""], ["EXISTS", "none"], ["SETRANGE", "k", "3", ""],
               ["GETRANGE", "k", "0", "3"], ["GETRANGE", "k", "-3", "-1"],
               ["GETRANGE", "k", "0", "-1"], ["GETRANGE", "k", "10", "100"],
               ["GETRANGE", "k", "5", "3"], ["GETRANGE", "k", "-100", "2"],
               ["GETRANGE", "k", "-1", "-3"], ["GETRANGE", "k", "-100", "-99"],
               ["GETRANGE", "k", "-100", "-100"], ["GETRANGE", "none", "0", "-1"],
               ["GETRANGE", "k", "x", "1"], ["GETRANGE", "k", "0", "x"],
               ["GETRANGE", "k", "9223372036854775807", "9223372036854775807"]],
    "multi": [["MULTI"], ["SET", "a", "1"], ["INCR", "a"], ["GET", "none"], ["PING"],
              ["ECHO", "e"], ["EXEC"], ["GET", "a"], ["EXEC"], ["DISCARD"], ["MULTI"], ["EXEC"],
              ["MULTI"], ["MULTI"], ["SET", "b", "1"], ["EXEC"], ["MULTI"], ["SET", "c", "1"],
              ["DISCARD"], ["GET", "c"], ["MULTI"], ["PING"], ["PING", "x"], ["EXEC"]],
    "multi aborted": [["MULTI"], ["SET", "a", "1"], ["NOPE"], ["EXEC"], ["GET", "a"], ["MULTI"],
                      ["GET"], ["SET", "a", "1"], ["EXEC"], ["GET", "a"], ["MULTI"],
                      ["CLIENT", "NOPE"], ["EXEC"], ["MULTI"], ["EXEC", "x"], ["EXEC"],
                      ["MULTI"], ["NOPE"], ["DISCARD"], ["SET", "a", "2"], ["GET", "a"]],
    "multi errors inside": [["SET", "s", "abc"], ["MULTI"], ["SET", "a", "1", "FOO"], ["INCR", "s"],
                            ["SET", "b", "2"], ["MSET", "x", "1", "y"], ["DECRBY", "a", "x"],
                            ["SELECT", "5"], ["PING", "a", "b"], ["EXEC"], ["MGET", "a", "b"]],
    "multi of everything": [["MULTI"], ["SET", "k", "5"], ["SETNX", "k", "1"],
                            ["GETSET", "k", "6"], ["APPEND", "k", "7"], ["STRLEN", "k"],
                            ["INCR", "k"], ["DECRBY", "k", "8"], ["MSET", "a", "1", "b", "2"],
                            ["MGET", "a", "z", "b"], ["MSETNX", "a", "1"], ["EXISTS", "a", "b"],
                            ["SETRANGE", "a", "2", "x"], ["GETRANGE", "a", "0", "0"],
                            ["DEL", "a"], ["DEL", "a", "b"], ["GETDEL", "k"], ["DBSIZE"],
                            ["SET", "k", "v", "NX", "GET"], ["FLUSHALL"], ["CONFIG", "GET", "save"],
                            ["CLIENT", "GETNAME"], ["EXEC"]],
    "quit": [["SET", "a", "1"], ["QUIT"], ["GET", "a"]],
    "quit in multi": [["MULTI"], ["SET", "a", "1"], ["QUIT"]],
    "inline": [b"PING\r\n", b"SET k \"a b\"\n", b"  GET   k  \r\n", b"\r\n", b"ECHO 'x\\'y'\r\n",
               b"ECHO \"\\x41\\n\\q\"\r\n", b"get\r\n", b"ECHO \"\"\r\n", b"*0\r\n", b"*-1\r\n",
               b"MULTI\r\nSET x 1\r\nEXEC\r\n", b"ECHO a\"b c\"\r\n", b"ECHO \x0bx\x0c\r\n"],
}

# Each ends with the server closing the connection.
BROKEN = [
    b"*x\r\n", b"*3000000000\r\n", b"*1\r\n+PING\r\n", b"*1\r\n$x\r\n", b"*1\r\n$-1\r\n",
    b"*1\r\n$600000000\r\n", b"*01\r\n", b"*2\r\n$4\r\nECHO\r\n:1\r\n", b"ECHO \"open\r\n",
    b"ECHO \"a\"b\r\n", b"ECHO 'a\r\n", b"*\r\n", b"*1\r\n$\r\n", b"*1 \r\n",
    b"*1\r\n$4 \r\nPING\r\n",
    encode("SET", "a", "1") + b"*1\r\n!\r\n", b"*9223372036854775808\r\n",
]


def masked(data):
    """Without what must differ: connection ids."""
    return re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1:#", data)


def conversation(port, protocol, commands, piece):
    """All replies to `commands`, sent in pieces of so many bytes (0: at once)."""
    with Connection(port) as connection:
        if protocol == 3:
            connection.call("HELLO", "3")
        connection.call("FLUSHALL")
        stream = b"".join(c if isinstance(c, bytes) else encode(*c) for c in commands)
        # Without DISCARD, a transaction still open would queue the end.
        stream += encode("DISCARD") + encode("ECHO", "the end")
        for at in range(0, len(stream), piece or len(stream)):
            try:
                connection.send(stream[at:at + (piece or len(stream))])
            except OSError:
                break  # closed, as the case may want
        data = b""
        while not data.endswith(b"$7\r\nthe end\r\n"):
            reply = connection.reply()
            if not reply:
                break
            data += reply
        return masked(data)


def broken_conversation(port, stream):
    with Connection(port) as connection:
        connection.send(stream)
        return connection.until_closed()


def random_command(rng):
    key = lambda: rng.choice("abcdef")
    value = lambda: rng.choice(["", "0", "1", "-7", "9223372036854775807", "text", "x" * 300,
                                rng.randbytes(rng.randrange(1, 40))])
    number = lambda: rng.choice(["0", "1", "-1", "5", "-100", "100", "9223372036854775807", "x"])
    return rng.choice([
        lambda: ["GET", key()], lambda: ["SET", key(), value()],
        lambda: ["SET", key(), value()] + rng.sample(["NX", "XX", "GET", "KEEPTTL"],
                                                     rng.randrange(3)),
        lambda: ["SETNX", key(), value()], lambda: ["GETSET", key(), value()],
        lambda: ["GETDEL", key()], lambda: ["DEL"] + [key() for _ in range(rng.randrange(1, 4))],
        lambda: ["EXISTS"] + [key() for _ in range(rng.randrange(1, 4))],
        lambda: ["MGET"] + [key() for _ in range(rng.randrange(1, 4))],
        lambda: ["MSET"] + [w for _ in range(rng.randrange(1, 4)) for w in (key(), value())],
        lambda: ["MSETNX"] + [w for _ in range(rng.randrange(1, 3)) for w in (key(), value())],
        lambda: ["INCR", key()], lambda: ["DECR", key()], lambda: ["INCRBY", key(), number()],
        lambda: ["DECRBY", key(), number()], lambda: ["APPEND", key(), value()],
        lambda: ["STRLEN", key()], lambda: ["SETRANGE", key(), rng.choice("0159"), value()],
        lambda: ["GETRANGE", key(), number(), number()], lambda: ["DBSIZE"], lambda: ["PING"],
        lambda: ["MULTI"], lambda: ["EXEC"], lambda: ["EXEC"], lambda: ["DISCARD"],
        lambda: ["ECHO", value()], lambda: ["NOPE", key()], lambda: ["GET"],
    ])()


def compare(name, ours, theirs, told):
    if ours == theirs:
        return True
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b),
              min(len(ours), len(theirs)))
    around = slice(max(at - 150, 0), at + 150)
    print(f"{name}: differs at byte {at}\n  redis {theirs[around]!r}\n  proxy {ours[around]!r}\n"
          f"  {told}")
    return False


def main():
    rng = random.Random(7)
    checks, good = 0, 0
    with redis_server() as redis, proxy_server(sys.argv[1:]) as proxy:
        for protocol in (2, 3):
            for name, commands in CASES.items():
                for piece in (0, 1, 7) if name != "large" else (0, 997):
                    checks += 1
                    answers = [conversation(server.port, protocol, commands, piece)
                               for server in (proxy, redis)]
                    good += compare(f"{name} (RESP{protocol}, pieces of {piece})", *answers, "")
            for run in range(20):
                commands = [random_command(rng) for _ in range(300)]
                checks += 1
                answers = [conversation(server.port, protocol, commands, rng.choice((0, 50, 1000)))
                           for server in (proxy, redis)]
                good += compare(f"random pipeline {run} (RESP{protocol})", *answers, commands)
        for stream in BROKEN:
            checks += 1
            answers = [broken_conversation(server.port, stream) for server in (proxy, redis)]
            good += compare(f"broken stream {stream!r}", *answers, "")
    print(f"{good} of {checks} conversations equal")
    sys.exit(0 if good == checks else 1)


if __name__ == "__main__":
    main()
