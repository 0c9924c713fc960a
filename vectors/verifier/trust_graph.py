"""The graph: section 9.3."""

from __future__ import annotations

from collections import Counter

from verifier.common import TOLERANCE_MS, Json, Trace, Unusable, limits_of, refuse, unhex
from verifier.trust_lists import Revocations
from verifier.trust_statements import Statement, take_statement


class GraphRun:
    """graph.run."""

    def __init__(self, given: Json) -> None:
        self.mesh: str = given["mesh"]
        self.root = unhex(given["root"])
        self.percent: int = given["attenuation_percent"]
        self.cap: int = given["cap"]
        self.limits = limits_of(given)
        self.subjects = [unhex(key) for key in given["subjects"]]
        self.revocations = Revocations(self.mesh, set(), set(), self.limits)
        self.edges: dict[tuple[bytes, bytes], Statement] = {}

    def take(self, step: Json, trace: Trace) -> Json:
        """One step."""
        if step["do"] == "apply":
            self._apply(unhex(step["statement"]), step["now_ms"], trace)
        elif step["do"] == "revoke":
            self.revocations.apply(unhex(step["statement"]), trace)
        else:
            raise Unusable(f"unknown step {step['do']!r}")
        return self.told()

    def told(self) -> Json:
        """All scores of the subjects."""
        return {"scores": [self._scores(subject) for subject in self.subjects]}

    def _apply(self, data: bytes, now: int, trace: Trace) -> None:
        edge = take_statement("edge", data, self.mesh, lambda it: not self.revocations.revoked(it.issuer), trace)
        pair = edge.issuer, edge.subject
        if edge.time > now + TOLERANCE_MS:
            refuse("trust.stale")
        if pair in self.edges:
            if not edge.replaces(self.edges[pair]):
                refuse("trust.stale")
        elif not self._room(edge.issuer):
            refuse("trust.full")
        self.edges[pair] = edge

    def _room(self, issuer: bytes) -> bool:
        """Whether one more edge of an issuer can be held."""
        most = self.limits["trust_edges"]
        held = Counter(a for a, _ in self.edges)
        if issuer == self.root:
            return held[issuer] < most
        if len(self.edges) >= most or held[issuer] >= self.limits["trust_edges_per_issuer"]:
            return False
        if (self.root, issuer) in self.edges:
            return True
        strangers = sum(n for a, n in held.items() if a != self.root and (self.root, a) not in self.edges)
        return strangers < most // 4

    def _weight(self, a: bytes, b: bytes) -> int:
        edge = self.edges.get((a, b))
        return edge.more["weight"] if edge is not None else 0

    def _scores(self, x: bytes) -> Json:
        if x == self.root:
            return {"direct": 0, "derived": 0, "score": 0}
        direct = self._weight(self.root, x)
        vouchers = {v for v, to in self.edges if to == x and not self.revocations.revoked(v)}
        best = max((min(self._weight(self.root, v), self._weight(v, x)) for v in vouchers), default=0)
        derived = min(self.cap, self.percent * best // 100)
        return {"direct": direct, "derived": derived, "score": max(direct, derived)}
