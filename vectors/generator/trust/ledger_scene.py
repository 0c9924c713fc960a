"""A scenario of `ledger.run`, and the model of section 9.2 beside it."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from agentmesh.limits import Limits
from generator.tables import step
from generator.trust.model import Ledger, Update
from generator.trust.scene import Scene, digest_of
from generator.trust.statements import ISSUER, REVOCATION, SUBJECT, TRUST, statement
from generator.world import NOW_MS, Files, identity

Json = dict[str, Any]

SPEC: Final = "9.2"
HOUR_MS: Final = 3_600_000
OTHER_ISSUER: Final = identity("other-issuer")
OTHER_SUBJECT: Final = identity("other-subject")
SUCCESSOR: Final = identity("successor")
# The first millisecond of a slot, so that scenarios show what belongs to which.
SLOT_MS: Final = NOW_MS - NOW_MS % HOUR_MS


class LedgerScene:
    """A scenario of `ledger.run`, beside the model of section 9.2, which says what must come of each step."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        default: int = 0,
        issuers: tuple[Identity, ...] = (ISSUER, OTHER_ISSUER),
        subjects: tuple[Identity, ...] = (SUBJECT,),
        **limits: int,
    ) -> None:
        allowed = Limits(**limits)
        self._subjects = subjects
        self._model = Ledger(
            allowed.trust_window_seconds * 1000,
            default,
            allowed.trust_subjects,
            allowed.trust_updates_per_issuer,
            believed={issuer.key.raw for issuer in issuers},
        )
        self.now_ms = SLOT_MS
        self._sequence = 0
        given: Json = {
            "default_score": default,
            "issuers": [issuer.key.raw.hex() for issuer in issuers],
            "subjects": [subject.key.raw.hex() for subject in subjects],
        }
        if limits:
            given["limits"] = limits
        self._scene = Scene(files, name, "ledger.run", comment, spec=SPEC, given=given)

    def _scores(self) -> Json:
        return {"scores": [self._model.score(subject.key.raw) for subject in self._subjects]}

    def at(self, now_ms: int) -> None:
        """Set the clock."""
        self.now_ms = now_ms

    def later(self, by_ms: int) -> None:
        """Have time pass; a negative time sets the clock back."""
        self.now_ms += by_ms

    def say(
        self,
        signal: int,
        expect: str = "ok",
        *,
        at_ms: int | None = None,
        sequence: int | None = None,
        issuer: Identity = ISSUER,
        subject: Identity = SUBJECT,
    ) -> None:
        """Offer an update of a believed issuer at `now_ms`; what it says of itself is the model's to judge."""
        time_ms = self.now_ms if at_ms is None else at_ms
        self._sequence += 1
        number = self._sequence if sequence is None else sequence
        data = statement(TRUST, issuer, subject, int(signal > 0), abs(signal), sequence=number, time_ms=time_ms)
        self._said = data, Update(issuer.key.raw, subject.key.raw, number, time_ms, signal, digest_of(data))
        self.say_again(expect)

    def say_again(self, expect: str = "ok") -> None:
        """Offer the update that was said last once more."""
        data, update = self._said
        found = self._model.take(update, self.now_ms) or "ok"
        if found != expect:
            raise ValueError(f"{self._scene.name}: the model says {found} and not {expect}")
        noted: Json = {"digest": update.digest.hex(), "slot": self._model.slot(update.time_ms)}
        if found == "ok":
            moved = self._model.movements(update.issuer, update.subject)
            noted["movements"] = [{"slot": slot, "moved": moved[slot]} for slot in sorted(moved)]
        self._scene.step("apply", expect, self._scores(), noted, now_ms=self.now_ms, statement=data)

    def offer_foreign(self, data: bytes, expect: str) -> None:
        """Offer what is refused before the ledger's own rules are asked."""
        self._scene.step("apply", expect, {}, now_ms=self.now_ms, statement=data)

    def believe(self, issuer: Identity) -> None:
        """Believe an issuer."""
        self._model.believed.add(issuer.key.raw)
        self._scene.step("believe", "ok", self._scores(), issuer=issuer.key.raw)

    def disbelieve(self, issuer: Identity, *, take_back: bool = False) -> None:
        """Believe an issuer no more."""
        self._model.believed.discard(issuer.key.raw)
        if take_back:
            self._model.take_back(issuer.key.raw)
        self._scene.step("disbelieve", "ok", self._scores(), issuer=issuer.key.raw, take_back=take_back)

    def revoke(self, who: Identity) -> None:
        """Have the list of revocations take a revocation."""
        self._model.revoked.add(who.key.raw)
        self._scene.step("revoke", "ok", self._scores(), statement=statement(REVOCATION, who, who))

    def inherit(self, old: Identity, new: Identity, expect: str = "ok") -> None:
        """Let a new identity begin with an old one's score."""
        found = self._model.inherit(old.key.raw, new.key.raw) or "ok"
        if found != expect:
            raise ValueError(f"{self._scene.name}: the model says {found} and not {expect}")
        self._scene.step("inherit", expect, self._scores(), old=old.key.raw, new=new.key.raw)

    def finish(self, *scores: int) -> None:
        """Write the file; the scores at its end are said again, so that they can be seen here."""
        if self._scores()["scores"] != list(scores):
            raise ValueError(f"{self._scene.name}: {self._scores()['scores']} and not {list(scores)}")
        self._scene.finish()


# --- what stands in a table -------------------------------------------------------------------------------------------

at, later = step(LedgerScene.at), step(LedgerScene.later)
say, say_again, offer_foreign = step(LedgerScene.say), step(LedgerScene.say_again), step(LedgerScene.offer_foreign)
believe, disbelieve = step(LedgerScene.believe), step(LedgerScene.disbelieve)
revoke, inherit = step(LedgerScene.revoke), step(LedgerScene.inherit)


def hourly(*signals: tuple[int, int]) -> list[Any]:
    """Return steps: of each (hours, signal) the signal is said that many hours behind the beginning."""
    return [[at(SLOT_MS + hours * HOUR_MS), say(signal)] for hours, signal in signals]
