"""A fleet from its first agent to the check at its end."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from time import perf_counter, process_time
from typing import Final, final

from attrs import define, field

from agentmesh import AskApplication, Limits
from agentmesh.audit import MemorySink
from agentmesh.testing import SeededEntropy
from benchmarks.fleet.agent import FleetAgent, HubPolicy
from benchmarks.fleet.audit import LogReport, verify_logs
from benchmarks.fleet.host import Restart
from benchmarks.fleet.script import Conversation
from benchmarks.fleet.settings import DAY_MS, Settings
from benchmarks.fleet.world import World

_BEGUN_SHARE: Final = 0.95  # of the days, in which conversations begin; what they take is left for their end
_GRACE_MS: Final = 3 * DAY_MS
_HUB_KNOCKS_A_DAY: Final = 10.0
_RESTARTS: Final = ((Restart.IDLE, 50), (Restart.BEFORE_WRITE, 25), (Restart.AFTER_WRITE, 25))
_CHECKPOINTS_MAX: Final = 500
_COMPARED_MAX_ENTRIES: Final = 5000
_SAMPLES: Final = 120

Progress = Callable[[str, float, "Fleet"], None]


def resident_bytes() -> int:
    """Return how much memory this process holds, or held at most where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """Return how much memory this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@define
class Sample:
    """How things stood at one time."""

    seconds: float
    day: float
    payloads: int
    sessions: int
    resident_bytes: int
    log_bytes: int


@define
class Outcome:
    """What a run leaves to report.

    Attributes:
        seconds: How long each part took, by the machine's clock.
        processor_seconds: How long each part kept a core busy.
        resident: How much memory was held, at the end of each part.
        exported: The size of each agent's exported state, at the end.
        unused: One-time bundles left in the registry.
        logs: What the verification of the audit logs found.
        samples: How things stood, over time.
    """

    seconds: dict[str, float] = field(factory=dict)
    processor_seconds: dict[str, float] = field(factory=dict)
    resident: dict[str, int] = field(factory=dict)
    exported: list[int] = field(factory=list)
    unused: int = 0
    logs: LogReport = field(factory=LogReport)
    samples: list[Sample] = field(factory=list)


@final
class Fleet:
    """All of it.

    Attributes:
        world: Its world.
        agents: Its agents; the first are knocked at most.
        outcome: What there is to report.
    """

    def __init__(self, settings: Settings, progress: Progress = lambda _part, _share, _fleet: None) -> None:
        self.settings = settings
        self.world = World(settings)
        self.agents: list[FleetAgent] = []
        self.outcome = Outcome()
        self._progress = progress
        # Zipf's law, with the head cut off a little: nobody is knocked at by everybody.
        weights = [1 / (rank + 3) for rank in range(settings.agents)]
        self._weights = list(accumulate(weights))
        self._begun = 0
        self._payloads = 0
        self._total = max(1, round(settings.agents * settings.conversations))
        self._last_peer: dict[int, int] = {}
        self._pairs: list[tuple[int, int]] = []

    # --- its parts ---------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Make the agents, let them converse, and check. What is wrong is in `world.ledger.faults`."""
        self.outcome.resident["before"] = resident_bytes()
        self._part("making agents", "agents made", self._make)
        self._part("conversations", "conversations over", self._converse)
        self._part("checks", "checked", self._check)
        self.outcome.resident["peak"] = peak_bytes()
        return self.outcome

    def close(self) -> None:
        """Remove the audit logs."""
        if self.world.file is not None:
            self.world.file.close()

    def _part(self, part: str, name: str, run: Callable[[], None]) -> None:
        start, busy = perf_counter(), process_time()
        run()
        self.outcome.seconds[part] = perf_counter() - start
        self.outcome.processor_seconds[part] = process_time() - busy
        self.outcome.resident[name] = resident_bytes()

    def _make(self) -> None:
        world, settings = self.world, self.settings
        hub_policy, asks = HubPolicy(world), AskApplication()
        stocks = {size: Limits(one_time_bundles=size, one_time_bundles_low=max(1, size // 4)) for size in (4, 20, 100)}
        knocks_a_day = self._total / self._weights[-1] / settings.days
        for index in range(settings.agents):
            self._progress("making agents", index / settings.agents, self)
            expected = knocks_a_day / (index + 3)
            size = 4 if expected < 1 else 20 if expected < _HUB_KNOCKS_A_DAY else 100
            policy = hub_policy if expected >= _HUB_KNOCKS_A_DAY else asks
            agent = FleetAgent(world, index, policy, stocks[size])
            self.agents.append(agent)
            world.dids.append(agent.did)
            world.index_of[agent.did] = index
        world.recipients.extend(self.agents)
        # What lives to the end need not be looked at by each collection.
        gc.collect()
        gc.freeze()

    def _converse(self) -> None:
        world, settings, start = self.world, self.settings, perf_counter()
        span_ms = round(settings.days * DAY_MS)
        self._begin_next(round(span_ms * _BEGUN_SHARE / self._total))
        for _ in range(round(settings.agents * settings.restarts)):
            host = world.random.choice(self.agents)
            how = world.random.choices([how for how, _ in _RESTARTS], [weight for _, weight in _RESTARTS])[0]
            world.later(world.random.randrange(span_ms), host.go_down, how, world.happens(0.5))
        world.later(span_ms // 2, self._sign_checkpoints)
        every_ms = max(1, span_ms // _SAMPLES)
        next_ms = 0
        while world.step():
            if world.elapsed_ms >= next_ms:
                next_ms += every_ms
                self._sample(perf_counter() - start)
                self._forget_encapsulations()
            self._progress("conversing", min(1.0, world.elapsed_ms / span_ms), self)
            if self._begun == self._total and world.unfinished == 0 and world.elapsed_ms > span_ms:
                break
            if world.elapsed_ms > span_ms + _GRACE_MS:
                break
        self._sample(perf_counter() - start)
        if world.unfinished:
            world.ledger.fault("unfinished", f"{world.unfinished} conversations or closes never came to their end")

    def _forget_encapsulations(self) -> None:
        if isinstance(self.world.entropy, SeededEntropy):
            self.world.entropy.recorded.clear()

    def _begin_next(self, mean_ms: int) -> None:
        world, settings = self.world, self.settings
        random = world.random
        begins = random.randrange(settings.agents)
        knocked = self._last_peer.get(begins, begins) if world.happens(settings.again) else begins
        while knocked == begins:
            knocked = random.choices(range(settings.agents), cum_weights=self._weights)[0]
        self._last_peer[begins], self._last_peer[knocked] = knocked, begins
        conversation = Conversation(
            random, self._begun, self._payloads, (begins, knocked), settings.steps, settings.closing
        )
        world.conversations[self._begun] = conversation
        world.unfinished += 1
        self._begun += 1
        self._payloads += len(conversation)
        if len(self._pairs) < 20 * settings.compared:
            self._pairs.append((begins, knocked))
        self.agents[begins].begin(conversation)
        if self._begun < self._total:
            world.later(round(random.expovariate(1 / mean_ms)), self._begin_next, mean_ms)

    # --- looking -----------------------------------------------------------------------------------------------------

    def _sample(self, seconds: float) -> None:
        self.outcome.samples.append(
            Sample(
                seconds=seconds,
                day=self.world.elapsed_ms / DAY_MS,
                payloads=self.world.ledger.delivered,
                sessions=self.world.counts["sessions established"],
                resident_bytes=resident_bytes(),
                log_bytes=0 if self.world.file is None else self.world.file.size,
            )
        )

    # --- the end -----------------------------------------------------------------------------------------------------

    def _sign_checkpoints(self) -> None:
        """Have some agents sign what their logs hold, and keep it elsewhere."""
        count = min(len(self.agents), _CHECKPOINTS_MAX)
        for agent in self.world.random.sample(self.agents, count):
            agent.sign_checkpoint()

    def _check(self) -> None:
        world = self.world
        world.ledger.finish()
        for index, agent in enumerate(self.agents):
            self._progress("exporting", index / len(self.agents), self)
            agent.agent.record_refusals()
            agent.agent.poll()
            self.outcome.exported.append(len(agent.agent.export_state()))
            self.outcome.unused += world.shelf.stock(agent.did)
        if self.settings.audit != "none":
            self.outcome.logs = self._verify_logs()
            for text in self.outcome.logs.broken:
                world.ledger.fault("audit", text)

    def _verify_logs(self) -> LogReport:
        if self.settings.plant == "audit":
            entries = list(self.agents[0].entries())
            self.agents[0].sink = MemorySink(entries[:-2] + entries[-1:])
        sizes = [0 if agent.journal is None else len(agent.journal.log) for agent in self.agents]
        pairs = [
            pair for pair in dict.fromkeys(self._pairs) if max(sizes[index] for index in pair) < _COMPARED_MAX_ENTRIES
        ]
        return verify_logs(
            self.agents,
            pairs[: self.settings.compared],
            lambda done, total: self._progress("verifying logs", done / total, self),
        )
