"""Scenarios of the families revocation and continuity: who is revoked, and who goes on as whom."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from generator.trust_scene import Scene, digest_of, foreign_statements
from generator.trust_statements import CONTINUITY, ISSUER, REVOCATION, SUBJECT, UINT_MAX, statement
from generator.world import DAY_MS, MALLORY, NOW_MS, TOLERANCE_MS, Files, identity

Json = dict[str, Any]

UNFIT: Final = "trust.unfit"
STALE: Final = "trust.stale"
FULL: Final = "trust.full"

AUTHORITY: Final = ISSUER
OTHER_AUTHORITY: Final = identity("other-issuer")
PEER: Final = SUBJECT
OTHER_PEER: Final = identity("other-subject")
OLD: Final = ISSUER
NEW: Final = SUBJECT
OTHER_NEW: Final = identity("other-successor")
NEWEST: Final = identity("successor")


# --- revocation ------------------------------------------------------------------------------------------------------


class _List:
    """A scenario of `revocation.run`; who is revoked is written down beside it."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        authorities: tuple[Identity, ...] = (AUTHORITY,),
        known: tuple[Identity, ...] = (),
        identities: tuple[Identity, ...] = (PEER, OTHER_PEER),
        **limits: int,
    ) -> None:
        self._identities = identities
        self._revoked: set[bytes] = set()
        given: Json = {
            "authorities": [authority.key.raw.hex() for authority in authorities],
            "known": [who.key.raw.hex() for who in known],
            "identities": [who.key.raw.hex() for who in identities],
        }
        if limits:
            given["limits"] = limits
        self._scene = Scene(files, name, "revocation.run", comment, spec="9.4", given=given)

    def _output(self) -> Json:
        return {"revoked": [who.key.raw in self._revoked for who in self._identities]}

    def revoke(
        self, issuer: Identity, subject: Identity, expect: str = "ok", *, sequence: int = 0, at_ms: int = NOW_MS
    ) -> None:
        """Offer a revocation."""
        data = statement(REVOCATION, issuer, subject, sequence=sequence, time_ms=at_ms)
        if expect == "ok":
            self._revoked.add(subject.key.raw)
        self._scene.step("apply", expect, self._output(), {"digest": digest_of(data).hex()}, statement=data)

    def offer_foreign(self, data: bytes, expect: str) -> None:
        """Offer what is refused before the list's own rules are asked."""
        self._scene.step("apply", expect, {}, statement=data)

    def believe(self, authority: Identity, *, no_more: bool = False) -> None:
        """Let an identity revoke others, or no more."""
        self._scene.step("disbelieve" if no_more else "believe", "ok", self._output(), authority=authority.key.raw)

    def finish(self) -> None:
        """Write the file."""
        self._scene.finish()


def revocation_runs(files: Files) -> None:
    """Add the scenarios of the family revocation."""
    scene = _List(files, "run-of-itself", "an identity revokes itself, for good")
    scene.revoke(PEER, PEER)
    scene.finish()
    scene = _List(files, "run-by-authority", "an authority that the list was told to believe revokes somebody")
    scene.revoke(AUTHORITY, PEER)
    scene.finish()
    scene = _List(files, "run-any-time", "neither time nor sequence of a revocation matter: it holds at once")
    scene.revoke(PEER, PEER, at_ms=UINT_MAX, sequence=UINT_MAX)
    scene.revoke(OTHER_PEER, OTHER_PEER, at_ms=0)
    scene.finish()
    scene = _List(files, "run-believed-later", "an authority that the list is told to believe later", authorities=())
    scene.believe(OTHER_AUTHORITY)
    scene.revoke(OTHER_AUTHORITY, PEER)
    scene.finish()
    scene = _List(files, "refuse-run-by-stranger", "nobody else revokes anybody")
    scene.revoke(MALLORY, PEER, UNFIT)
    scene.revoke(OTHER_PEER, PEER, UNFIT)
    scene.finish()
    scene = _List(files, "refuse-run-disbelieved", "an authority that is believed no more; what it revoked stays")
    scene.revoke(AUTHORITY, PEER)
    scene.believe(AUTHORITY, no_more=True)
    scene.revoke(AUTHORITY, OTHER_PEER, UNFIT)
    scene.finish()
    scene = _List(files, "refuse-run-revoked-authority", "an authority that revoked itself; what it revoked stays")
    scene.revoke(AUTHORITY, PEER)
    scene.revoke(AUTHORITY, AUTHORITY)
    scene.revoke(AUTHORITY, OTHER_PEER, UNFIT)
    scene.finish()
    scene = _List(files, "refuse-run-revoked-already", "who is revoked is not revoked again, by nobody")
    scene.revoke(PEER, PEER)
    scene.revoke(PEER, PEER, STALE, sequence=1, at_ms=NOW_MS + 1)
    scene.revoke(AUTHORITY, PEER, STALE)
    scene.finish()
    strangers = [identity(f"stranger-{number}") for number in range(5)]
    scene = _List(
        files,
        "refuse-run-strangers-full",
        "room for four: strangers fill three, the last is kept for those that matter and for authorities",
        known=(PEER,),
        identities=(*strangers, PEER, OTHER_PEER),
        revocations=4,
    )
    for stranger in strangers[:3]:
        scene.revoke(stranger, stranger)
    scene.revoke(strangers[3], strangers[3], FULL)
    scene.revoke(PEER, PEER)
    scene.revoke(AUTHORITY, OTHER_PEER, FULL)
    scene.finish()
    scene = _List(
        files,
        "refuse-run-full",
        "what an authority revokes is no stranger's; the whole list is bounded too",
        identities=(*strangers[:4], PEER),
        revocations=8,
        reserved_one_in=2,
    )
    for stranger in strangers[:4]:
        scene.revoke(stranger, stranger)
    scene.revoke(strangers[4], strangers[4], FULL)
    for number in range(4):
        scene.revoke(AUTHORITY, identity(f"sold-{number}"))
    scene.revoke(AUTHORITY, PEER, FULL)
    scene.finish()
    for name, comment, data, expect in foreign_statements("revocation", NOW_MS):
        scene = _List(files, f"refuse-run-{name}", f"a revocation {comment}; a genuine one is taken after it")
        scene.offer_foreign(data, expect)
        scene.revoke(AUTHORITY, PEER)
        scene.finish()


# --- continuity ------------------------------------------------------------------------------------------------------


class _Successions:
    """A scenario of `continuity.run`; who goes on as whom is written down beside it."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        known: tuple[tuple[Identity, str | None], ...] = ((OLD, "the old one"),),
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

    def know(self, who: Identity, called: str | None = None) -> None:
        """Know an identity."""
        self._scene.step("know", "ok", self._output(), identity=who.key.raw, name=called)

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
    scene.follow(OLD, OTHER_NEW, "call.argument")
    scene.follow(NEW, OLD, "call.argument")
    scene.finish()
    scene = _Successions(
        files,
        "refuse-run-named-since",
        "between offer and decision the successor got a name of its own: it is not followed any more",
    )
    scene.offer()
    scene.know(NEW, "somebody else")
    scene.follow(OLD, NEW, "call.argument")
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
    scene.know(OLD, "the old one")
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
        known=((OLD, "the old one"), (NEW, "another")),
    )
    scene.offer(expect=UNFIT)
    scene.finish()
    scene = _Successions(files, "refuse-run-itself", "an identity offers itself")
    scene.offer_foreign(statement(CONTINUITY, OLD, OLD), UNFIT)
    scene.finish()
