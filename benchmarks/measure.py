"""One interleaved run: round by round every party does every workload, so that what disturbs one disturbs all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from benchmarks import instructions
from benchmarks.instructions import MAIN, NotCounted
from benchmarks.sizes import SIZES
from benchmarks.targets import middle
from benchmarks.workers import MAYBE_COMPILED, OURS, ROOT, Worker, WorkerFailed, figure

Progress = Callable[[str], None]


class Scale(NamedTuple):
    """How much is measured: `block_ms` of calls for each party and workload in each round."""

    rounds: int
    block_ms: float
    heavy: bool = True
    sessions: int = 5000
    records: int = 100_000
    growth: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    peer_growth: tuple[int, ...] = (1000, 10_000, 100_000)
    growths: int = 3
    opened: tuple[int, ...] = (10_000, 100_000)
    batches: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    batch_rounds: int = 30
    shared_seconds: float = 10
    attached: int = 1 << 30
    logged: int = 1_000_000
    hubs: tuple[int, ...] = (1, 10, 100, 1000, 10_000, 100_000)
    hub: int = 10_000
    counted: bool = True


FULL: Final = Scale(rounds=15, block_ms=100)
QUICK: Final = FULL._replace(
    rounds=5,
    block_ms=15,
    heavy=False,
    sessions=500,
    records=20_000,
    growth=(1000, 10_000, 50_000),
    peer_growth=(1000, 10_000),
    growths=1,
    opened=(500,),
    batches=(1, 10, 100),
    batch_rounds=5,
    shared_seconds=1,
    attached=1 << 28,
    logged=20_000,
    hubs=(1, 10, 100),
    hub=100,
)
TINY: Final = QUICK._replace(
    rounds=1,
    block_ms=0.1,
    sessions=20,
    records=200,
    growth=(100, 1000),
    peer_growth=(100, 200),
    opened=(20,),
    batches=(1, 10),
    batch_rounds=1,
    shared_seconds=0.1,
    attached=1 << 22,
    logged=1000,
    hubs=(1, 2),
    hub=2,
    counted=False,
)

MESSAGES: Final = tuple(f"{kind}_{size}" for size in SIZES for kind in ("enc", "dec", "frame", "frameaudit"))
_HALVES: Final = tuple(
    f"{kind}_{size}" for size in SIZES for kind in ("frame_out", "frame_in", "frameaudit_out", "frameaudit_in")
)
# Each group is interleaved by itself, and its state forgotten at its end.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "establishment": ("handshake_pair", "handshake_pair_cold", "bundle_batch"),
    "messages": (*MESSAGES, "box_and_hash_1048576", "framefile_256", "framefile_1048576"),
    "halves": _HALVES,
    "ratchet": ("pingpong", "inorder100", "reverse100"),
    "refusals": (
        "genuine_256",
        "refused_header_256",
        "refused_commitment_256",
        "refused_body_256",
        "refused_duplicate_256",
        "genuine_1048576",
        "refused_header_1048576",
    ),
    "state": ("serialise", "restore", "serialise_agent", "restore_agent"),
    "audit": (
        "audit_append_1k",
        "audit_append_10k",
        "audit_append_at_10k",
        "audit_append_at_100k",
        "audit_verify_1k",
        "audit_verify_10k",
        "audit_proof_1k",
    ),
    "trust": ("trust_decision_1000", "trust_allowed_1000", "trust_update_1000"),
    "attachments": ("attach_seal_262144", "attach_open_262144"),
    "many": ("many_100", "each_100"),
    "stores": ("store_out_100", "store_in_100", "store_out_1", "store_in_1"),
}
STORES: Final = "stores"
HEAVY: Final[dict[str, tuple[str, ...]]] = {
    "audit": ("audit_append_100k", "audit_verify_100k", "audit_proof_100k"),
    "trust": ("trust_decision_10000", "trust_allowed_10000", "trust_update_10000"),
}
# What is measured beside the groups, each part by itself.
FIGURES: Final = ("figures", "logs", "hubs", "instructions")
# What the compiled build is measured at beside the pure one.
COMPILED_JOBS: Final = frozenset(
    {
        "handshake_pair",
        "handshake_pair_cold",
        "pingpong",
        "serialise",
        "restore",
        "framefile_256",
        "framefile_1048576",
        *(f"{kind}_{size}" for size in SIZES for kind in ("frame", "frameaudit")),
    }
)


def groups(scale: Scale) -> dict[str, tuple[str, ...]]:
    """Return what is measured at this scale."""
    return {name: jobs + (HEAVY.get(name, ()) if scale.heavy else ()) for name, jobs in GROUPS.items()}


def value_of(workload: str, calls: list[float]) -> float:
    """Return what a round says of a workload: the median call, which what disturbs a few calls does not move.

    Where records are kept for ever it is the mean, because what a library then leaves to Python's garbage collector,
    in few and long passes, is part of its cost.
    """
    keeps = workload.removeprefix("bare:").startswith(("frameaudit", "framefile", "audit"))
    return sum(calls) / len(calls) if keeps else middle(calls)


# What keeps objects for ever makes the garbage collector's rare long passes longer: only long blocks show them.
AMORTISED: Final = ("frameaudit_256", "framefile_256", "bare:frameaudit_256")
LONGER: Final = 5


def _alone(module: str, argument: int) -> Any:
    """Return what a module prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(argument)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return json.loads(done.stdout)


class Run:
    """The workers of one run and what they found: `party:name` to the microseconds of each round."""

    def __init__(
        self,
        commands: dict[str, Sequence[str]],
        progress: Progress,
        *,
        block_value: Callable[[str, list[float]], float] = value_of,
    ) -> None:
        self._block_value = block_value
        self.missing: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.measured: dict[str, list[float]] = {}
        self.instructions: dict[str, float] = {}
        self.commands = dict(commands)
        self.workers: dict[str, Worker] = {}
        self._progress = progress
        for party, command in commands.items():
            try:
                self.workers[party] = Worker(command)
            except WorkerFailed as error:
                self.lose(party, str(error))

    def lose(self, party: str, reason: str) -> None:
        """Go on without a party, and remember why. Without ours there is no run."""
        if party == "ours":
            raise WorkerFailed(reason)
        self.missing[party] = reason
        self.commands.pop(party, None)
        self.workers.pop(party, None)

    def facts(self) -> dict[str, dict[str, str]]:
        """Return the versions of every party."""
        return {party: worker.facts for party, worker in self.workers.items()}

    def _parties(self, workload: str) -> list[tuple[str, Worker, str]]:
        found = [
            (f"{party}:{workload}", worker, workload)
            for party, worker in self.workers.items()
            if workload in worker.workloads and (party != "compiled" or workload in COMPILED_JOBS)
        ]
        ours, bare = self.workers["ours"], f"bare:{workload}"
        return [*found, (bare, ours, bare)] if bare in ours.workloads else found

    def interleave(self, name: str, jobs: Iterable[str], scale: Scale) -> None:
        """Measure one group of workloads, round by round; the order of the parties turns."""
        times: dict[str, int] = {}
        for number in range(-1, scale.rounds):  # the first round warms up, and says how many calls make a block
            for job in jobs:
                self._progress(f"{name}: {job}, round {max(0, number) + 1} of {scale.rounds}")
                parties = self._parties(job)
                turn = number % max(1, len(parties))
                for key, worker, workload in parties[turn:] + parties[:turn]:
                    if key in self.failed:
                        continue
                    try:
                        self._block(key, worker, workload, times, scale, warm_up=number < 0)
                    except WorkerFailed as error:
                        if worker is self.workers["ours"]:
                            raise
                        self.failed[key] = str(error)
                        self.measured.pop(key, None)
        for worker in self.workers.values():
            worker.ask(do="drop")

    def _block(
        self, key: str, worker: Worker, workload: str, times: dict[str, int], scale: Scale, *, warm_up: bool
    ) -> None:
        if warm_up:
            times[key] = 1
            start = time.perf_counter()
            worker.run(workload, 1)  # makes what the workload stands on
            if scale.block_ms < 1:
                return
            if time.perf_counter() - start < 0.2:
                worker.run(workload, 10)
                start = time.perf_counter()
                worker.run(workload, 10)
            spent_ms = (time.perf_counter() - start) * 1000 / 10
            block_ms = scale.block_ms * (LONGER if workload in AMORTISED else 1)
            times[key] = max(1, min(5000, int(block_ms / max(spent_ms, 0.001))))
            return
        cold = times[key] // 4  # a worker that has waited for the others finds its caches empty
        found = worker.run(workload, cold + times[key])[cold:]
        self.measured.setdefault(key, []).append(self._block_value(workload, found))

    def take_figures(self, scale: Scale) -> None:
        """Take what a clock alone does not say, each in a fresh process."""
        sizes: dict[str, dict[str, Any]] = {
            "overhead_bytes": {"size": 256},
            "exported_bytes": {},
            "exported_agent_bytes": {},
            "mem_session_bytes": {"count": scale.sessions},
            "mem_session_alone_bytes": {"count": scale.sessions},
            "audit_memory": {"count": scale.records},
            "attach_memory": {"size": scale.attached},
        }
        for name, arguments in sizes.items():
            for party in set(self.commands) - {"compiled"}:
                self._take(party, name, arguments)
        self._take("ours", "mem_session_bytes", {"count": scale.sessions, "initiated": False}, ".accepted")
        self._progress("figures: attachments by two threads")
        for name, rounds in _alone("benchmarks.attaching", scale.rounds).items():
            self.measured[f"ours:attach_threads.{name}"] = rounds

    def take_logs(self, scale: Scale) -> None:
        """Take what long audit logs cost: to grow, to open, to verify and to show."""
        for _ in range(scale.growths):
            self._take("ours", "audit_growth", {"sizes": scale.growth})
        for party in set(self.commands) - {"ours", "compiled"}:
            self._take(party, "audit_growth", {"sizes": scale.peer_growth})
        size = scale.growth[-1]
        self._progress(f"figures: hashes of an append, up to {size} records")
        self._keep("ours:audit_hashes", _alone("benchmarks.hashing", size))
        self._take("ours", "long_log", {"count": scale.logged})

    def take_hubs(self, scale: Scale) -> None:
        """Take what a message costs an agent of many sessions, and what a second process gains."""
        self._take("ours", "hub_curve", {"counts": scale.hubs})
        one, many = (self.measured.get(f"ours:hub_curve.{count}.message_us") for count in (scale.hubs[0], scale.hub))
        if one and many:
            self._keep("ours:hub_curve.of_one", many[0] / one[0])
        self._take("ours", "two_processes", {"seconds": scale.shared_seconds / 5})

    def take_instructions(self) -> None:
        """Count the instructions of the main rows, of ours, of the compiled build if it is here, and of the floor."""
        names = list(dict.fromkeys([*MAIN, *(floor for floor in MAIN.values() if floor is not None)]))
        self._progress("figures: instructions")
        try:
            for party, prefix in (("ours", ()), ("compiled", MAYBE_COMPILED)):
                if party in self.commands:
                    counts = instructions.count([names[::2], names[1::2]], prefix=prefix)
                    own = {name: value for name, value in counts.items() if party == "ours" or name in MAIN}
                    self.instructions |= {
                        name if name.startswith("bare:") else f"{party}:{name}": value for name, value in own.items()
                    }
        except NotCounted as error:
            self.failed["instructions"] = str(error)

    def take_store_figures(self, scale: Scale) -> None:
        """Take what is to be said of stores beside the workloads."""
        self._take("ours", "store_written", {"count": 40})
        self._take("ours", "store_batches", {"counts": scale.batches, "times": scale.batch_rounds})
        for count, suffix in zip(scale.opened, ("", ".many"), strict=False):
            self._take("ours", "store_opening", {"count": count, "times": 5 if not suffix else 1}, suffix)
        self._take("ours", "store_shared", {"agents": 8, "seconds": scale.shared_seconds})

    def _take(self, party: str, name: str, arguments: dict[str, Any], suffix: str = "") -> None:
        if party not in self.workers or name not in self.workers[party].figures:
            return
        self._progress(f"figures: {name} of {party}")
        key = f"{party}:{name}{suffix}"
        try:
            self._keep(key, figure(self.commands[party], name, **arguments))
        except WorkerFailed as error:
            self.failed[key] = str(error)

    def _keep(self, key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                self._keep(f"{key}.{name}", part)
        else:
            self.measured.setdefault(key, []).append(float(value))

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()


def medians(measured: dict[str, list[float]], party: str = "ours") -> dict[str, float]:
    """Return the medians of one party by name."""
    prefix = f"{party}:"
    return {key[len(prefix) :]: middle(values) for key, values in measured.items() if key.startswith(prefix)}


def ours_alone(progress: Progress) -> Run:
    """Return a run of ours and the floor."""
    return Run({"ours": OURS}, progress)
