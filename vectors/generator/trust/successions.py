"""Scenarios of the family continuity: who goes on as whom."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from generator.trust.model import FULL, NOT_ALLOWED, STALE, UNFIT
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


def continuity_runs(files: Files) -> None:
    """Add the scenarios of the family continuity."""
    _followed(files)
    _offers(files)
    _unfit(files)
    _eight(files)
    _afterwards(files)
    _names(files)
    for name, comment, data, expect in foreign_statements("continuity", NOW_MS):
        scene = _Successions(files, f"refuse-run-{name}", f"a continuity {comment}; a genuine one is taken after it")
        scene.offer_foreign(data, expect)
        scene.offer(sequence=1)
        scene.finish()


def _followed(files: Files) -> None:
    scene = _Successions(files, "run-offered", "an offer alone changes nothing")
    scene.offer()
    scene.finish()
    scene = _Successions(files, "run-followed", "the application follows: the old identity is retired for good")
    scene.offer()
    scene.follow()
    scene.finish()
    scene = _Successions(
        files, "run-twice", "a successor has a successor", identities=(OLD, NEW, NEWEST), known=((OLD, None),)
    )
    scene.offer()
    scene.follow()
    scene.offer(NEW, NEWEST)
    scene.follow(NEW, NEWEST)
    scene.finish()
    scene = _Successions(
        files,
        "run-conflict",
        "two successors are offered, and the application takes one; the other offer is gone",
        identities=(OLD, NEW, OTHER_NEW),
    )
    scene.offer()
    scene.offer(new=OTHER_NEW)
    scene.follow(new=OTHER_NEW)
    scene.offer(OTHER_NEW, NEWEST)
    scene.finish()
    scene = _Successions(files, "run-known-without-name", "an identity that is known, but not by a name, may succeed")
    scene.know(NEW)
    scene.offer()
    scene.follow()
    scene.finish()
    scene = _Successions(files, "refuse-run-not-offered", "nobody is followed who was not offered")
    scene.offer()
    scene.follow(OLD, OTHER_NEW, NOT_ALLOWED)
    scene.follow(NEW, OLD, NOT_ALLOWED)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-named-since",
        "between offer and decision the successor got a name of its own: it is not followed any more",
    )
    scene.offer()
    scene.know(NEW, "somebody else")
    scene.follow(OLD, NEW, NOT_ALLOWED)
    scene.finish()


def _offers(files: Files) -> None:
    scene = _Successions(files, "run-offered-again", "a higher sequence takes the place of a lower one")
    scene.offer(sequence=3)
    scene.offer(sequence=4, at_ms=NOW_MS - DAY_MS)
    scene.finish()
    scene = _Successions(files, "refuse-run-replayed", "the same offer again, and one with a lower sequence")
    scene.offer(sequence=3)
    scene.offer(expect=STALE, sequence=3)
    scene.offer(expect=STALE, sequence=2)
    scene.finish()
    small, large = sorted(
        (NOW_MS, NOW_MS - 1), key=lambda at_ms: digest_of(statement(CONTINUITY, OLD, NEW, time_ms=at_ms))
    )
    scene = _Successions(files, "run-same-sequence", "of two with one sequence the one with the smaller digest stands")
    scene.offer(sequence=7, at_ms=large)
    scene.offer(sequence=7, at_ms=small)
    scene.finish()
    scene = _Successions(files, "refuse-run-same-sequence", "the one with the larger digest is refused")
    scene.offer(sequence=7, at_ms=small)
    scene.offer(expect=STALE, sequence=7, at_ms=large)
    scene.finish()
    scene = _Successions(files, "run-any-age", "an offer has no age; 300 s ahead of the clock is still in time")
    scene.offer(at_ms=0)
    scene.offer(new=OTHER_NEW, at_ms=NOW_MS + TOLERANCE_MS)
    scene.finish()
    scene = _Successions(files, "refuse-run-from-the-future", "a millisecond over 300 s ahead of the clock")
    scene.offer(expect=STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)
    scene.finish()
    scene = _Successions(
        files, "refuse-run-nine-offers", "a ninth successor; one of the eight may be offered again, and followed"
    )
    for number in range(8):
        scene.offer(new=identity(f"offered-{number}"))
    scene.offer(expect=FULL)
    scene.offer(new=identity("offered-3"), sequence=1)
    scene.follow(new=identity("offered-3"))
    scene.finish()


def _unfit(files: Files) -> None:
    scene = _Successions(files, "refuse-run-not-known", "who is not known here offers nobody")
    scene.offer(MALLORY, NEW, UNFIT)
    scene.finish()
    scene = _Successions(files, "run-known-later", "who gets known may offer", known=())
    scene.know(OLD, NAME)
    scene.offer()
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-retired-offers",
        "who was retired offers no other successor",
        identities=(OLD, NEW, OTHER_NEW),
    )
    scene.offer()
    scene.follow()
    scene.offer(OLD, OTHER_NEW, UNFIT, sequence=1)
    scene.finish()
    scene = _Successions(
        files, "refuse-run-retired-successor", "who was retired succeeds nobody: no circle", identities=(OLD, NEW)
    )
    scene.offer()
    scene.follow()
    scene.offer(NEW, OLD, UNFIT)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-successor-of-two",
        "who succeeded one identity does not succeed another",
        known=((OLD, None), (MALLORY, None)),
        identities=(OLD, NEW, MALLORY),
    )
    scene.offer()
    scene.follow()
    scene.offer(MALLORY, NEW, UNFIT)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-successor-named",
        "an identity with a name of its own does not take another's",
        known=((OLD, NAME), (NEW, "another")),
    )
    scene.offer(expect=UNFIT)
    scene.finish()
    scene = _Successions(files, "refuse-run-itself", "an identity offers itself")
    scene.offer_foreign(statement(CONTINUITY, OLD, OLD), UNFIT)
    scene.finish()


def _eight(files: Files) -> None:
    offered = [identity(f"offered-{number}") for number in range(8)]
    both = ((OLD, NAME), (MALLORY, None))
    scene = _Successions(
        files, "run-eight-of-each", "the eight are each identity's own", known=both, identities=(OLD, NEW, MALLORY)
    )
    for one in offered:
        scene.offer(new=one)
    scene.offer(MALLORY, offered[0])
    scene.offer(MALLORY, NEW)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-ninth-beside-a-dead-one",
        "one of the eight has succeeded another identity since, and can be followed no more: it stays, and counts",
        known=both,
        identities=(OLD, NEW, MALLORY),
    )
    for one in (NEW, *offered[:7]):
        scene.offer(new=one)
    scene.offer(MALLORY, NEW)
    scene.follow(MALLORY, NEW)
    scene.offer(new=offered[7], expect=FULL)
    scene.offer(new=offered[3], sequence=1)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-order-time-before-room",
        "a ninth successor, from the future: its time is looked at first",
    )
    for one in offered:
        scene.offer(new=one)
    scene.offer(expect=STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)
    scene.finish()


def _afterwards(files: Files) -> None:
    both = ((OLD, NAME), (MALLORY, None))
    scene = _Successions(
        files,
        "run-offers-of-the-successor-stay",
        "what the successor offered before it was followed stays, and can be followed",
        known=((OLD, NAME), (NEW, None)),
        identities=(OLD, NEW, NEWEST),
    )
    scene.offer(NEW, NEWEST)
    scene.offer()
    scene.follow()
    scene.offer(NEW, OTHER_NEW)
    scene.follow(NEW, NEWEST)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-offers-of-others-stay",
        "another identity offered the same successor: that offer stays when the first is followed, but leads nowhere",
        known=both,
        identities=(OLD, NEW, MALLORY),
    )
    scene.offer(MALLORY, NEW)
    scene.offer()
    scene.follow()
    scene.offer(MALLORY, OTHER_NEW)
    scene.follow(MALLORY, NEW, NOT_ALLOWED)
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-offer-that-is-dead",
        "a later offer of a successor that succeeded another identity since",
        known=both,
        identities=(OLD, NEW, MALLORY),
    )
    scene.offer(MALLORY, NEW)
    scene.offer()
    scene.follow()
    scene.offer(MALLORY, NEW, UNFIT, sequence=1)
    scene.finish()


def _names(files: Files) -> None:
    followed = (
        ("run-name-goes-on", "the successor has the name: to know it by that name changes nothing", NEW, NAME, "ok"),
        ("refuse-run-name-goes-on-renamed", "the successor has the name, and gets no other", NEW, "another", CONFLICT),
        ("refuse-run-name-goes-on-in-use", "the successor has the name, and nobody else", MALLORY, NAME, CONFLICT),
        ("refuse-run-know-retired", "who was retired is not known again", OLD, None, NOT_ALLOWED),
        ("refuse-run-know-retired-by-its-name", "nor by the name that it had", OLD, NAME, NOT_ALLOWED),
    )
    for name, comment, who, called, expect in followed:
        scene = _Successions(files, name, comment)
        scene.offer()
        scene.follow()
        scene.know(who, called, expect)
        scene.finish()
    comment = "one name is of one identity; by another name it is known"
    scene = _Successions(files, "refuse-run-know-name-in-use", comment)
    scene.know(MALLORY, NAME, CONFLICT)
    scene.know(MALLORY, "another")
    scene.finish()
    scene = _Successions(files, "refuse-run-know-renamed", "an identity that has a name gets no other, and keeps it")
    scene.know(OLD, "another", CONFLICT)
    scene.know(OLD, NAME)
    scene.finish()
    scene = _Successions(
        files, "refuse-run-know-without-name", "to know a named one without a name takes its name from nobody"
    )
    scene.know(OLD)
    scene.know(MALLORY, NAME, CONFLICT)
    scene.offer()
    scene.finish()
    scene = _Successions(files, "run-know-twice", "to know an identity twice, by its name or by none, changes nothing")
    scene.know(OLD, NAME)
    scene.know(NEW)
    scene.know(NEW)
    scene.offer()
    scene.follow()
    scene.finish()
    scene = _Successions(
        files, "refuse-run-known-by-name-since", "a name for an identity that was known without one", known=()
    )
    scene.know(OLD)
    scene.know(NEW)
    scene.know(NEW, "another")
    scene.offer(expect=UNFIT)
    scene.finish()
