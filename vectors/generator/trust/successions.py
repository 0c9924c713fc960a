"""Scenarios of the family continuity: who goes on as whom."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from generator.codes import FULL, NOT_ALLOWED, STALE, UNFIT
from generator.tables import play, row, step
from generator.trust.scene import Scene, digest_of, foreign_statements
from generator.trust.statements import CONTINUITY, ISSUER, SUBJECT, statement
from generator.world import DAY_MS, MALLORY, NOW_MS, TOLERANCE_MS, Files, identity

Json = dict[str, Any]

CONFLICT: Final = "identity.conflict"
OLD: Final = ISSUER
NEW: Final = SUBJECT
OTHER_NEW: Final = identity("other-successor")
NEWEST: Final = identity("successor")
NAME: Final = "the old one"
OFFERED: Final = [identity(f"offered-{number}") for number in range(8)]
_BOTH: Final = ((OLD, NAME), (MALLORY, None))


class _Successions:
    """A scenario of `continuity.run`; who goes on as whom is written down beside it."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        known: tuple[tuple[Identity, str | None], ...] = ((OLD, NAME),),
        identities: tuple[Identity, ...] = (OLD, NEW),
    ) -> None:
        self._identities = identities
        self._offered: dict[bytes, set[bytes]] = {}
        self._followed: dict[bytes, bytes] = {}
        given: Json = {
            "known": [{"identity": who.key.raw.hex(), "name": called} for who, called in known],
            "identities": [who.key.raw.hex() for who in identities],
        }
        self._scene = Scene(files, name, "continuity.run", comment, spec="9.5", given=given)

    def _output(self) -> Json:
        return {"current": [self._current(who.key.raw).hex() for who in self._identities]}

    def _current(self, raw: bytes) -> bytes:
        while raw in self._followed:
            raw = self._followed[raw]
        return raw

    def offer(
        self,
        old: Identity = OLD,
        new: Identity = NEW,
        expect: str = "ok",
        *,
        sequence: int = 0,
        at_ms: int = NOW_MS,
    ) -> None:
        """Offer a continuity statement."""
        data = statement(CONTINUITY, old, new, sequence=sequence, time_ms=at_ms)
        output = {}
        if expect == "ok":
            offered = self._offered.setdefault(old.key.raw, set())
            offered.add(new.key.raw)
            output = {"offered": [raw.hex() for raw in sorted(offered)], **self._output()}
        noted = {"digest": digest_of(data).hex()}
        self._scene.step("offer", expect, output, noted, now_ms=NOW_MS, statement=data)

    def offer_foreign(self, data: bytes, expect: str) -> None:
        """Offer what is refused before its own rules are asked."""
        self._scene.step("offer", expect, {}, now_ms=NOW_MS, statement=data)

    def know(self, who: Identity, called: str | None = None, expect: str = "ok") -> None:
        """Know an identity."""
        self._scene.step("know", expect, self._output(), identity=who.key.raw, name=called)

    def follow(self, old: Identity = OLD, new: Identity = NEW, expect: str = "ok") -> None:
        """Follow an identity to its successor."""
        if expect == "ok":
            self._followed[old.key.raw] = new.key.raw
            del self._offered[old.key.raw]
        self._scene.step("follow", expect, self._output(), old=old.key.raw, new=new.key.raw)

    def finish(self) -> None:
        """Write the file."""
        self._scene.finish()


offer, know, follow = step(_Successions.offer), step(_Successions.know), step(_Successions.follow)
offer_foreign = step(_Successions.offer_foreign)


# --- the tables -------------------------------------------------------------------------------------------------------

FOLLOWED: Final = (
    row("run-offered", "an offer alone changes nothing", [offer()]),
    row("run-followed", "the application follows: the old identity is retired for good", [offer(), follow()]),
    row("run-twice", "a successor has a successor",
        [offer(), follow(), offer(NEW, NEWEST), follow(NEW, NEWEST)], identities=(OLD, NEW, NEWEST),
        known=((OLD, None),)),
    row("run-conflict", "two successors are offered, and the application takes one; the other offer is gone",
        [offer(), offer(new=OTHER_NEW), follow(new=OTHER_NEW), offer(OTHER_NEW, NEWEST)],
        identities=(OLD, NEW, OTHER_NEW)),
    row("run-known-without-name", "an identity that is known, but not by a name, may succeed",
        [know(NEW), offer(), follow()]),
    row("refuse-run-not-offered", "nobody is followed who was not offered",
        [offer(), follow(OLD, OTHER_NEW, NOT_ALLOWED), follow(NEW, OLD, NOT_ALLOWED)]),
    row("refuse-run-named-since",
        "between offer and decision the successor got a name of its own: it is not followed any more",
        [offer(), know(NEW, "somebody else"), follow(OLD, NEW, NOT_ALLOWED)]),
)  # fmt: skip


_SMALL_MS, _LARGE_MS = sorted(
    (NOW_MS, NOW_MS - 1), key=lambda at_ms: digest_of(statement(CONTINUITY, OLD, NEW, time_ms=at_ms))
)
OFFERS: Final = (
    row("run-offered-again", "a higher sequence takes the place of a lower one",
        [offer(sequence=3), offer(sequence=4, at_ms=NOW_MS - DAY_MS)]),
    row("refuse-run-replayed", "the same offer again, and one with a lower sequence",
        [offer(sequence=3), offer(expect=STALE, sequence=3), offer(expect=STALE, sequence=2)]),
    row("run-same-sequence", "of two with one sequence the one with the smaller digest stands",
        [offer(sequence=7, at_ms=_LARGE_MS), offer(sequence=7, at_ms=_SMALL_MS)]),
    row("refuse-run-same-sequence", "the one with the larger digest is refused",
        [offer(sequence=7, at_ms=_SMALL_MS), offer(expect=STALE, sequence=7, at_ms=_LARGE_MS)]),
    row("run-any-age", "an offer has no age; 300 s ahead of the clock is still in time",
        [offer(at_ms=0), offer(new=OTHER_NEW, at_ms=NOW_MS + TOLERANCE_MS)]),
    row("refuse-run-from-the-future", "a millisecond over 300 s ahead of the clock",
        [offer(expect=STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)]),
    row("refuse-run-nine-offers", "a ninth successor; one of the eight may be offered again, and followed",
        [[offer(new=one) for one in OFFERED], offer(expect=FULL), offer(new=OFFERED[3], sequence=1),
         follow(new=OFFERED[3])]),
)  # fmt: skip


NOT_FIT: Final = (
    row("refuse-run-not-known", "who is not known here offers nobody", [offer(MALLORY, NEW, UNFIT)]),
    row("run-known-later", "who gets known may offer", [know(OLD, NAME), offer()], known=()),
    row("refuse-run-retired-offers", "who was retired offers no other successor",
        [offer(), follow(), offer(OLD, OTHER_NEW, UNFIT, sequence=1)], identities=(OLD, NEW, OTHER_NEW)),
    row("refuse-run-retired-successor", "who was retired succeeds nobody: no circle",
        [offer(), follow(), offer(NEW, OLD, UNFIT)], identities=(OLD, NEW)),
    row("refuse-run-successor-of-two", "who succeeded one identity does not succeed another",
        [offer(), follow(), offer(MALLORY, NEW, UNFIT)], known=((OLD, None), (MALLORY, None)),
        identities=(OLD, NEW, MALLORY)),
    row("refuse-run-successor-named", "an identity with a name of its own does not take another's",
        [offer(expect=UNFIT)], known=((OLD, NAME), (NEW, "another"))),
    row("refuse-run-itself", "an identity offers itself", [offer_foreign(statement(CONTINUITY, OLD, OLD), UNFIT)]),
)  # fmt: skip


EIGHT: Final = (
    row("run-eight-of-each", "the eight are each identity's own",
        [[offer(new=one) for one in OFFERED], offer(MALLORY, OFFERED[0]), offer(MALLORY, NEW)], known=_BOTH,
        identities=(OLD, NEW, MALLORY)),
    row("refuse-run-ninth-beside-a-dead-one",
        "one of the eight has succeeded another identity since, and can be followed no more: it stays, and counts",
        [[offer(new=one) for one in (NEW, *OFFERED[:7])], offer(MALLORY, NEW), follow(MALLORY, NEW),
         offer(new=OFFERED[7], expect=FULL), offer(new=OFFERED[3], sequence=1)], known=_BOTH,
        identities=(OLD, NEW, MALLORY)),
    row("refuse-run-order-time-before-room", "a ninth successor, from the future: its time is looked at first",
        [[offer(new=one) for one in OFFERED], offer(expect=STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)]),
)  # fmt: skip


AFTERWARDS: Final = (
    row("run-offers-of-the-successor-stay",
        "what the successor offered before it was followed stays, and can be followed",
        [offer(NEW, NEWEST), offer(), follow(), offer(NEW, OTHER_NEW), follow(NEW, NEWEST)],
        known=((OLD, NAME), (NEW, None)), identities=(OLD, NEW, NEWEST)),
    row("refuse-run-offers-of-others-stay",
        "another identity offered the same successor: that offer stays when the first is followed, but leads nowhere",
        [offer(MALLORY, NEW), offer(), follow(), offer(MALLORY, OTHER_NEW), follow(MALLORY, NEW, NOT_ALLOWED)],
        known=_BOTH, identities=(OLD, NEW, MALLORY)),
    row("refuse-run-offer-that-is-dead", "a later offer of a successor that succeeded another identity since",
        [offer(MALLORY, NEW), offer(), follow(), offer(MALLORY, NEW, UNFIT, sequence=1)], known=_BOTH,
        identities=(OLD, NEW, MALLORY)),
)  # fmt: skip


_KNOWN_AFTERWARDS: Final = (
    ("run-name-goes-on", "the successor has the name: to know it by that name changes nothing", NEW, NAME, "ok"),
    ("refuse-run-name-goes-on-renamed", "the successor has the name, and gets no other", NEW, "another", CONFLICT),
    ("refuse-run-name-goes-on-in-use", "the successor has the name, and nobody else", MALLORY, NAME, CONFLICT),
    ("refuse-run-know-retired", "who was retired is not known again", OLD, None, NOT_ALLOWED),
    ("refuse-run-know-retired-by-its-name", "nor by the name that it had", OLD, NAME, NOT_ALLOWED),
)
NAMES: Final = (
    *(row(name, comment, [offer(), follow(), know(who, called, expect)])
      for name, comment, who, called, expect in _KNOWN_AFTERWARDS),
    row("refuse-run-know-name-in-use", "one name is of one identity; by another name it is known",
        [know(MALLORY, NAME, CONFLICT), know(MALLORY, "another")]),
    row("refuse-run-know-renamed", "an identity that has a name gets no other, and keeps it",
        [know(OLD, "another", CONFLICT), know(OLD, NAME)]),
    row("refuse-run-know-without-name", "to know a named one without a name takes its name from nobody",
        [know(OLD), know(MALLORY, NAME, CONFLICT), offer()]),
    row("run-know-twice", "to know an identity twice, by its name or by none, changes nothing",
        [know(OLD, NAME), know(NEW), know(NEW), offer(), follow()]),
    row("refuse-run-known-by-name-since", "a name for an identity that was known without one",
        [know(OLD), know(NEW), know(NEW, "another"), offer(expect=UNFIT)], known=()),
)  # fmt: skip

FOREIGN: Final = (
    *(row(f"refuse-run-{name}", f"a continuity {comment}; a genuine one is taken after it",
          [offer_foreign(data, expect), offer(sequence=1)])
      for name, comment, data, expect in foreign_statements("continuity", NOW_MS)),
)  # fmt: skip


def continuity_runs(files: Files) -> None:
    """Add the scenarios of the family continuity."""
    for rows in (FOLLOWED, OFFERS, NOT_FIT, EIGHT, AFTERWARDS, NAMES, FOREIGN):
        play(_Successions, files, rows)
