"""What the demo shows and what it checks: from the three processes' reports to lines of text. Nothing here prints."""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

from agentmesh.cli.text import PROGRAM, WIDTH, amount, columns, escaped, folded, short_did, short_hex
from agentmesh.session.phases import Phase

_WIDTHS: Final = (20, 7, 9, 12, 12, 8, 20)
_RIGHT: Final = frozenset({2})
_HEAD: Final = ("kind", "bytes", "from", "to", "receipt")
_SIDES: Final = (_WIDTHS[0], WIDTH - _WIDTHS[0] - _WIDTHS[-1] - 4, _WIDTHS[-1])
_STACKED: Final = (29, 25)


@frozen
class Stored:
    """What the store of blobs had: how many bytes, and where among them plaintext was found, or `None`."""

    size_bytes: int
    leak: int | None


@frozen(kw_only=True)
class Reports:
    """What the demo's parent was told, and what it knows itself.

    Attributes:
        name: The file's name, escaped.
        size_bytes: The file's size.
        sha256: The file's SHA-256, in hexadecimal, as the parent computed it.
        alice: The sender's DID.
        bob: The receiver's DID.
        sender: The sender's report.
        receiver: The receiver's report.
        relay: The relay's report.
        leak: Where in the bytes that the relay carried plaintext was found, or `None`.
        searched_bytes: How many of those bytes were searched.
        searched_for: How much plaintext was searched for.
        store: What the store of blobs had; `None` where the file went in a message.
    """

    name: str
    size_bytes: int
    sha256: str
    alice: str
    bob: str
    sender: dict[str, Any]
    receiver: dict[str, Any]
    relay: dict[str, Any]
    leak: int | None
    searched_bytes: int
    searched_for: str
    store: Stored | None = None


@frozen
class Check:
    """One thing that must hold: whether it does, what it is about, what was found, and what more there is to say."""

    passed: bool
    name: str
    text: str
    more: str = ""


# --- checks ----------------------------------------------------------------------------------------------------------


def checks(reports: Reports) -> list[Check]:
    """Return everything that the demo checks, in the order in which it is shown."""
    found = [_bytes(reports), _leak(reports), _receipts(reports), _peers(reports), _closed(reports)]
    return found if reports.store is None else [*found, _store(reports, reports.store)]


def _bytes(reports: Reports) -> Check:
    expected = (reports.size_bytes, reports.sha256)
    sent = (reports.sender["bytes"], reports.sender["sha256"])
    received = (reports.receiver["bytes"], reports.receiver["sha256"])
    if sent == received == expected:
        return Check(True, "bytes", f"{amount(received[0], 'bytes')} arrived unchanged", f"SHA-256 {received[1]}")
    if sent != expected:
        return Check(False, "bytes", "the file changed while it was sent")
    return Check(False, "bytes", f"other bytes arrived: {amount(received[0], 'bytes')}", f"SHA-256 {received[1]}")


def _leak(reports: Reports) -> Check:
    carried = amount(reports.relay["bytes"], "bytes")
    if reports.leak is not None:
        return Check(False, "blind", f"the relay carried plaintext, at byte {reports.leak:,} of {carried}")
    if reports.searched_bytes != reports.relay["bytes"]:
        return Check(False, "blind", f"the relay carried {carried}, and {reports.searched_bytes:,} could be searched")
    text = f"no plaintext in the {carried} that the relay carried"
    return Check(True, "blind", text, f"searched for {reports.searched_for}")


def _receipts(reports: Reports) -> Check:
    nothing = [0, 0, ""]
    for own, other, did in (
        (reports.sender, reports.receiver, reports.alice),
        (reports.receiver, reports.sender, reports.bob),
    ):
        sent = own["envelopes"].get("out", nothing)
        if not sent == other["envelopes"].get("in", nothing) == reports.relay["envelopes"].get(did, nothing):
            return Check(False, "receipts", f"of the envelopes of {short_did(did)} the three sides saw different ones")
    count, _ = _carried(reports)
    return Check(True, "receipts", f"{amount(count, 'envelopes')}: sender, relay and recipient computed the same")


def _peers(reports: Reports) -> Check:
    passed = (reports.sender["peer"], reports.receiver["peer"]) == (reports.bob, reports.alice)
    text = "each side proved its DID to the other" if passed else "one side spoke with somebody else"
    return Check(passed, "peers", text)


def _closed(reports: Reports) -> Check:
    sender, receiver = reports.sender, reports.receiver
    passed = (
        sender["phase"] == receiver["phase"] == Phase.CLOSED
        and sender["data_sent"] == receiver["data_opened"]
        and receiver["data_sent"] == sender["data_opened"]
    )
    counts = f"{amount(sender['data_sent'], 'messages')} there, {amount(receiver['data_sent'], 'messages')} back"
    if passed:
        return Check(True, "session", f"closed on both sides; {counts}, all opened")
    return Check(False, "session", f"Alice: {sender['phase']}, Bob: {receiver['phase']}; {counts}, not all opened")


def _store(reports: Reports, store: Stored) -> Check:
    had = amount(store.size_bytes, "bytes")
    if store.leak is not None:
        return Check(False, "store", f"the store had plaintext, at byte {store.leak:,} of {had}")
    receipt, size_bytes = reports.sender["blob"] or ("", -1)
    if reports.receiver["blob"] != [receipt, size_bytes] or size_bytes != store.size_bytes:
        return Check(False, "store", f"the store had {had}, of which the two sides say different things")
    text = f"no plaintext in the {had} that the store had"
    return Check(
        True, "store", text, f"one blob, of receipt {short_hex(receipt)}: Bob verified each chunk of it by that"
    )


def _carried(reports: Reports) -> tuple[int, int]:
    senders = reports.relay["envelopes"].values()
    return sum(counts[0] for counts in senders), sum(counts[1] for counts in senders)


# --- lines -----------------------------------------------------------------------------------------------------------


def page(reports: Reports, pids: dict[str, int], width: int) -> list[str]:
    """Return all that the demo shows, laid out in `width` columns, of which it needs 60."""
    return [
        *folded(
            "", f"{reports.name}, {amount(reports.size_bytes, 'bytes')}: from Alice to Bob, its SHA-256 back", width
        ),
        "",
        *folded("Alice  ", f"process {pids['Alice']}: {reports.alice}", width),
        *folded(
            "relay  ",
            f"process {pids['relay']}: no identity and no key; it reads the outer header of each envelope",
            width,
        ),
        *folded("Bob    ", f"process {pids['Bob']}: {reports.bob}", width),
        *_place(reports.store, width),
        "",
        *(_table(reports) if width >= WIDTH else _stacked_table(reports)),
        "",
        *_verdict(checks(reports), width),
        *_speed(reports, width),
    ]


def next_steps(width: int) -> list[str]:
    """Return what a newcomer may do next."""
    return [
        line
        for head, text in (
            ("docs/tutorial.md", "this conversation in Python, step by step"),
            (f"python -m {PROGRAM} demo FILE", "the same with a file of yours"),
            (f"python -m {PROGRAM} --help", "the other commands"),
        )
        for line in folded(f"next  {head:<31}", text, width)
    ]


def _place(store: Stored | None, width: int) -> list[str]:
    if store is None:
        return []
    lies = amount(store.size_bytes, "bytes")
    text = f"a folder, trusted with nothing: the file is larger than a message, and lies there in {lies}"
    return folded("store  ", text, width)


def _table(reports: Reports) -> list[str]:
    """Return the table as three sides: what each agent and the relay saw, in the order in which the relay saw it."""
    lines = columns([("Alice", "What the relay saw", "Bob")], _SIDES)
    lines += columns([("", *_HEAD, "")], _WIDTHS, _RIGHT)
    lines += columns([["-" * width for width in _WIDTHS]], _WIDTHS)

    lines += columns([_row(entry, reports) for entry in reports.relay["noted"]], _WIDTHS, _RIGHT)
    lines.append("-" * WIDTH)
    sides = (f"session {reports.sender['phase']}", _total(reports), f"session {reports.receiver['phase']}")
    return lines + columns([sides], _SIDES)


def _stacked_table(reports: Reports) -> list[str]:
    """Return the table for a narrow page: below what the relay saw, what the two agents did."""
    widths = _WIDTHS[1:-1]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = ["What the relay saw, and below it what the two sides did", ""]
    lines += columns([_HEAD], widths, frozenset({1}))
    lines.append(rule)
    for entry in reports.relay["noted"]:
        alice, *seen, bob = _row(entry, reports)
        lines += columns([seen], widths, frozenset({1}))
        lines += columns([(f"  Alice  {alice}" if alice else "", f"Bob  {bob}" if bob else "")], _STACKED)
    sides = (f"  Alice  session {reports.sender['phase']}", f"Bob  session {reports.receiver['phase']}")
    return [*lines, rule, _total(reports), *columns([sides], _STACKED)]


def _total(reports: Reports) -> str:
    count, size_bytes = _carried(reports)
    return f"{amount(count, 'envelopes')}, {amount(size_bytes, 'bytes')}; no session, no key"


def _row(entry: dict[str, Any], reports: Reports) -> tuple[str, ...]:
    sender, recipient = entry["from"], entry["to"]
    # A bundle has no receipt, and passes one side only.
    key = entry["receipt"] or "bundle"
    return (
        _note(reports.sender, key) if reports.alice in (sender, recipient) else "",
        escaped(entry["kind"], _WIDTHS[1]),
        f"{entry['size']:,}",
        short_did(sender) if sender else "its shelf",
        short_did(recipient) if recipient else "its shelf",
        short_hex(entry["receipt"]),
        _note(reports.receiver, key) if reports.bob in (sender, recipient) else "",
    )


def _note(side: dict[str, Any], key: str) -> str:
    for noted, text in side["noted"]:
        if noted == key:
            return escaped(text, _SIDES[0])
    return "?"


def _verdict(results: list[Check], width: int) -> list[str]:
    lines = []
    for check in results:
        lines += folded(f"{'ok' if check.passed else 'FAIL':<4}  {check.name:<8}  ", check.text, width)
        if check.more:
            lines += folded(" " * 16, check.more, width)
    return lines


def _speed(reports: Reports, width: int) -> list[str]:
    seconds = reports.sender["seconds"]
    rate = f"{reports.size_bytes / seconds / 1e6:,.1f} MB/s" if seconds > 0 else "at once"
    sides = (("Alice", reports.sender), ("relay", reports.relay), ("Bob", reports.receiver))
    spent = ", ".join(f"{name} {side['cpu_seconds']:.2f} s" for name, side in sides)
    return [
        *folded(f"{'':<6}{'speed':<10}", f"{amount(reports.size_bytes, 'bytes')} in {seconds:.3f} s: {rate}", width),
        *folded(" " * 16, f"processor time: {spent}", width),
    ]
