"""The world of a fleet: its clock, what happens next, chance, and a relay that is trusted with nothing."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from random import Random
from time import process_time
from typing import Any, Final, Protocol, TypeVar, final

from agentmesh import Entropy, SystemEntropy
from agentmesh.audit import MemorySink
from agentmesh.primitives.keys import SessionId
from agentmesh.testing import BundleShelf, ManualClock, SeededEntropy, forge
from benchmarks.fleet.deliveries import Ledger
from benchmarks.fleet.link import Channel
from benchmarks.fleet.log import CommonFile, FleetSink, SharedSink
from benchmarks.fleet.script import Conversation
from benchmarks.fleet.settings import SECOND_MS, Settings

_R = TypeVar("_R")
_PLANTED_AFTER: Final = 10
_REMEMBERED: Final = 1024
_REMEMBERED_MAX_BYTES: Final = 64 << 10
_FAST_MS: Final = (20, 400)
_SLOW_MS: Final = 120 * SECOND_MS


class Cause(StrEnum):
    """How a copy of an envelope came to its recipient."""

    RELAYED = "relayed"
    DOUBLED = "doubled by the relay"
    REPLAYED = "replayed"
    ALTERED = "altered"
    MISROUTED = "misrouted"
    AGAIN = "offered again"


HOSTILE: Final = frozenset({Cause.ALTERED, Cause.MISROUTED})


class Recipient(Protocol):
    """Whom the relay delivers to."""

    def arrive(self, envelope: bytes, what: str, cause: Cause, tries: int = 0) -> None:
        """Take a copy of an envelope."""
        ...

    def close_if_done(self, session_id: SessionId) -> None:
        """Close a session in which no conversation goes on."""
        ...


@final
class Calls:
    """How often the library was called, and how long that kept a core busy."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, act: Callable[[], _R]) -> _R:
        """Return what a call returns, and note its time where it returns."""
        start = process_time()
        result = act()
        spent = process_time() - start
        self.count[name] += 1
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        return result


@final
class World:
    """Everything that is not an agent.

    Attributes:
        clock: The time of all agents.
        random: All chance of the run, in the order in which things happen.
        entropy: Where all keys and nonces come from.
        file: Where the audit logs are, or `None`.
        shelf: The registry of bundles.
        ledger: What applications handed over, and what they were given.
        calls: Times of the library's calls.
        counts: What happened, by name.
        refused: How often what was refused, by cause and code.
        recipients: Whom the relay knows, by number.
        dids: Their names.
        index_of: Their numbers, by name.
        conversations: Those that go on, by number.
        channels: What both ends of a session share, until the second end takes it up.
        unfinished: How many conversations are not over, and how many ends of sessions are closing.
        after: Called when what is happening now is over.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = ManualClock()
        self.start_ms = self.clock()
        self.random = Random(f"{settings.seed}/fleet")
        self.entropy: Entropy = (
            SeededEntropy(f"{settings.seed}/secrets") if settings.seeded_secrets else SystemEntropy()
        )
        self.file = CommonFile() if settings.audit == "file" else None
        self.shelf = BundleShelf()
        self.ledger = Ledger()
        self.calls = Calls()
        self.counts: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.recipients: list[Recipient] = []
        self.dids: list[str] = []
        self.index_of: dict[str, int] = {}
        self.conversations: dict[int, Conversation] = {}
        self.channels: dict[SessionId, Channel] = {}
        self.unfinished = 0
        self.after: list[Callable[[], None]] = []
        self._is_planted = settings.plant in (None, "audit")
        self._agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._remembered: deque[tuple[int, bytes, str]] = deque(maxlen=_REMEMBERED)

    def new_sink(self) -> FleetSink | None:
        """Return where an agent's audit log goes, or `None` where it is to have none."""
        if self.file is not None:
            return SharedSink(self.file)
        return MemorySink() if self.settings.audit == "memory" else None

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def elapsed_ms(self) -> int:
        """How much time has passed on the manual clock."""
        return self.clock() - self.start_ms

    def later(self, delay_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        """Have something happen after a while."""
        self._sequence += 1
        heapq.heappush(self._agenda, (self.clock.now_ms + delay_ms, self._sequence, act, arguments))

    def step(self) -> bool:
        """Let the next thing happen. Return False if there is none."""
        if not self._agenda:
            return False
        self.clock.now_ms, _, act, arguments = heapq.heappop(self._agenda)
        act(*arguments)
        while self.after:
            self.after.pop()()
        return True

    def happens(self, share: float) -> bool:
        """Let chance decide."""
        return self.random.random() < share

    def plants(self, what: str) -> bool:
        """Say, once, that something is to be done wrong, if the settings ask for it."""
        due = not self._is_planted and self.settings.plant == what and self.ledger.delivered >= _PLANTED_AFTER
        self._is_planted |= due
        return due

    # --- the relay ---------------------------------------------------------------------------------------------------

    def hand_over(self, to: int, envelope: bytes, what: str) -> None:
        """Give an envelope to the relay, which does with it what it likes."""
        settings = self.settings
        self.counts["envelopes handed to the relay"] += 1
        self.counts["bytes handed to the relay"] += len(envelope)
        if self.happens(settings.alteration):
            others = [remembered for _, remembered, _ in list(self._remembered)[-16:]]
            self._carry(to, forge(self.random, envelope, others), what, Cause.ALTERED)
        if self.happens(settings.misrouting):
            other = self.random.randrange(len(self.recipients) - 1)
            self._carry(other + (other >= to), envelope, what, Cause.MISROUTED)
        if self.happens(settings.replay) and self._remembered:
            self._carry(*self.random.choice(self._remembered), Cause.REPLAYED)
        if self.happens(settings.duplication):
            self._carry(to, envelope, what, Cause.DOUBLED)
        self._carry(to, envelope, what, Cause.RELAYED)
        if len(envelope) <= _REMEMBERED_MAX_BYTES:
            self._remembered.append((to, envelope, what))

    def _carry(self, to: int, envelope: bytes, what: str, cause: Cause) -> None:
        if self.happens(self.settings.loss):
            self.counts["copies lost by the relay"] += 1
            return
        self.counts[f"copies {cause}"] += 1
        slow = self.happens(self.settings.slow)
        delay_ms = self.random.randint(*_FAST_MS) if not slow else self.random.randint(_FAST_MS[1], _SLOW_MS)
        self.later(delay_ms, self.recipients[to].arrive, envelope, what, cause)
