"""What applications of a fleet say to one another, and in which frames."""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple, final

from agentmesh.primitives.keys import Receipt

RECEIPT_BYTES: Final = 32
ACKS_MAX: Final = 200
_STEPS_MAX: Final = 60
_TURN_SHARE: Final = 0.6
_SIZES: Final = (
    (0.55, 0, 256),
    (0.35, 256, 4096),
    (0.0985, 4096, 65_536),
    (0.001, 65_536, 262_144),
    (0.0005, 1 << 19, 1_000_000),
)
ACTIONS: Final = ("ask", "answer", "report")


class Frame(NamedTuple):
    """What an application puts into a message.

    Attributes:
        acks: Receipts of the envelopes that came since the last message.
        conversation: Of which conversation the payload is; -1 for acknowledgements alone.
        step: Which step of it.
        body: The payload.
    """

    acks: list[Receipt]
    conversation: int
    step: int
    body: bytes

    def encode(self) -> bytes:
        """Return its bytes."""
        head = bytes([len(self.acks)]) + b"".join(self.acks)
        if self.conversation < 0:
            return head
        return head + self.conversation.to_bytes(4, "big") + self.step.to_bytes(2, "big") + self.body

    @classmethod
    def decode(cls, data: bytes) -> Frame:
        """Return what `encode` made bytes of."""
        end = 1 + data[0] * RECEIPT_BYTES
        acks = [Receipt(data[at : at + RECEIPT_BYTES]) for at in range(1, end, RECEIPT_BYTES)]
        if len(data) == end:
            return cls(acks, -1, 0, b"")
        return cls(
            acks,
            int.from_bytes(data[end : end + 4], "big"),
            int.from_bytes(data[end + 4 : end + 6], "big"),
            data[end + 6 :],
        )


@final
class Conversation:
    """Who says what. Both sides have the script; each knows of the other's progress only what has arrived.

    Attributes:
        number: Which it is.
        sides: The numbers of the two agents; the first begins.
        slack: A side may speak while so many of the other's earlier payloads have not come: both may speak at once.
        closer: Which side closes the session behind it, or `None`.
        delivered: How many payloads have arrived, both ways.
        waits: For each side, whether its next payload is on its way to be said.
        knows: For each side, whether it knows of the conversation.
    """

    __slots__ = (
        "_first", "_next", "_received", "_sizes", "_speakers", "closer", "delivered", "knows", "number", "sides",
        "slack", "waits",
    )  # fmt: skip

    def __init__(
        self, random: Random, number: int, first_payload: int, sides: tuple[int, int], mean: float, closing: float
    ) -> None:
        steps = min(2 + int(random.expovariate(1 / max(mean - 1.5, 0.1))), _STEPS_MAX)
        speakers, sizes = [0], [_draw_size(random)]
        for _ in range(steps - 1):
            speakers.append(speakers[-1] ^ (random.random() < _TURN_SHARE))
            sizes.append(_draw_size(random))
        self.number = number
        self.sides = sides
        self.slack = random.choice((0, 0, 1, 2))
        self.closer = random.randrange(2) if random.random() < closing else None
        self.delivered = 0
        self.waits = [False, False]
        self.knows = [True, False]
        self._first = first_payload
        self._speakers = bytes(speakers)
        self._sizes = tuple(sizes)
        self._received = [0, 0]
        self._next = [self._following(0, -1), self._following(1, -1)]

    def __len__(self) -> int:
        return len(self._speakers)

    def _following(self, side: int, step: int) -> int:
        return self._speakers.find(side, step + 1) if step + 1 < len(self) else -1

    def side_of(self, index: int) -> int:
        """Return which side an agent is on."""
        return self.sides.index(index)

    def payload(self, step: int) -> int:
        """Return the number of a payload in the fleet."""
        return self._first + step

    def body(self, step: int) -> bytes:
        """Return a payload: the same each time it is asked for, and like no other."""
        payload = self.payload(step)
        return payload.to_bytes(8, "big") + Random(payload).randbytes(self._sizes[step])

    def due(self, side: int) -> int | None:
        """Return the step that a side may say now, or `None`."""
        step = self._next[side]
        if step < 0:
            return None
        awaited = step - self.slack
        received = self._received[side]
        heard = all(self._speakers[before] == side or received >> before & 1 for before in range(awaited))
        return step if heard else None

    def said(self, side: int, step: int) -> None:
        """Note that a side has said this step."""
        self._next[side] = self._following(side, step)

    def receive(self, side: int, step: int) -> None:
        """Note that a side was given this step of the other."""
        if not self._received[side] >> step & 1:
            self._received[side] |= 1 << step
            self.delivered += 1

    @property
    def is_over(self) -> bool:
        """Say whether everything was said and has arrived."""
        return self.delivered == len(self)


def _draw_size(random: Random) -> int:
    chance = random.random()
    for share, least, most in _SIZES:
        if chance < share:
            return random.randint(least, most)
        chance -= share
    return random.randint(0, 256)
