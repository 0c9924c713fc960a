"""How many instructions a call takes, counted by callgrind: as many on a busy machine as on an idle one.

    python -m benchmarks.instructions frame_256 bare:frame_256     # thousands for each message, pair or record

One process, under valgrind, does all of a batch: so ours and the floor share a binary, an interpreter and a heap. A
block of calls stands between two calls of `os.getloadavg`, which nothing else calls, and at which callgrind is told to
write down what it has counted since the last. Hash seeds are fixed.

Garbage collection is counted: what a call leaves to the collector is part of its cost. But what was there before the
block is frozen, and the collector begins each block with nothing to look at, so that its passes come at the same calls
each time. What a long life adds, passes over what has been kept for long, is the clock's to say.

Instructions are not time: a copy of a megabyte takes few of them. What moves many bytes is judged by the clock too.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.peers.serve import Workload
from benchmarks.workers import ROOT, environment

COUNTED: Final = (sys.executable, "-m", "benchmarks.instructions", "--counted")
_WARM_UP: Final = 20  # CPython 3.11 specialises code that has run some times
_UNITS: Final = 200  # messages or records in a block
_HEAVY: Final = {"handshake_pair": 20, "handshake_pair_cold": 20, "pingpong": 50, "1048576": 4, "bundle_batch": 1}
# The rows whose instructions stand on the page, and the floor of each, where it has one.
MAIN: Final[dict[str, str | None]] = {
    "frame_256": "bare:frame_256",
    "frameaudit_256": "bare:frameaudit_256",
    "framefile_256": "bare:frameaudit_256",
    "pingpong": "bare:pingpong",
    "handshake_pair": "bare:handshake_pair",
    "handshake_pair_cold": "bare:handshake_pair_cold",
    "restore": None,
    "serialise": None,
    "frameaudit_1048576": "bare:box_and_hash_1048576",
    "audit_append_1k": "bare:audit_append_1k",
    "audit_verify_1k": "bare:audit_verify_1k",
}
_TIMEOUT_SECONDS: Final = 900
# The mark is the C library's function, which `os.getloadavg` calls once.
_VALGRIND: Final = ("valgrind", "-q", "--tool=callgrind", "--dump-before=getloadavg")


class NotCounted(Exception):
    """There is no count; says why."""


def calls_of(name: str, workload: Workload) -> int:
    """Return how many calls a block of this workload has."""
    heavy = next((count for part, count in _HEAVY.items() if name.endswith(part)), None)
    return max(1, _UNITS // workload.per) if heavy is None else heavy


def counted(workloads: Mapping[str, Workload], names: Sequence[str]) -> None:
    """Do a block of each of these workloads, a mark before it and one behind it; tells how many units it was."""
    for name in names:
        workload = workloads[name]
        count, calls = calls_of(name, workload), workload.calls()
        for _ in range(min(_WARM_UP, count)):
            next(calls)()
        ready = [next(calls) for _ in range(count)]
        gc.collect()
        gc.freeze()
        os.getloadavg()
        for call in ready:
            call()
        os.getloadavg()
        gc.unfreeze()
        ready.clear()
        calls.close()  # type: ignore[attr-defined] # they are generators, and some have a file to remove
        print(name, count * workload.per, flush=True)


def why_not() -> str | None:
    """Return why nothing can be counted here; `None` where it can."""
    return None if shutil.which("valgrind") else "valgrind is not installed"


def count(
    batches: Sequence[Sequence[str]],
    *,
    command: Sequence[str] = COUNTED,
    prefix: Sequence[str] = (),
    at_once: int | None = None,
) -> dict[str, float]:
    """Return the instructions for one unit of each workload. Each batch has a process of its own.

    `prefix` goes before the whole command, so that it can say which build of the library runs.

    Raises:
        NotCounted: valgrind is not here, or failed.
    """
    reason = why_not()
    if reason is not None:
        raise NotCounted(reason)
    found: dict[str, float] = {}
    with ThreadPoolExecutor(at_once or os.cpu_count() or 1) as pool:
        for counts in pool.map(lambda names: _batch(prefix, command, names), batches):
            found |= counts
    return found


def _batch(prefix: Sequence[str], command: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        dumps = Path(folder) / "counts"
        try:
            done = subprocess.run(
                (*prefix, *_VALGRIND, f"--callgrind-out-file={dumps}", *command, *names),
                cwd=ROOT,
                env=environment() | {"PYTHONHASHSEED": "0"},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotCounted(str(error)) from error
        units = dict(re.findall(r"^(\S+) (\d+)$", done.stdout, re.MULTILINE))
        if done.returncode or list(units) != list(names):
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise NotCounted(f"a counted process exited with {done.returncode}: {lines[-1]}")
        # The first of each two parts is what came before the block, and made what it stands on.
        return {name: _total(dumps.with_suffix(f".{2 * at}")) / int(units[name]) for at, name in enumerate(names, 1)}


def _total(dump: Path) -> int:
    try:
        found = re.search(r"^totals: (\d+)$", dump.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError as error:
        raise NotCounted(f"callgrind wrote no part: {error}") from error
    if found is None or not int(found[1]):
        raise NotCounted("callgrind counted nothing")
    return int(found[1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD", help="a name of ours, or `bare:` and the floor's")
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.counted:
        from benchmarks import ours  # because only the counted process needs the library

        counted({**ours.WORKLOADS, **ours.BARE}, options.workloads)
        return 0
    try:
        for name, instructions in count([options.workloads]).items():
            print(f"{name:30} {instructions / 1000:12,.1f} k")
    except NotCounted as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
