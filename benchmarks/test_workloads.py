"""The same workloads under pytest-benchmark: `pytest benchmarks --benchmark-only -n 0`.

A call is what one workload says it is: for `reverse100` a hundred messages, for `audit_append_1k` a thousand records.
`extra_info` says how many. The floor stands beside ours in one group. Run the peers with `python -m benchmarks.run`.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.measure import GROUPS
from benchmarks.ours import BARE, WORKLOADS
from benchmarks.peers.serve import Call

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark: pip install '.[bench]'")

NAMES = [
    name
    for jobs in GROUPS.values()
    for job in jobs
    for name, known in ((job, WORKLOADS), (f"bare:{job}", BARE))
    if name in known
]


@pytest.mark.parametrize("name", NAMES)
def test_workload(benchmark: Any, name: str) -> None:
    workload = (WORKLOADS | BARE)[name]
    calls = workload.calls()
    benchmark.group = name.removeprefix("bare:")
    benchmark.extra_info["per"] = workload.per
    heavy = workload.per >= 100 or "1048576" in name

    def setup() -> tuple[tuple[Call], dict[str, Any]]:
        return (next(calls),), {}

    benchmark.pedantic(lambda call: call(), setup=setup, rounds=5 if heavy else 50, warmup_rounds=1 if heavy else 5)
