"""The trust graph: signed edges, live, seen from one root (section 9).

An edge says how far its issuer trusts its subject. Of two edges of the same two identities the one with the higher
sequence stands (of equal sequences the one with the smaller digest), so that the order of arrival does not matter; a
withdrawn edge leaves its sequence behind, so that an older one does not come back.

What follows from the edges is in `agentmesh.trust.paths`.

Memory is bounded. Whoever the root has an edge to may fill a share of its own; strangers' edges, which count for
nothing until the root reaches their issuers, share the little that is left to them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from agentmesh.at_rest import MANY, StateKind, require, restore_fields
from agentmesh.errors import StatementStale, StatementUnfit, TrustFull
from agentmesh.identity import IdentityKey
from agentmesh.limits import CLOCK_TOLERANCE_MS, SCORE_MAX, Limits
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import limits_argument, uint_argument
from agentmesh.trust.paths import DIRECT_THRESHOLD, TrustPaths
from agentmesh.trust.revocation import RevocationList, revocations_argument
from agentmesh.trust.statements import TrustEdge, verify_edge

_STRANGERS_ONE_IN: Final = 4

# Edge: subject, weight, sequence, digest.
_EDGE: Final = _wire.array(_wire.Bin(32), _wire.Uint(SCORE_MAX), _wire.Uint(), _wire.Bin(32))
# Root, edges by issuer.
_GRAPH: Final = _wire.array(_wire.Bin(32), _wire.ArrayOf(_wire.array(_wire.Bin(32), _wire.ArrayOf(_EDGE, MANY)), MANY))

_Edge = tuple[int, int, bytes]  # weight, sequence, digest


@final
class TrustGraph(TrustPaths[_Edge]):
    """Who trusts whom how far, in one mesh, as one root sees it.

    Safe to use from several threads; a child of a fork gets `ForkedChild`. A call that was broken off did nothing or
    all, and can be made again.

    Attributes:
        mesh: The mesh that edges must be for.
        root: Whose view it is: the agent's own identity, as a rule.
        generation: How often it changed. Keep it elsewhere too, to notice an older graph that was put back.
    """

    _KIND: ClassVar = StateKind.GRAPH
    __slots__ = ("_limits", "_strangers")

    def __init__(
        self,
        mesh: str,
        root: IdentityKey,
        *,
        attenuation_percent: int = 50,
        cap: int = DIRECT_THRESHOLD - 1,
        limits: Limits | None = None,
        revocations: RevocationList | None = None,
    ) -> None:
        """Make an empty graph.

        Args:
            mesh: The mesh's name.
            root: Whose view it is.
            attenuation_percent: What a path of two hops keeps of its weaker edge, 0 to 100.
            cap: The most that a path of two hops can be worth.
            limits: `trust_edges` and `trust_edges_per_issuer`.
            revocations: Whoever is revoked there vouches for nobody.

        Raises:
            ArgumentInvalid: an argument of another type, range or mesh.
        """
        super().__init__(mesh, root, attenuation_percent=attenuation_percent, cap=cap, revocations=revocations)
        self._limits = limits_argument(limits)
        self._strangers = 0

    # --- edges -------------------------------------------------------------------------------------------------------

    def apply(self, statement: bytes, *, now_ms: int) -> TrustEdge:
        """Take a signed edge, and return it. It counts at once. Section 9.

        Raises:
            ArgumentInvalid: not bytes, or `now_ms` is no time.
            TooLarge, Malformed, UnknownVersion, BadIdentityKey, BadSignature: not an edge, or not acceptable.
            StatementUnfit: of another mesh, about its own issuer, or its issuer is revoked.
            StatementStale: seen, replaced, or from the future.
            TrustFull: the memory for edges of this issuer's kind is full; nothing was taken.
        """
        uint_argument("now_ms", now_ms)
        self._ready()
        edge = verify_edge(statement, mesh=self.mesh, may_count=self._may_count)
        if edge.time_ms > now_ms + CLOCK_TOLERANCE_MS:
            raise StatementStale
        with self._lock:
            self._finish()
            # Asked again, because its issuer may have been revoked while the signature was checked.
            if not self._may_count(edge.issuer.raw, edge.subject.raw):
                raise StatementUnfit
            self._take(edge.issuer.raw, edge.subject.raw, (edge.weight, edge.sequence, edge.digest))
        return edge

    def _take(self, issuer: bytes, subject: bytes, edge: _Edge) -> None:
        _, sequence, digest = edge
        known = self._edges.get(issuer, {}).get(subject)
        if known is None:
            self._check_room(issuer)
        elif sequence < known[1] or (sequence == known[1] and digest >= known[2]):
            raise StatementStale
        self._put(issuer, subject, edge)

    def _check_room(self, issuer: bytes) -> None:
        own, most = self.root.raw, self._limits.trust_edges
        if issuer == own:
            # The root's own count only against one another: nobody else keeps it from speaking.
            if len(self._edges[own]) >= most:
                raise TrustFull
            return
        if self._total >= most or len(self._edges.get(issuer, ())) >= self._limits.trust_edges_per_issuer:
            raise TrustFull
        if issuer not in self._edges[own] and self._strangers >= most // _STRANGERS_ONE_IN:
            raise TrustFull

    def _put(self, issuer: bytes, subject: bytes, edge: _Edge) -> None:
        own, mine = self.root.raw, self._edges.get(issuer, {})
        total, strangers = self._total, self._strangers
        if subject not in mine:
            total += 1
            if issuer == own:
                strangers -= len(self._edges.get(subject, ()))  # a stranger no more
            elif issuer not in self._edges[own]:
                strangers += 1

        def write() -> None:
            self._edges.setdefault(issuer, {})[subject] = edge
            self._total, self._strangers = total, strangers
            if edge[0]:
                self._by_subject.setdefault(subject, set()).add(issuer)
                return
            vouchers = self._by_subject.get(subject, set())
            vouchers.discard(issuer)
            if not vouchers:
                self._by_subject.pop(subject, None)

        self._change(write)

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _restored(self, exported: bytes) -> TrustGraph:
        return self.restore(
            exported,
            self.root,
            attenuation_percent=self._percent,
            cap=self._cap,
            limits=self._limits,
            revocations=self._revocations,
        )

    @classmethod
    def restore(
        cls,
        exported: bytes,
        root: IdentityKey,
        *,
        at_least_generation: int = 0,
        attenuation_percent: int = 50,
        cap: int = DIRECT_THRESHOLD - 1,
        limits: Limits | None = None,
        revocations: RevocationList | None = None,
    ) -> TrustGraph:
        """Return the graph that `export_state` wrote. A damaged one is an error, never an empty graph.

        Args:
            exported: The bytes.
            root: Whose view it must be.
            at_least_generation: The `generation` that is known from elsewhere: an older graph is refused.
            attenuation_percent: As for a new graph.
            cap: As for a new graph.
            limits: As for a new graph.
            revocations: As for a new graph.

        Raises:
            ArgumentInvalid: an argument of another type, range or mesh.
            StateStale: older than it may be.
            StateVersionUnknown: written by a newer release.
            StateMalformed: damaged, of another root, or fields that contradict one another.
        """

        def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> TrustGraph:
            graph = cls(
                mesh,
                root,
                attenuation_percent=attenuation_percent,
                cap=cap,
                limits=limits,
            )
            root_raw, issuers = fields
            require(root_raw == root.raw)
            for issuer, edges in issuers:
                for subject, weight, sequence, digest in edges:
                    require(issuer != subject)
                    graph._put(issuer, subject, (weight, sequence, digest))
            graph._generation = generation
            require(graph.export_state() == exported)
            return graph

        # Not in `build`, because a wrong argument is not a damaged state.
        cls("m", root, attenuation_percent=attenuation_percent, cap=cap, limits=limits)
        graph = restore_fields(StateKind.GRAPH, (_GRAPH,), exported, build, at_least_generation=at_least_generation)
        graph._revocations = revocations_argument(revocations, graph.mesh)
        return graph
