#!/usr/bin/env python3
"""Check the test vectors with a second implementation, written from docs/protocol.md and README.md alone.

    python vectors/verify.py [PATH...]

Each PATH is a vector or a folder of them; without one, all of vectors/v1 is checked. `expect` and `output` must be what
the implementation in verifier/ makes of `input`, and so must each value of `intermediate`.

The exit status is 0 if every file passed, 1 if one did not or there was none, 2 for a mistaken call.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verifier.operations import run


def plain(value: Any) -> Any:
    """A result as JSON has it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [plain(element) for element in value]
    return value


def shown(value: Any) -> str:
    """A value in at most some 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def differences(where: str, wanted: Any, got: Any, partly: bool = False) -> Iterator[str]:
    """Where two JSON values differ. With `partly` an object may have more members than are wanted."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in wanted:
            if key not in got:
                yield f"{where}.{key}: wanted {shown(wanted[key])}, got nothing"
            else:
                yield from differences(f"{where}.{key}", wanted[key], got[key], partly)
        if not partly:
            yield from (f"{where}.{key}: wanted nothing, got {shown(got[key])}" for key in got if key not in wanted)
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from differences(f"{where}[{index}]", one, other, partly)
    elif type(wanted) is not type(got) or wanted != got:
        yield f"{where}: wanted {shown(wanted)}, got {shown(got)}"


def check(path: Path) -> tuple[str, bool, list[str]]:
    """A file's family, whether it is a valid one, and what is wrong with it."""
    family, valid = path.parent.name, False
    try:
        vector = json.loads(path.read_text(encoding="utf-8"))
        family, valid = vector["family"], vector["expect"] == "ok"
        code, output, trace = run(vector)
        wrong = list(differences("expect", vector["expect"], code))
        wrong += differences("output", vector["output"], plain(output))
        wrong += differences("intermediate", vector["intermediate"], plain(trace), partly=True)
        if vector["name"] != path.stem:
            wrong.append(f"name: {vector['name']!r} is not the file's")
    except Exception as error:
        return family, valid, [f"cannot be run: {type(error).__name__}: {error}"]
    return family, valid, wrong


def main(arguments: list[str] | None = None) -> int:
    """Check the files, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Check the test vectors, independently.")
    parser.add_argument("path", nargs="*", type=Path, default=[Path(__file__).resolve().parent / "v1"])
    paths = parser.parse_args(arguments).path
    if missing := [str(path) for path in paths if not path.exists()]:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.json")))]
    counts: dict[str, Counter[str]] = {}
    passed = 0
    for file in files:
        family, valid, wrong = check(file)
        count = counts.setdefault(family, Counter())
        count.update(["files", "valid" if valid else "invalid", "failed" if wrong else "passed"])
        passed += not wrong
        for line in wrong:
            print(f"{file}: {line}")
    for family, count in counts.items():
        numbers = ", ".join(f"{count[name]} {name}" for name in ("files", "valid", "invalid", "passed"))
        print(f"{family}: {numbers}")
    print(f"{passed} passed, {len(files) - passed} failed")
    return 0 if files and passed == len(files) else 1


if __name__ == "__main__":
    sys.exit(main())
