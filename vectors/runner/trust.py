"""Signed statements and what takes them: trust updates, edges, continuity, revocations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentmesh.identity import IdentityKey
from agentmesh.primitives import _crypto, _wire
from agentmesh.trust import (
    RevocationList,
    Statement,
    Successions,
    TrustGraph,
    TrustLedger,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
    verify_continuity,
    verify_edge,
    verify_revocation,
    verify_trust,
)
from runner.values import Draws, Json, identity_of, limits_of, unhex


def _key(raw: str) -> IdentityKey:
    return IdentityKey(unhex(raw))


# --- one call --------------------------------------------------------------------------------------------------------


def _about(given: Json) -> Json:
    return {"mesh": given["mesh"], "sequence": given["sequence"], "time_ms": given["time_ms"]}


def _issued(statement: bytes) -> Json:
    body, _ = _wire.decode_pair(statement, len(statement))
    return {"statement": statement.hex(), "digest": _crypto.sha256(body).hex()}


def _verified(statement: Statement) -> Json:
    return {
        "issuer": statement.issuer.raw.hex(),
        "subject": statement.subject.raw.hex(),
        "sequence": statement.sequence,
        "time_ms": statement.time_ms,
        "digest": statement.digest.hex(),
    }


def _trust_issue(given: Json) -> Json:
    signal = given["amount"] if given["direction"] else -given["amount"]
    return _issued(issue_trust(identity_of(given, "issuer_seed"), _key(given["subject"]), signal, **_about(given)))


def _trust_verify(given: Json) -> Json:
    update = verify_trust(unhex(given["statement"]), mesh=given["mesh"])
    return {**_verified(update), "direction": int(update.signal > 0), "amount": abs(update.signal)}


def _edge_issue(given: Json) -> Json:
    issuer, subject = identity_of(given, "issuer_seed"), _key(given["subject"])
    return _issued(issue_edge(issuer, subject, given["weight"], **_about(given)))


def _edge_verify(given: Json) -> Json:
    edge = verify_edge(unhex(given["statement"]), mesh=given["mesh"])
    return {**_verified(edge), "weight": edge.weight}


def _continuity_issue(given: Json) -> Json:
    old, new = identity_of(given, "issuer_seed"), identity_of(given, "subject_seed")
    return _issued(issue_continuity(old, new, **_about(given)))


def _continuity_verify(given: Json) -> Json:
    return _verified(verify_continuity(unhex(given["statement"]), mesh=given["mesh"]))


def _revocation_issue(given: Json) -> Json:
    return _issued(issue_revocation(identity_of(given, "issuer_seed"), _key(given["subject"]), **_about(given)))


def _revocation_verify(given: Json) -> Json:
    return _verified(verify_revocation(unhex(given["statement"]), mesh=given["mesh"]))


CALLS: dict[str, Callable[[Json], Json]] = {
    "trust.issue": _trust_issue,
    "trust.verify": _trust_verify,
    "edge.issue": _edge_issue,
    "edge.verify": _edge_verify,
    "continuity.issue": _continuity_issue,
    "continuity.verify": _continuity_verify,
    "revocation.issue": _revocation_issue,
    "revocation.verify": _revocation_verify,
}


# --- scenarios with steps --------------------------------------------------------------------------------------------


class LedgerRunner:
    """A ledger, and the list of revocations that it asks: `ledger.run`."""

    def __init__(self, given: Json, _draws: Draws | None = None) -> None:
        self._subjects = [unhex(raw) for raw in given["subjects"]]
        self._revocations = RevocationList(given["mesh"])
        self._ledger = TrustLedger(
            given["mesh"],
            default_score=given["default_score"],
            limits=limits_of(given),
            revocations=self._revocations,
        )
        for issuer in given["issuers"]:
            self._ledger.believe(_key(issuer))

    def step(self, step: Json, /) -> Json:
        """Take an update, or change who is believed."""
        ledger = self._ledger
        match step["do"]:
            case "apply":
                ledger.apply(unhex(step["statement"]), now_ms=step["now_ms"])
            case "believe":
                ledger.believe(_key(step["issuer"]))
            case "disbelieve":
                ledger.disbelieve(_key(step["issuer"]), take_back=step["take_back"])
            case "revoke":
                self._revocations.apply(unhex(step["statement"]))
            case "inherit":
                ledger.inherit(_key(step["old"]), _key(step["new"]))
        return self.state()

    def state(self) -> Json:
        """Return the scores of the subjects that the input names."""
        return {"scores": [self._ledger.score(raw) for raw in self._subjects]}

    def export(self) -> Any:
        """Return ledger and list."""
        return self._ledger.export_state(), self._revocations.export_state()


class GraphRunner:
    """A graph, and the list of revocations that it asks: `graph.run`."""

    def __init__(self, given: Json, _draws: Draws | None = None) -> None:
        self._subjects = [unhex(raw) for raw in given["subjects"]]
        self._revocations = RevocationList(given["mesh"])
        self._graph = TrustGraph(
            given["mesh"],
            _key(given["root"]),
            attenuation_percent=given["attenuation_percent"],
            cap=given["cap"],
            limits=limits_of(given),
            revocations=self._revocations,
        )

    def step(self, step: Json, /) -> Json:
        """Take an edge, or a revocation."""
        match step["do"]:
            case "apply":
                self._graph.apply(unhex(step["statement"]), now_ms=step["now_ms"])
            case "revoke":
                self._revocations.apply(unhex(step["statement"]))
        return self.state()

    def state(self) -> Json:
        """Return the scores of the subjects that the input names."""
        graph = self._graph
        scores = [
            {"direct": graph.direct(raw), "derived": graph.derived(raw), "score": graph.score(raw)}
            for raw in self._subjects
        ]
        return {"scores": scores}

    def export(self) -> Any:
        """Return graph and list."""
        return self._graph.export_state(), self._revocations.export_state()


class RevocationRunner:
    """A list of revocations: `revocation.run`."""

    def __init__(self, given: Json, _draws: Draws | None = None) -> None:
        known = frozenset(unhex(raw) for raw in given["known"])
        self._identities = [unhex(raw) for raw in given["identities"]]
        self._list = RevocationList(given["mesh"], limits=limits_of(given), is_known=known.__contains__)
        for authority in given["authorities"]:
            self._list.believe(_key(authority))

    def step(self, step: Json, /) -> Json:
        """Take a revocation, or change who may revoke others."""
        match step["do"]:
            case "apply":
                self._list.apply(unhex(step["statement"]))
            case "believe":
                self._list.believe(_key(step["authority"]))
            case "disbelieve":
                self._list.disbelieve(_key(step["authority"]))
        return self.state()

    def state(self) -> Json:
        """Return who of those that the input names is revoked."""
        return {"revoked": [self._list.is_revoked(raw) for raw in self._identities]}

    def export(self) -> bytes:
        """Return the list."""
        return self._list.export_state()


class ContinuityRunner:
    """Who goes on as whom: `continuity.run`."""

    def __init__(self, given: Json, _draws: Draws | None = None) -> None:
        self._identities = [_key(raw) for raw in given["identities"]]
        self._successions = Successions(given["mesh"])
        for known in given["known"]:
            self._successions.know(_key(known["identity"]), known["name"])

    def step(self, step: Json, /) -> Json:
        """Take an offer, or do what the application does."""
        successions = self._successions
        match step["do"]:
            case "offer":
                offer = successions.offer(unhex(step["statement"]), now_ms=step["now_ms"])
                offered = [found.subject.raw.hex() for found in successions.offers(offer.issuer)]
                return {"offered": offered, **self.state()}
            case "know":
                successions.know(_key(step["identity"]), step["name"])
            case "follow":
                successions.follow(_key(step["old"]), _key(step["new"]))
        return self.state()

    def state(self) -> Json:
        """Return as whom those that the input names go on."""
        return {"current": [self._successions.current(key).raw.hex() for key in self._identities]}

    def export(self) -> bytes:
        """Return all of it."""
        return self._successions.export_state()


RUNNERS: dict[str, Callable[[Json], LedgerRunner | GraphRunner | RevocationRunner | ContinuityRunner]] = {
    "ledger.run": LedgerRunner,
    "graph.run": GraphRunner,
    "revocation.run": RevocationRunner,
    "continuity.run": ContinuityRunner,
}
