#!/usr/bin/env python3
"""Builds and runs every test, in every build that applies, and counts test cases.

Which tests run in which build follows from their meson suites, so a new test is picked up by naming
its suites in meson.build:

  release  every suite but `fuzz`
  asan     `asan`: simulation and unit tests, but of what parses and prints for people, under
           AddressSanitizer and UndefinedBehaviorSanitizer
  tsan     `tsan`: rings, stages on threads, the embedded cluster, under ThreadSanitizer
  fuzz     `fuzz`: each target for a few seconds, with clang's libFuzzer

The last line is `N passed, N failed, N skipped`; the exit status is non-zero if any failed.
"""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Instrumentation confuses the compilers' flow warnings; the release build holds warnings as errors.
# Reports name functions; line numbers would double the time to compile.
SANITIZED = ["-Dwerror=false", "-Dbuildtype=plain", "-Doptimization=1",
             "-Db_lundef=false", "-Ddpdk=disabled"]


@dataclass
class Build:
    name: str
    directory: str
    options: list
    suites: list
    timeout_multiplier: int = 1
    environment: dict = field(default_factory=dict)


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    notes: list = field(default_factory=list)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.notes += other.notes

    def fail(self, what):
        self.failed += 1
        self.notes.append(f"FAILED  {what}")


BUILDS = [
    Build("release", "build", [], []),
    Build("asan", "build-asan", ["-Db_sanitize=address,undefined", *SANITIZED],
          ["asan"], 4, {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}),
    Build("tsan", "build-tsan", ["-Db_sanitize=thread", *SANITIZED], ["tsan"], 8,
          {"TSAN_OPTIONS": "halt_on_error=1"}),
    Build("fuzz", "build-fuzz",
          ["-Dfuzz=true", "-Db_sanitize=address,undefined", *SANITIZED], ["fuzz"], 2,
          {"CXX": "clang++", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}),
]


def run(command, environment, **arguments):
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, **arguments)


def tests_of(build):
    """The tests that belong to this build, as meson describes them."""
    told = run(["meson", "introspect", build.directory, "--tests"], {}, check=True,
               capture_output=True).stdout
    suites = {f"annulus:{suite}" for suite in build.suites}
    return [test for test in json.loads(told)
            if (suites & set(test["suite"]) if suites else "annulus:fuzz" not in test["suite"])]


def compile_targets(build, tests):
    """Builds what the tests need; all of the project for the release build."""
    if not build.suites:
        return run(["ninja", "-C", build.directory, "-j2"], build.environment).returncode == 0
    told = run(["meson", "introspect", build.directory, "--targets"], {}, check=True,
               capture_output=True).stdout
    files = {target["id"]: target["filename"] for target in json.loads(told)}
    wanted = sorted({os.path.relpath(name, ROOT / build.directory)
                     for test in tests for id in test["depends"] for name in files[id]})
    return run(["ninja", "-C", build.directory, "-j2", *wanted], build.environment).returncode == 0


def gtest_cases(path, name, counts):
    """Counts the cases of one GoogleTest program from the XML it wrote; False if it wrote none."""
    try:
        tree = xml.parse(path)
    except (OSError, xml.ParseError):
        return False
    for case in tree.iter("testcase"):
        title = f"{name}: {case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None:
            counts.fail(title)
        elif case.find("skipped") is not None:
            counts.skipped += 1
            reason = " ".join((case.find("skipped").get("message") or "no reason given").split())
            counts.notes.append(f"skipped {title}: {reason}")
        elif case.get("status") == "run":
            counts.passed += 1
    return True


def run_limited(command, directory, environment, seconds):
    """Output and exit status of a command; it and all it started are killed when time is up."""
    process = subprocess.Popen(command, cwd=directory, env={**os.environ, **environment},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, code = process.communicate(timeout=seconds)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, code = process.communicate()[0], f"killed after {seconds} s"
    return output.decode(errors="replace"), code


def run_test(build, test):
    """Runs one test program and counts its cases."""
    name = f"{build.name}/{test['name']}"
    results = ROOT / build.directory / "meson-logs" / f"{test['name'].replace(' ', '_')}.xml"
    results.unlink(missing_ok=True)
    environment = {**build.environment, **test["env"], "GTEST_OUTPUT": f"xml:{results}"}
    begun = time.monotonic()
    # Where meson would run it: programs among its arguments are named from there.
    output, code = run_limited(test["cmd"], ROOT / build.directory, environment,
                               test["timeout"] * build.timeout_multiplier)
    seconds = time.monotonic() - begun
    verdict = "ok" if code == 0 else "skipped" if code == 77 else f"FAILED ({code})"
    print(f"  {name:<40} {seconds:7.1f} s  {verdict}", flush=True)

    counts = Counts()
    counted = test["protocol"] == "gtest" and gtest_cases(results, name, counts)
    if code == 77 and not counted:
        counts.skipped += 1
        reason = (output.strip().splitlines() or ["no reason given"])[-1]
        counts.notes.append(f"skipped {name}: {reason}")
    elif code == 0 and not counted:
        counts.passed += 1
    elif code not in (0, 77):
        said = ["    | " + line for line in output.splitlines()]
        if not counts.failed:
            counts.fail("\n".join([f"{name}: ended with {code}", *said[-8:]]))
        print("\n".join(said[-60:]), flush=True)
    return counts


def run_build(build, counts):
    print(f"== {build.name} ({build.directory})", flush=True)
    if not (ROOT / build.directory / "build.ninja").exists():
        setup = run(["meson", "setup", build.directory, *build.options], build.environment,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if setup.returncode != 0:
            print(setup.stdout.decode(errors="replace"))
            counts.fail(f"{build.name}: meson setup")
            return
    # Settles a stale configuration before it is asked about its tests.
    if run(["ninja", "-C", build.directory, "build.ninja"], build.environment,
           stdout=subprocess.DEVNULL).returncode != 0:
        counts.fail(f"{build.name}: meson reconfiguration")
        return
    tests = tests_of(build)
    if tests and not compile_targets(build, tests):
        counts.fail(f"{build.name}: compilation")
        return
    # Two at a time; those that want the machine for themselves, at the end, one by one.
    for alone, workers in ((False, 2), (True, 1)):
        chosen = [test for test in tests if test["is_parallel"] != alone]
        with ThreadPoolExecutor(workers) as pool:
            for counted in pool.map(lambda test: run_test(build, test), chosen):
                counts.add(counted)


def main():
    counts = Counts()
    begun = time.monotonic()
    for build in BUILDS:
        run_build(build, counts)
    for note in counts.notes:
        print(note)
    print(f"{time.monotonic() - begun:.0f} seconds")
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped", flush=True)
    return 1 if counts.failed or not counts.passed else 0


if __name__ == "__main__":
    sys.exit(main())
