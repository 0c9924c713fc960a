"""Scenarios of the family revocation: who is revoked."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from generator.trust.scene import Scene, digest_of, foreign_statements
from generator.trust.statements import ISSUER, REVOCATION, SUBJECT, UINT_MAX, statement
from generator.world import MALLORY, NOW_MS, Files, identity

Json = dict[str, Any]

UNFIT: Final = "trust.unfit"
STALE: Final = "trust.stale"
FULL: Final = "trust.full"

AUTHORITY: Final = ISSUER
OTHER_AUTHORITY: Final = identity("other-issuer")
PEER: Final = SUBJECT
OTHER_PEER: Final = identity("other-subject")


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
    _strangers(files)
    for name, comment, data, expect in foreign_statements("revocation", NOW_MS):
        scene = _List(files, f"refuse-run-{name}", f"a revocation {comment}; a genuine one is taken after it")
        scene.offer_foreign(data, expect)
        scene.revoke(AUTHORITY, PEER)
        scene.finish()


def _strangers(files: Files) -> None:
    strangers = [identity(f"stranger-{number}") for number in range(7)]
    for name, comment, strange, limits in (
        ("full", "the whole list is full", (), {"revocations": 1}),
        ("strangers-full", "the strangers' part of the list is full", strangers[:2], {"revocations": 4}),
    ):
        scene = _List(
            files,
            f"refuse-run-order-stale-before-{name}",
            f"who is revoked is revoked again, by itself, where {comment}: that it is revoked is looked at first",
            **limits,
        )
        for stranger in (*strange, PEER):
            scene.revoke(stranger, stranger)
        scene.revoke(PEER, PEER, STALE, sequence=1)
        scene.finish()
    scene = _List(
        files,
        "refuse-run-part-is-cut-off",
        "room for seven: a fourth of it, cut off, is one, and strangers fill six",
        identities=tuple(strangers),
        revocations=7,
    )
    for stranger in strangers[:6]:
        scene.revoke(stranger, stranger)
    scene.revoke(strangers[6], strangers[6], FULL)
    scene.revoke(AUTHORITY, strangers[6])
    scene.finish()
    scene = _List(
        files,
        "run-strangers-are-counted-alone",
        "room for eight: what an authority revoked, and who is known, takes nothing from the six of strangers",
        known=(PEER,),
        identities=(*strangers, PEER),
        revocations=8,
    )
    scene.revoke(PEER, PEER)
    scene.revoke(AUTHORITY, strangers[6])
    for stranger in strangers[:6]:
        scene.revoke(stranger, stranger)
    scene.finish()
    scene = _List(
        files,
        "run-no-stranger-afterwards",
        "an authority revokes itself, and is believed no more after that: its entry does not become a stranger's",
        identities=(AUTHORITY, *strangers[:3]),
        revocations=4,
    )
    scene.revoke(AUTHORITY, AUTHORITY)
    scene.believe(AUTHORITY, no_more=True)
    for stranger in strangers[:3]:
        scene.revoke(stranger, stranger)
    scene.finish()
    scene = _List(
        files,
        "refuse-run-stranger-for-good",
        "a stranger that revoked itself is made an authority after that: its entry stays a stranger's",
        identities=tuple(strangers[:4]),
        revocations=4,
    )
    for stranger in strangers[:3]:
        scene.revoke(stranger, stranger)
    scene.believe(strangers[0])
    scene.revoke(strangers[3], strangers[3], FULL)
    scene.finish()
