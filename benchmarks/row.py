"""Our medians in microseconds as one JSON object on standard output: `python benchmarks/row.py [--rounds N] [--quick]`.

| key | what |
|---|---|
| handshake_pair | a warm pair, bundle verified to both sides established |
| enc_N, dec_N | the ratchet's seal and open of N bytes, with padding and state: what peers call encrypt and decrypt |
| frame_out_N, frame_in_N | `Agent.send` and `Agent.receive`: plaintext to wire bytes and back, no audit |
| frameaudit_out_N, frameaudit_in_N | the same with a journal and an audit log in memory |
| pingpong | one message of a ping-pong of 256 bytes, whole frames, a turn of the ratchet on each |
| reverse100 | one message of a hundred opened in reverse, whole frames |
| mem_session_bytes | all that an agent keeps for one more idle session, with 5,000 of them |
| serialise, restore | `export_session` and `restore_session`, unsealed |
| audit_append_1k, 10k, 100k | one record of a log that grows from nothing to that size, in memory |

N is 64, 256, 1024, 16384 and 1048576. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the repository's folder is what the modules are found from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measure import FULL, QUICK, TINY, medians, ours_alone
from benchmarks.run import show_progress
from benchmarks.sizes import SIZES
from benchmarks.workers import OURS, figure

_SIZED = ("enc", "dec", "frame_out", "frame_in", "frameaudit_out", "frameaudit_in")
GROUPS: dict[str, tuple[str, ...]] = {
    "establishment": ("handshake_pair",),
    "messages": tuple(f"{kind}_{size}" for kind in _SIZED for size in SIZES),
    "ratchet": ("pingpong", "reverse100"),
    "state": ("serialise", "restore"),
    "audit": ("audit_append_1k", "audit_append_10k", "audit_append_100k"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, help="rounds of each workload")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="short blocks: the numbers mean little")
    size.add_argument("--tiny", action="store_true", help="as little as can be: shows that it runs")
    options = parser.parse_args(arguments)
    scale = TINY if options.tiny else QUICK if options.quick else FULL
    if options.rounds is not None:
        scale = scale._replace(rounds=max(1, options.rounds))
    progress = show_progress()
    run = ours_alone(progress)
    try:
        for name, jobs in GROUPS.items():
            run.interleave(name, jobs, scale)
    finally:
        run.close()
    progress("memory: idle sessions")
    row = {key: round(value, 3) for key, value in medians(run.measured).items()}
    row["mem_session_bytes"] = round(figure(OURS, "mem_session_bytes", count=scale.sessions), 1)
    print(file=sys.stderr)
    print(json.dumps(row, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
