#!/usr/bin/env python3
"""Installs the build into an empty directory, builds the embedding example against what is there,
through pkg-config alone, and runs it.

usage: install.py BUILD_DIRECTORY SOURCE_DIRECTORY
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main():
    build, source = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="annulus-install-") as place:
        subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir",
                        place], check=True)
        descriptions = list(Path(place).rglob("annulus.pc"))
        assert len(descriptions) == 1, f"one annulus.pc is installed, found {descriptions}"
        assert list(Path(place).rglob("libannulus.a")), "libannulus.a is installed"
        environment = {**os.environ, "PKG_CONFIG_SYSROOT_DIR": place,
                       "PKG_CONFIG_PATH": str(descriptions[0].parent)}
        flags = subprocess.run(["pkg-config", "--static", "--cflags", "--libs", "annulus"],
                               check=True, capture_output=True, text=True, env=environment)
        example = f"{place}/counter"
        subprocess.run(["c++", "-std=c++20", "-O1", f"{source}/tools/example/counter.cc", "-o",
                        example, *flags.stdout.split()], check=True)
        subprocess.run([example], check=True, timeout=120)
        binaries = [path for path in Path(place).rglob("bin/annulus")]
        subprocess.run([binaries[0], "--help"], check=True, stdout=subprocess.DEVNULL, timeout=20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
