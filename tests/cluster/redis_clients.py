"""What the stock Redis clients have to get from a proxy, whatever the cluster runs on."""

import shutil
import subprocess
import sys

SKIP = 77


def require_clients():
    """Ends the test as skipped without them."""
    for tool in ("redis-cli", "redis-benchmark"):
        if shutil.which(tool) is None:
            print(f"{tool} is missing: apt-get install redis-tools")
            sys.exit(SKIP)


def expect(found, wanted):
    assert found == wanted, f"found {found!r}, wanted {wanted!r}"


class RedisClients:
    """The clients of the proxy at a port of 127.0.0.1; `prefix` starts a program where that is."""

    def __init__(self, port, prefix=()):
        self.port, self.prefix = str(port), list(prefix)

    def run(self, program, *words, **options):
        done = subprocess.run([*self.prefix, program, "-p", self.port, *words], text=True,
                              capture_output=True, **options)
        assert done.returncode == 0, f"{program} {words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def cli(self, *words, stdin=None):
        """The output of redis-cli for one command, or for commands from stdin."""
        return self.run("redis-cli", *words, input=stdin, timeout=60)

    def commands_work(self):
        expect(self.cli("SET", "k", "v"), "OK")
        expect(self.cli("GET", "k"), "v")
        expect(self.cli("INCR", "n"), "1")
        expect(self.cli(stdin="MULTI\nINCR n\nAPPEND k w\nEXEC\n"), "OK\nQUEUED\nQUEUED\n2\n2")
        for key in (5, 1, 3):
            expect(self.cli("BT.INSERT", str(key), f"value{key}"), "1")
        expect(self.cli("BT.RANGE", "1", "4").split(), ["1", "value1", "3", "value3"])
        expect(self.cli("BT.COUNT", "0", "10"), "3")
        big = "x" * 40_000  # many fragments
        expect(self.cli("SET", "big", big), "OK")
        expect(self.cli("GET", "big"), big)

    def flush_works(self, lossy=False):
        """FLUSHALL empties both services, by itself and within a transaction; FLUSHDB one."""
        expect(self.cli("SET", "flushed", "1"), "OK")
        expect(self.cli("BT.INSERT", "77", "flushed"), "1")
        expect(self.cli("FLUSHDB"), "OK")
        expect(self.cli(stdin="DBSIZE\nBT.COUNT 77 77\n"), "0\n1")
        expect(self.cli(stdin="SET k v\nFLUSHALL\nDBSIZE\nBT.COUNT 0 100\n"), "OK\nOK\n0\n0")
        # Replies as long as this one are not kept: if it is lost on the way, that is the answer.
        transaction = "MULTI\nBT.INSERT 9 x\nSET k v\nFLUSHALL\nBT.COUNT 0 100\nDBSIZE\nEXEC\n"
        for _ in range(10 if lossy else 1):
            told = self.cli(stdin=transaction)
            if "its reply is no longer held" not in told:
                break
        expect(told, "OK" + "\nQUEUED" * 5 + "\n1\nOK\nOK\n0\n0")

    def benchmark_works(self, requests):
        for extra in ([], ["-P", "16", "-r", "10000"]):
            told = self.run("redis-benchmark", "-t", "set,get", "-n", str(requests), "-c", "20",
                            "-d", "64", "--csv", *extra, timeout=120)
            rows = [line for line in told.splitlines() if line.startswith(('"SET"', '"GET"'))]
            assert len(rows) == 2, told
            print("\n".join(rows), flush=True)
