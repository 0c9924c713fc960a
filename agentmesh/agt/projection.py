"""TrustProjection: the trust graph that a kars cluster projects into a file, read again whenever it changes.

It answers as a `TrustGraph` does, and a policy takes either. A graph is the one or the other: statements come one by
one and stay, while the newest projection stands whole, so that an edge that is gone from it is gone here. What holds a
projection therefore takes no statement.

A file that is refused changes nothing: the last one stands, and loses its edges as they end. It cannot be made to trust
more by damage, nor to forget by it; `clear` forgets, where an owner would rather trust nobody.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from agentmesh.agt.graph_file import GRAPH_FILE_MAX_BYTES, NEVER, Edges, ProjectionReport, read_graph_file
from agentmesh.at_rest import MANY, StateKind, require, restore_fields
from agentmesh.identity import IdentityKey
from agentmesh.limits import SCORE_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import BytesLike, received_argument, uint_argument
from agentmesh.trust.paths import DIRECT_THRESHOLD, TrustPaths
from agentmesh.trust.revocation import RevocationList, revocations_argument

# Edge: subject, weight, when it ends.
_EDGE: Final = _wire.array(_wire.Bin(32), _wire.Uint(SCORE_MAX), _wire.Uint())
# Root, edges by issuer.
_PROJECTION: Final = _wire.array(
    _wire.Bin(32), _wire.ArrayOf(_wire.array(_wire.Bin(32), _wire.ArrayOf(_EDGE, MANY)), MANY)
)


@final
class TrustProjection(TrustPaths[tuple[int, int]]):
    """Who trusts whom how far in a kars cluster, as one root sees it, by the newest file that was taken.

    A kars edge names no mesh: whose file it is, and which vertex is the root, is the caller's word. Safe to use from
    several threads; a child of a fork gets `ForkedChild`. A call that was broken off did nothing or all, and can be
    made again.

    Attributes:
        mesh: The mesh of the policy that decides by it.
        root: Whose view it is: an identity whose key is a vertex's.
        generation: How often it changed. Keep it elsewhere too, to notice an older state that was put back.
    """

    _KIND: ClassVar = StateKind.PROJECTION
    __slots__ = ("_next_end_ms",)

    def __init__(
        self,
        mesh: str,
        root: IdentityKey,
        *,
        attenuation_percent: int = 50,
        cap: int = DIRECT_THRESHOLD - 1,
        revocations: RevocationList | None = None,
    ) -> None:
        """Trust nobody, until a file was loaded.

        Args:
            mesh: The mesh's name.
            root: Whose view it is.
            attenuation_percent: What a path of two hops keeps of its weaker edge, 0 to 100.
            cap: The most that a path of two hops can be worth.
            revocations: Whoever is revoked there vouches for nobody.

        Raises:
            ArgumentInvalid: an argument of another type, range or mesh.
        """
        super().__init__(mesh, root, attenuation_percent=attenuation_percent, cap=cap, revocations=revocations)
        self._next_end_ms = NEVER

    def load(self, data: BytesLike, *, now_ms: int) -> ProjectionReport:
        """Take a file in the place of the last one, whole, and say what counts of it. It counts at once.

        Args:
            data: The bytes of the file.
            now_ms: What the clock shows.

        Raises:
            ArgumentInvalid: not bytes, or `now_ms` is no time.
            TooLarge, Malformed: no such file. The last one stands.
        """
        data = received_argument("data", data, GRAPH_FILE_MAX_BYTES)
        uint_argument("now_ms", now_ms)
        self._ready()
        file = read_graph_file(data, now_ms=now_ms)
        with self._lock:
            self._finish()
            changed = self._replace(file.edges)
        return ProjectionReport(
            vertices=len(file.keys),
            edges=sum(map(len, file.edges.values())),
            dropped=file.dropped,
            dropped_before=file.dropped_before,
            has_root=self.root in file.keys.values(),
            changed=changed,
        )

    def refresh(self, now_ms: int) -> int:
        """Drop the edges that have ended, and say how many did. Call it at `next_end_ms`.

        Raises:
            ArgumentInvalid: `now_ms` is no time.
        """
        uint_argument("now_ms", now_ms)
        self._ready()
        with self._lock:
            self._finish()
            if now_ms <= self._next_end_ms:
                return 0
            before = self._total
            self._replace(
                {
                    issuer: {subject: edge for subject, edge in edges.items() if now_ms <= edge[1]}
                    for issuer, edges in self._edges.items()
                }
            )
            return before - self._total

    def clear(self) -> None:
        """Trust nobody, until a file was loaded again."""
        self._ready()
        with self._lock:
            self._finish()
            self._replace({})

    @property
    def next_end_ms(self) -> int | None:
        """The time, in milliseconds since the epoch, behind which `refresh` is to be called, or `None`."""
        self._ready()
        ends_ms = self._next_end_ms
        return None if ends_ms == NEVER else ends_ms

    def _replace(self, edges: Edges) -> bool:
        """Let these edges be all that there are, and say whether that is a change; with the lock held."""
        standing: Edges = {self.root.raw: {}} | {issuer: found for issuer, found in edges.items() if found}
        if standing == self._edges:
            return False
        by_subject: dict[bytes, set[bytes]] = {}
        for issuer, found in standing.items():
            for subject in found:
                by_subject.setdefault(subject, set()).add(issuer)
        total = sum(map(len, standing.values()))
        next_end_ms = min((edge[1] for found in standing.values() for edge in found.values()), default=NEVER)

        def write() -> None:
            self._edges, self._by_subject = standing, by_subject
            self._total, self._next_end_ms = total, next_end_ms

        self._change(write)
        return True

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _restored(self, exported: bytes) -> TrustProjection:
        return self.restore(
            exported,
            self.root,
            attenuation_percent=self._percent,
            cap=self._cap,
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
        revocations: RevocationList | None = None,
    ) -> TrustProjection:
        """Return what `export_state` wrote. Damage is an error, never an empty graph; signatures are not kept.

        Args:
            exported: The bytes.
            root: Whose view it must be.
            at_least_generation: The `generation` that is known from elsewhere: an older state is refused.
            attenuation_percent: As for a new one.
            cap: As for a new one.
            revocations: As for a new one.

        Raises:
            ArgumentInvalid: an argument of another type, range or mesh.
            StateStale: older than it may be.
            StateVersionUnknown: written by a newer release.
            StateMalformed: damaged, of another root, or fields that contradict one another.
        """

        def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> TrustProjection:
            projection = cls(mesh, root, attenuation_percent=attenuation_percent, cap=cap)
            _, issuers = fields
            edges = {
                issuer: {subject: (weight, ends_ms) for subject, weight, ends_ms in found} for issuer, found in issuers
            }
            require(all(issuer not in found for issuer, found in edges.items()))
            projection._replace(edges)
            projection._generation = generation
            require(projection.export_state() == exported)  # which has the root in it
            return projection

        cls("m", root, attenuation_percent=attenuation_percent, cap=cap)  # a wrong argument is not a damaged state
        restored = restore_fields(
            StateKind.PROJECTION, (_PROJECTION,), exported, build, at_least_generation=at_least_generation
        )
        restored._revocations = revocations_argument(revocations, restored.mesh)
        return restored
