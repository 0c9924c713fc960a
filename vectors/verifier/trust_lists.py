"""The list of revocations, and succession: sections 9.4 and 9.5."""

from __future__ import annotations

from verifier.common import TOLERANCE_MS, Json, Trace, Unusable, limits_of, refuse, unhex
from verifier.trust_statements import Statement, take_statement

OFFERS_MAX = 8


class Revocations:
    """A list of revocations."""

    def __init__(self, mesh: str, authorities: set[bytes], known: set[bytes], limits: dict[str, int]) -> None:
        self.mesh = mesh
        self.authorities = authorities
        self.known = known
        self.limits = limits
        self.entries: dict[bytes, bool] = {}  # the revoked, and whether the entry was a stranger's

    def revoked(self, identity: bytes) -> bool:
        """Whether somebody is revoked."""
        return identity in self.entries

    def apply(self, data: bytes, trace: Trace) -> None:
        """Take a revocation."""
        statement = take_statement("revocation", data, self.mesh, self._fits, trace)
        stranger = statement.issuer not in self.authorities and statement.subject not in self.known
        most = self.limits["revocations"]
        if statement.subject in self.entries:
            refuse("trust.stale")
        if len(self.entries) >= most:
            refuse("trust.full")
        if stranger and sum(self.entries.values()) >= most - most // self.limits["reserved_one_in"]:
            refuse("trust.full")
        self.entries[statement.subject] = stranger

    def _fits(self, statement: Statement) -> bool:
        believed = statement.issuer in self.authorities and not self.revoked(statement.issuer)
        return statement.issuer == statement.subject or believed


class RevocationRun:
    """revocation.run."""

    def __init__(self, given: Json) -> None:
        authorities, known = ({unhex(key) for key in given[name]} for name in ("authorities", "known"))
        self.list = Revocations(given["mesh"], authorities, known, limits_of(given))
        self.identities = [unhex(key) for key in given["identities"]]

    def take(self, step: Json, trace: Trace) -> Json:
        """One step."""
        if step["do"] == "apply":
            self.list.apply(unhex(step["statement"]), trace)
        elif step["do"] == "believe":
            self.list.authorities.add(unhex(step["authority"]))
        elif step["do"] == "disbelieve":
            self.list.authorities.discard(unhex(step["authority"]))
        else:
            raise Unusable(f"unknown step {step['do']!r}")
        return self.told()

    def told(self) -> Json:
        """Who is revoked."""
        return {"revoked": [self.list.revoked(identity) for identity in self.identities]}


class ContinuityRun:
    """continuity.run: who goes on as whom."""

    def __init__(self, given: Json) -> None:
        self.mesh: str = given["mesh"]
        self.names: dict[bytes, str | None] = {unhex(one["identity"]): one["name"] for one in given["known"]}
        self.offers: dict[bytes, dict[bytes, Statement]] = {}
        self.successor: dict[bytes, bytes] = {}
        self.identities = [unhex(key) for key in given["identities"]]

    def take(self, step: Json, trace: Trace) -> Json:
        """One step."""
        if step["do"] == "offer":
            issuer = self._offer(unhex(step["statement"]), step["now_ms"], trace)
            return {"offered": sorted(self.offers[issuer])} | self.told()
        if step["do"] == "know":
            self._know(unhex(step["identity"]), step["name"])
        elif step["do"] == "follow":
            self._follow(unhex(step["old"]), unhex(step["new"]))
        else:
            raise Unusable(f"unknown step {step['do']!r}")
        return self.told()

    def told(self) -> Json:
        """As whom each goes on."""
        return {"current": [self._current(identity) for identity in self.identities]}

    def _current(self, identity: bytes) -> bytes:
        while identity in self.successor:
            identity = self.successor[identity]
        return identity

    def _may_succeed(self, old: bytes, new: bytes) -> bool:
        """Step 5."""
        if old not in self.names:
            return False
        retired, succeeded = new in self.successor, new in self.successor.values()
        return not retired and not succeeded and self.names.get(new) is None

    def _offer(self, data: bytes, now: int, trace: Trace) -> bytes:
        statement = take_statement(
            "continuity", data, self.mesh, lambda it: self._may_succeed(it.issuer, it.subject), trace
        )
        offers = self.offers.setdefault(statement.issuer, {})
        if statement.time > now + TOLERANCE_MS:
            refuse("trust.stale")
        if statement.subject in offers:
            if not statement.replaces(offers[statement.subject]):
                refuse("trust.stale")
        elif len(offers) >= OFFERS_MAX:
            refuse("trust.full")
        offers[statement.subject] = statement
        return statement.issuer

    def _know(self, identity: bytes, name: str | None) -> None:
        """Section 9.5: at most one name each, for good, no two by one name, and the retired are known no more."""
        if identity in self.successor:
            refuse("call.argument")
        its = self.names.get(identity)
        if name not in (None, its):
            if its is not None or name in self.names.values():
                refuse("identity.conflict")
            its = name
        self.names[identity] = its

    def _follow(self, old: bytes, new: bytes) -> None:
        if new not in self.offers.get(old, {}) or not self._may_succeed(old, new):
            refuse("call.argument")
        self.names[new] = self.names.pop(old)
        self.successor[old] = new
        del self.offers[old]
