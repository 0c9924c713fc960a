"""Scenarios of the family revocation: who is revoked."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from generator.codes import FULL, STALE, UNFIT
from generator.tables import play, row, step
from generator.trust.scene import Scene, digest_of, foreign_statements
from generator.trust.statements import ISSUER, REVOCATION, SUBJECT, UINT_MAX, statement
from generator.world import MALLORY, NOW_MS, Files, identity

Json = dict[str, Any]


AUTHORITY: Final = ISSUER
OTHER_AUTHORITY: Final = identity("other-issuer")
PEER: Final = SUBJECT
OTHER_PEER: Final = identity("other-subject")
STRANGERS: Final = tuple(identity(f"stranger-{number}") for number in range(7))


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

    def itself(self, who: Identity, expect: str = "ok", **fields: int) -> None:
        """Offer an identity's revocation of itself."""
        self.revoke(who, who, expect, **fields)


revoke, itself, believe, offer_foreign = map(step, (_List.revoke, _List.itself, _List.believe, _List.offer_foreign))


# --- the tables -------------------------------------------------------------------------------------------------------

REVOKED: Final = (
    row("run-of-itself", "an identity revokes itself, for good", [itself(PEER)]),
    row("run-by-authority", "an authority that the list was told to believe revokes somebody",
        [revoke(AUTHORITY, PEER)]),
    row("run-any-time", "neither time nor sequence of a revocation matter: it holds at once",
        [itself(PEER, at_ms=UINT_MAX, sequence=UINT_MAX), itself(OTHER_PEER, at_ms=0)]),
    row("run-believed-later", "an authority that the list is told to believe later",
        [believe(OTHER_AUTHORITY), revoke(OTHER_AUTHORITY, PEER)], authorities=()),
    row("refuse-run-by-stranger", "nobody else revokes anybody",
        [revoke(MALLORY, PEER, UNFIT), revoke(OTHER_PEER, PEER, UNFIT)]),
    row("refuse-run-disbelieved", "an authority that is believed no more; what it revoked stays",
        [revoke(AUTHORITY, PEER), believe(AUTHORITY, no_more=True), revoke(AUTHORITY, OTHER_PEER, UNFIT)]),
    row("refuse-run-revoked-authority", "an authority that revoked itself; what it revoked stays",
        [revoke(AUTHORITY, PEER), itself(AUTHORITY), revoke(AUTHORITY, OTHER_PEER, UNFIT)]),
    row("refuse-run-revoked-already", "who is revoked is not revoked again, by nobody",
        [itself(PEER), itself(PEER, STALE, sequence=1, at_ms=NOW_MS + 1), revoke(AUTHORITY, PEER, STALE)]),
    row("refuse-run-strangers-full",
        "room for four: strangers fill three, the last is kept for those that matter and for authorities",
        [[itself(stranger) for stranger in STRANGERS[:3]], itself(STRANGERS[3], FULL), itself(PEER),
         revoke(AUTHORITY, OTHER_PEER, FULL)], known=(PEER,), identities=(*STRANGERS[:5], PEER, OTHER_PEER),
        revocations=4),
    row("refuse-run-full", "what an authority revokes is no stranger's; the whole list is bounded too",
        [[itself(stranger) for stranger in STRANGERS[:4]], itself(STRANGERS[4], FULL),
         [revoke(AUTHORITY, identity(f"sold-{number}")) for number in range(4)], revoke(AUTHORITY, PEER, FULL)],
        identities=(*STRANGERS[:4], PEER), revocations=8, reserved_one_in=2),
    *(row(f"refuse-run-{name}", f"a revocation {comment}; a genuine one is taken after it",
          [offer_foreign(data, expect), revoke(AUTHORITY, PEER)])
      for name, comment, data, expect in foreign_statements("revocation", NOW_MS)),
)  # fmt: skip


OF_STRANGERS: Final = (
    *(row(f"refuse-run-order-stale-before-{name}",
          f"who is revoked is revoked again, by itself, where {comment}: that it is revoked is looked at first",
          [[itself(stranger) for stranger in (*strange, PEER)], itself(PEER, STALE, sequence=1)], **limits)
      for name, comment, strange, limits in (
          ("full", "the whole list is full", (), {"revocations": 1}),
          ("strangers-full", "the strangers' part of the list is full", STRANGERS[:2], {"revocations": 4}),
      )),
    row("refuse-run-part-is-cut-off", "room for seven: a fourth of it, cut off, is one, and strangers fill six",
        [[itself(stranger) for stranger in STRANGERS[:6]], itself(STRANGERS[6], FULL), revoke(AUTHORITY, STRANGERS[6])],
        identities=STRANGERS, revocations=7),
    row("run-strangers-are-counted-alone",
        "room for eight: what an authority revoked, and who is known, takes nothing from the six of strangers",
        [itself(PEER), revoke(AUTHORITY, STRANGERS[6]), [itself(stranger) for stranger in STRANGERS[:6]]],
        known=(PEER,), identities=(*STRANGERS, PEER), revocations=8),
    row("run-no-stranger-afterwards",
        "an authority revokes itself, and is believed no more after that: its entry does not become a stranger's",
        [itself(AUTHORITY), believe(AUTHORITY, no_more=True), [itself(stranger) for stranger in STRANGERS[:3]]],
        identities=(AUTHORITY, *STRANGERS[:3]), revocations=4),
    row("refuse-run-stranger-for-good",
        "a stranger that revoked itself is made an authority after that: its entry stays a stranger's",
        [[itself(stranger) for stranger in STRANGERS[:3]], believe(STRANGERS[0]), itself(STRANGERS[3], FULL)],
        identities=STRANGERS[:4], revocations=4),
)  # fmt: skip


def revocation_runs(files: Files) -> None:
    """Add the scenarios of the family revocation."""
    for rows in (REVOKED, OF_STRANGERS):
        play(_List, files, rows)
