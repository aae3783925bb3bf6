#!/usr/bin/env python3
"""House rules that a machine can check, over every file of the tree: line, file and function
length, layers, words that promise work instead of doing it, and clang-format."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE_MAX = 100
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
# Which folders a folder may include. A longer path wins over its parent.
LAYERS = {
    "dataplane": ["dataplane"],
    "consensus": ["dataplane", "consensus"],
    "statemachine": ["dataplane", "consensus", "statemachine"],
    "recovery": ["dataplane", "consensus", "statemachine", "recovery"],
}
BANNED = re.compile(r"\b(TODO|FIXME|XXX|HACK|for now|temporar(?:y|ily)|work in progress)\b", re.I)


def sources():
    folders = ["dataplane", "consensus", "statemachine", "recovery", "tools", "tests", "perf",
               "docs"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")
             if path.suffix in (".h", ".cc", ".py")]
    return sorted(files)


def long_functions(lines):
    """Functions whose body, opened at the end of an unindented line, exceeds the limit."""
    opened = None
    for number, line in enumerate(lines, 1):
        starts = re.match(r"[A-Za-z~ ].*[)a-z]\s*\{$", line)
        if starts and not re.match(r"\s|namespace|struct|class|enum|union|extern", line):
            opened = number
        elif line == "}" and opened is not None:
            if number - opened - 1 > FUNCTION_LINES_MAX:
                yield opened, number - opened - 1
            opened = None


def complaints(path):
    name = str(path.relative_to(ROOT))
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_MAX:
            yield f"{name}:{number}: {len(line)} columns, at most {LINE_MAX}"
        banned = BANNED.search(line)
        if banned and path != Path(__file__).resolve():
            yield f"{name}:{number}: '{banned.group()}'"
    if path.suffix == ".py":
        return
    if len(lines) > FILE_LINES_MAX:
        yield f"{name}: {len(lines)} lines, at most {FILE_LINES_MAX}: split it"
    for number, length in long_functions(lines):
        yield f"{name}:{number}: a function of {length} lines, at most {FUNCTION_LINES_MAX}"
    if path.suffix == ".h" and "#pragma once" not in lines:
        yield f"{name}: no #pragma once"
    described_elsewhere = path.suffix == ".cc" and (
        path.stem.endswith("_test") or path.with_suffix(".h").exists())
    if not described_elsewhere and not (lines and lines[0].startswith("//")):
        yield f"{name}:1: no comment that says what the file owns"
    folder = name.split("/")[0]
    test = path.stem.endswith("_test")
    for number, line in enumerate(lines, 1):
        include = re.match(r'#include ["<]([a-z]+)/', line)
        if include and folder in LAYERS and not test and (ROOT / include[1]).is_dir() \
                and include[1] not in LAYERS[folder]:
            yield f"{name}:{number}: {folder} may not include {include[1]}"
        if re.match(r"#include [\"<]rte_", line) and not name.startswith("dataplane/dpdk/"):
            yield f"{name}:{number}: DPDK headers belong in dataplane/dpdk only"
        if re.match(r"#include [\"<]liburing", line) and folder != "recovery":
            yield f"{name}:{number}: liburing belongs in recovery only"


def unformatted(files):
    if shutil.which("clang-format") is None:
        yield "clang-format is missing: apt-get install clang-format"
        return
    told = subprocess.run(["clang-format", "--dry-run", "--Werror", *map(str, files)],
                          cwd=ROOT, capture_output=True, text=True)
    seen = set()
    for line in told.stderr.splitlines():
        place = re.match(r"(\S+?):(\d+):\d+: error", line)
        if place and place[1] not in seen:
            seen.add(place[1])
            yield f"{place[1]}:{place[2]}: run clang-format -i on this file"


def main():
    files = sources()
    found = [line for path in files for line in complaints(path)]
    found += unformatted([path for path in files if path.suffix != ".py"])
    print("\n".join(found))
    print(f"{len(files)} files, {len(found)} complaints")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
