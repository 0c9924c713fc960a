"""Draws the pictures of docs/architecture.md from the code: `python -m docs.diagrams.draw` writes them anew.

A test draws them too, into a folder of its own (the one argument), and compares: where the code has moved, it says so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from agentmesh import Agent, Intent, OuterEnvelope
from agentmesh.audit import AuditJournal, AuditLog, MemorySink
from agentmesh.primitives import _crypto
from agentmesh.primitives.aead import COMMITMENT_BYTES
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.session.phases import ENDINGS, TRANSITIONS, Happening, Phase
from agentmesh.session.suite import MESSAGE_OVERHEAD_BYTES
from agentmesh.testing import ManualClock, SeededEntropy, agent_pair
from docs.diagrams.calls import Call, record, unused
from docs.diagrams.svg import COLOURS, GREY, INK, Canvas, mono_width

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "architecture.md"
ACTION, DATA = "summarise", b"the numbers ..."


# --- the rooms -------------------------------------------------------------------------------------------------------


def rooms() -> tuple[tuple[str, ...], ...]:
    """Return the rooms by floor, from the bottom up, as the table of the page has them: `engine/` is a package."""
    table = PAGE.read_text(encoding="utf-8").split("<!-- rooms -->")[1]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")][2:]
    return tuple(tuple(re.findall(r"`([^`]+)`", row[2])) for row in rows)


# --- the way of an envelope ------------------------------------------------------------------------------------------

ROW, LANE, INDENT, LEFT, TOP = 27, 92, 14, 24, 84


def way(title: str, calls: list[Call], result: str) -> str:
    """Draw a recorded path: a lane for each room, the higher ones further left, so that calls go right."""
    steps = list(_steps(calls))
    order = [room.rstrip("/").removesuffix(".py") for floor in reversed(rooms()) for room in floor]
    lanes = sorted({_room(call) for call, _ in steps}, key=order.index)
    places = [LEFT + LANE * lanes.index(_room(call)) + INDENT * depth for call, depth in _depths(steps)]
    width = 20 + max(
        x + mono_width(_label(call), 12.5) + 24 + mono_width(_file(call), 10.5)
        for x, (call, _) in zip(places, steps, strict=True)
    )
    height = TOP + ROW * (len(steps) + 1) + 14
    canvas = Canvas(width, height, title)
    canvas.text(LEFT, 32, title, size=17, bold=True)
    for index, lane in enumerate(lanes):
        x = LEFT + LANE * index
        canvas.text(x, 62, lane, size=13, bold=True, fill=COLOURS[index % len(COLOURS)][0])
        canvas.path(f"M{x} 70V{height - ROW - 14}", edge="#dbe1e8", dashed=True)
    for index, (call, above) in enumerate(steps):
        x, y = places[index], TOP + ROW * index
        edge, fill = COLOURS[lanes.index(_room(call)) % len(COLOURS)]
        if above is not None:
            canvas.path(f"M{places[above] + 7} {TOP + ROW * above + 21}V{y + 11}H{x}")
        label = _label(call)
        size = mono_width(label, 12.5) + 14
        canvas.box(x, y, size, 21, fill=fill, edge=edge)
        canvas.text(x + 7, y + 15, label, size=12.5, mono=True)
        canvas.text(x + size + 8, y + 15, _file(call), size=10.5, mono=True, fill=GREY)
    y = TOP + ROW * len(steps)
    canvas.path(f"M{LEFT + 7} {TOP + 21}V{y + 2}", edge=INK, width=1.4, tip=True)
    canvas.text(LEFT, y + 20, f"returns {result}", size=13, bold=True)
    return canvas.svg()


def _steps(calls: list[Call], above: int | None = None, first: int = 0) -> Iterator[tuple[Call, int | None]]:
    """Yield (call, the number of the call that made it), in the order of the calls."""
    at = first
    for call in calls:
        yield call, above
        below = list(_steps(call.inner, at, at + 1))
        yield from below
        at += 1 + len(below)


def _depths(steps: list[tuple[Call, int | None]]) -> Iterator[tuple[Call, int]]:
    """Yield (call, how many calls of its own room it is inside)."""
    for call, above in steps:
        depth = 0
        while above is not None:
            depth += _room(steps[above][0]) == _room(call)
            above = steps[above][1]
        yield call, depth


def _room(call: Call) -> str:
    return call.module.split(".")[0]


def _label(call: Call) -> str:
    return f"{call.name} \u00d7{call.times}" if call.times > 1 else call.name


def _file(call: Call) -> str:
    return call.module.replace(".", "/") + ".py"


@cache
def talk() -> Talk:
    return Talk()


class Talk:
    """Two agents with an audit log each: every call that is drawn happens here, once."""

    def __init__(self) -> None:
        pair = agent_pair()
        self.alice, self.bob = (
            Agent.restore(
                agent.export_state(),
                clock=pair.clock,
                entropy=SeededEntropy(name),
                journal=AuditJournal(AuditLog(MemorySink())),
            )
            for name, agent in (("alice", pair.alice), ("bob", pair.bob))
        )
        self.clock: ManualClock = pair.clock
        self.bundle = self.bob.publish_bundles(2).one_time[0]
        self.knock = self.alice.knock(self.bob.did, self.bundle, Intent(ACTION))
        self.knock_in, [self.asked] = self._recorded(lambda: self.bob.receive(self.knock))
        self.accepted = self.bob.accept(self.asked)
        [self.established] = self.alice.receive(self.accepted)
        self.first = self.alice.send(self.bob.did, b"the first message turns the ratchet")
        [self.opened] = self.bob.receive(self.first)
        did = self.bob.did
        self.out, self.sealed = self._recorded(lambda: self.alice.send(did, DATA))
        self.into, self.events = self._recorded(lambda: self.bob.receive(self.sealed))

    def _recorded(self, call: Callable[[], object]) -> tuple[list[Call], object]:
        results: list[object] = []
        return record(lambda: results.append(call())), results[0]


def envelope_out() -> str:
    return way("An envelope out: what one Agent.send calls, in its order", talk().out, type(talk().sealed).__name__)


def envelope_in() -> str:
    [event] = talk().events
    return way("An envelope in: what one Agent.receive calls, in its order", talk().into, f"({type(event).__name__},)")


def knock_in() -> str:
    return way("A KNOCK in: through the gate", talk().knock_in, "(KnockReceived,), or what the policy decided")


# --- the handshake ---------------------------------------------------------------------------------------------------

ALICE, MIDDLE, BOB = 140, 505, 870


def handshake() -> str:
    """Draw who makes and who gets what until two agents converse, with the sizes and names of the run."""
    run = talk()
    canvas = Canvas(1010, 620, "The handshake")
    canvas.text(24, 34, "From a bundle to the first message", size=17, bold=True)
    for x, name, (edge, fill) in zip(
        (ALICE, MIDDLE, BOB), ("Alice", "registry, relay", "Bob"), (COLOURS[0], COLOURS[7], COLOURS[2]), strict=True
    ):
        canvas.path(f"M{x} 92V596", edge=edge, dashed=True)
        canvas.box(x - 80, 58, 160, 34, fill=fill, edge=edge, radius=17)
        canvas.text(x, 80, name, size=14, bold=True, anchor="middle")
    y = 122
    _made(canvas, BOB, y, "publish_bundles()", 2)
    _sent(canvas, y, BOB, MIDDLE, f"a bundle, {len(run.bundle):,} bytes", "X25519 and ML-KEM-768, signed whole")
    _sent(canvas, y + 78, MIDDLE, ALICE, "the same bytes", "a registry can withhold them, and change nothing")
    steps = (
        ("knock(did, bundle, intent)", ALICE, run.knock, run.asked, "in clear: who, to whom, mesh, time, which bundle",
         "sealed: the intent; signed by Alice"),
        ("accept(event, conditions)", BOB, run.accepted, run.established, "in clear: who, to whom, mesh, time, session",
         "sealed: the conditions, signed by Bob"),
        ("send(did, data)", ALICE, run.first, run.opened, "in clear: who, to whom, mesh, time, session",
         "sealed: number, action, data, padded"),
    )  # fmt: skip
    for index, (call, maker, made, event, clear, sealed) in enumerate(steps):
        y = 296 + 112 * index
        taker = BOB if maker == ALICE else ALICE
        kind = OuterEnvelope.parse(made.envelope).header.kind.name
        _made(canvas, maker, y, call, 0 if maker == ALICE else 2)
        _sent(canvas, y, maker, taker, f"{kind}, {len(made.envelope):,} bytes", f"{clear}; {sealed}")
        _made(canvas, taker, y + 52, type(event).__name__, 0 if taker == ALICE else 2)
    return canvas.svg()


def _made(canvas: Canvas, x: float, y: float, name: str, colour: int) -> None:
    """Draw what an agent calls, or is told, on its line."""
    width = mono_width(name, 12) + 16
    at = min(max(x - width / 2, 12), 1010 - 12 - width)
    canvas.box(at, y - 15, width, 22, fill=COLOURS[colour][1], edge=COLOURS[colour][0])
    canvas.text(at + 8, y, name, size=12, mono=True)


def _sent(canvas: Canvas, y: float, source: float, target: float, name: str, said: str) -> None:
    """Draw what crosses, below whoever made it: its name above the arrow, what it holds below."""
    side = 1 if target > source else -1
    canvas.path(f"M{source} {y + 26}H{target - side * 2}", edge=INK, tip=True)
    middle = (source + target) / 2
    canvas.text(middle, y + 19, name, size=13, bold=True, anchor="middle", halo=True)
    canvas.text(middle, y + 44, said, size=12, fill=GREY, anchor="middle", halo=True)


# --- the phases ------------------------------------------------------------------------------------------------------

# Where each phase stands: (x, y) of its middle. The arrows follow from the table.
PLACES: dict[Phase | None, tuple[float, float]] = {
    Phase.PENDING: (430, 110),
    Phase.REJECTED: (110, 290),
    None: (300, 290),
    Phase.ESTABLISHED: (560, 290),
    Phase.CLOSED: (770, 180),
    Phase.EXPIRED: (900, 290),
    Phase.TRUNCATED: (770, 400),
    Phase.UNDECIDED: (430, 470),
}
HALF_W, HALF_H = 58, 21


def phases() -> str:
    canvas = Canvas(1010, 740, "The phases of a session")
    canvas.text(24, 34, "The phases of a session, and what leads from one to another", size=17, bold=True)
    arrows: dict[tuple[Phase | None, Phase], list[str]] = {}
    for (source, happening), target in TRANSITIONS.items():
        arrows.setdefault((source, target), []).append(happening.name.lower().replace("_", " "))
    for (source, target), names in arrows.items():
        _arrow(canvas, PLACES[source], PLACES[target], ", ".join(names))
    for phase, (x, y) in PLACES.items():
        edge, fill = COLOURS[7] if phase is None else COLOURS[4] if phase in ENDINGS else COLOURS[0]
        canvas.box(x - HALF_W, y - HALF_H, 2 * HALF_W, 2 * HALF_H, fill=fill, edge=edge, radius=21)
        if phase in ENDINGS:
            canvas.box(
                x - HALF_W + 3, y - HALF_H + 3, 2 * HALF_W - 6, 2 * HALF_H - 6, fill="none", edge=edge, radius=18
            )
        canvas.text(x, y + 5, "no session" if phase is None else str(phase), size=14, bold=True, anchor="middle")
    for index, happening in enumerate(Happening):
        y = 560 + 21 * index
        canvas.text(140, y, happening.name.lower().replace("_", " "), size=13, bold=True, anchor="end")
        canvas.text(154, y, happening.value, size=13, fill=GREY)
    canvas.text(620, 560, "A double edge is an ending: its keys are gone, and", size=13, fill=GREY)
    canvas.text(620, 581, "nothing leads out of it. Its memory goes after a while.", size=13, fill=GREY)
    return canvas.svg()


def _arrow(canvas: Canvas, source: tuple[float, float], target: tuple[float, float], label: str) -> None:
    (x1, y1), (x2, y2) = source, target
    side, down = (1 if x2 > x1 else -1), (1 if y2 > y1 else -1)
    if y1 == y2:  # along the middle
        canvas.path(f"M{x1 + side * HALF_W} {y1}H{x2 - side * (HALF_W + 2)}", edge=INK, tip=True)
        canvas.text((x1 + x2) / 2, y1 - 8, label, anchor="middle", halo=True)
    elif y1 in (110, 470) and abs(x2 - x1) > 200:  # out to the side, then to the middle
        bend = x2 - side * 40
        canvas.path(f"M{x1 + side * HALF_W} {y1}H{bend}Q{x2} {y1} {x2} {y1 + down * 44}V{y2 - down * (HALF_H + 2)}",
                    edge=INK, tip=True)  # fmt: skip
        canvas.text((x1 + side * HALF_W + bend) / 2, y1 - 9, label, anchor="middle", halo=True)
    else:
        reach = abs(x2 - x1) > 150
        start = (x1 + side * HALF_W * 0.8, y1 + down * HALF_H * 0.8) if reach else (x1 + side * 24, y1 + down * HALF_H)
        end = (x2 - side * (HALF_W * 0.9), y2 - down * HALF_H * 0.9) if reach else (x2 - side * 24, y2 - down * 24)
        canvas.path(f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}", edge=INK, tip=True)
        canvas.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 5, label, anchor="middle", halo=True)


# --- the bytes of an envelope ----------------------------------------------------------------------------------------

Part = tuple[str, int, int]  # name, bytes, colour


def envelope_bytes() -> str:
    """Draw the bytes of the message that `envelope_out` seals, layer by layer."""
    outer = OuterEnvelope.parse(talk().sealed.envelope)
    header = outer.header
    fields = [len(text) + 1 + (len(text) > 31) for text in (header.mesh, header.sender, header.recipient)]
    header_parts: list[Part] = [
        ("version", 1, 0),
        ("kind", 1, 0),
        ("mesh", fields[0], 0),
        ("sender", fields[1], 0),
        ("recipient", fields[2], 0),
        ("time", 9, 0),
    ]
    header_parts.insert(0, ("array", len(outer.header_bytes) - sum(size for _, size, _ in header_parts), 7))
    body_size = outer.size_bytes - outer.body_at
    box = body_size - SESSION_ID_BYTES - (MESSAGE_OVERHEAD_BYTES - _crypto.TAG_BYTES)
    sealed_header = MESSAGE_OVERHEAD_BYTES - _crypto.TAG_BYTES - _crypto.NONCE_BYTES - COMMITMENT_BYTES
    body_parts: list[Part] = [
        ("session id", SESSION_ID_BYTES, 0),
        ("nonce", _crypto.NONCE_BYTES, 0),
        ("sealed ratchet header", sealed_header, 2),
        ("commitment", COMMITMENT_BYTES, 1),
        ("sealed box", box, 2),
    ]
    padded = box - _crypto.TAG_BYTES
    inside: list[Part] = [("type", 1, 3), ("action length", 1, 3), ("data", len(DATA), 3)]
    inside.append(("0x80, zeros", padded - sum(size for _, size, _ in inside), 7))
    ratchet: list[Part] = [("ratchet key", 32, 3), ("epoch", 4, 3), ("pn", 4, 3), ("n", 4, 3)]
    size = len(outer.header_bytes)
    whole: list[Part] = [
        ("framing", outer.size_bytes - size - body_size, 7),
        ("outer header", size, 0),
        ("body", body_size, 2),
    ]
    rows = [
        ("the envelope", outer.size_bytes, whole),
        ("the outer header, which a relay reads and the body authenticates", size, header_parts),
        ("the body", body_size, body_parts),
        ("in the sealed ratchet header", sealed_header - _crypto.TAG_BYTES, ratchet),
        ("in the sealed box, padded so that its length says little", padded, inside),
    ]
    canvas = Canvas(1010, 76 + 96 * len(rows) + 40, "The bytes of a message")
    canvas.text(24, 34, f"The bytes of a message of {len(DATA)} bytes", size=17, bold=True)
    for index, (name, size, parts) in enumerate(rows):
        if sum(part[1] for part in parts) != size:
            raise AssertionError(f"{name}: the parts are not the whole")
        _bar(canvas, 66 + 96 * index, f"{name}: {size} bytes", parts)
    y = 76 + 96 * len(rows) + 8
    for x, (text, colour) in zip(
        (24, 190, 430, 600, 790),
        (
            ("in clear", 0),
            ("compared before opening", 1),
            ("sealed", 2),
            ("the peer's alone", 3),
            ("framing, padding", 7),
        ),
        strict=True,
    ):
        canvas.box(x, y - 11, 14, 14, fill=COLOURS[colour][1], edge=COLOURS[colour][0], radius=3)
        canvas.text(x + 21, y, text, size=13, fill=GREY)
    return canvas.svg()


def _bar(canvas: Canvas, y: float, title: str, parts: list[Part]) -> None:
    """Draw parts side by side: each as wide as its name needs, the rest by its bytes."""
    canvas.text(24, y + 8, title, size=13.5, bold=True)
    needed = [max(mono_width(name, 12), mono_width(f"{size}", 12)) + 14 for name, size, _ in parts]
    total = sum(size for _, size, _ in parts)
    spare = 962 - sum(needed)
    x = 24.0
    for (name, size, colour), least in zip(parts, needed, strict=True):
        width = least + spare * size / total
        edge, fill = COLOURS[colour]
        canvas.box(x, y + 18, width, 46, fill=fill, edge=edge, radius=3)
        canvas.text(x + width / 2, y + 38, name, size=12, mono=True, anchor="middle")
        canvas.text(x + width / 2, y + 56, f"{size}", size=12, mono=True, anchor="middle", fill=GREY)
        x += width


PICTURES: dict[str, Callable[[], str]] = {
    "envelope_out.svg": envelope_out,
    "envelope_in.svg": envelope_in,
    "knock_in.svg": knock_in,
    "handshake.svg": handshake,
    "phases.svg": phases,
    "envelope_bytes.svg": envelope_bytes,
}


def main(folder: Path = FOLDER) -> None:
    for name, picture in PICTURES.items():
        (folder / name).write_text(picture(), encoding="utf-8", newline="\n")
    if unused():
        raise SystemExit(f"calls.py leaves out what is not there: {', '.join(sorted(unused()))}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
