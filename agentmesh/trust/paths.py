"""TrustPaths: who trusts whom how far, as one root sees it; what a graph of statements and a projection share.

The root's own edges are taken as they are. Beyond them a path has two hops: root -> voucher -> target. It is worth its
weaker edge, attenuated and capped below the threshold for direct trust, and of several paths the best counts. It is a
maximum and no sum: any number of fresh identities, cycles and self loops add nothing, since each path needs an edge
that the root itself signed.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from agentmesh.envelope import mesh_argument
from agentmesh.identity import IdentityKey
from agentmesh.limits import SCORE_MAX
from agentmesh.primitives.arguments import uint_argument
from agentmesh.trust.arguments import key_argument, raw_key
from agentmesh.trust.revocation import RevocationList, revocations_argument
from agentmesh.trust.steps import Stepwise

DIRECT_THRESHOLD: Final = 500  # from here on a score is direct trust; a transitive one stays below it by default

_Edge = TypeVar("_Edge", bound=tuple[Any, ...])  # a weight, and what its kind of graph knows besides


class TrustPaths(Stepwise, Generic[_Edge]):
    """Edges between identities, and what follows from them for whoever is asked about.

    Attributes:
        mesh: The mesh of the policy that decides by them.
        root: Whose view it is: the agent's own identity, as a rule.
        generation: How often they changed. Keep it elsewhere too, to notice an older state that was put back.
    """

    __slots__ = ("_by_subject", "_cap", "_edges", "_percent", "_revocations", "_total", "mesh", "root")

    def __init__(
        self,
        mesh: str,
        root: IdentityKey,
        *,
        attenuation_percent: int = 50,
        cap: int = DIRECT_THRESHOLD - 1,
        revocations: RevocationList | None = None,
    ) -> None:
        """Begin without an edge.

        Args:
            mesh: The mesh's name.
            root: Whose view it is.
            attenuation_percent: What a path of two hops keeps of its weaker edge, 0 to 100.
            cap: The most that a path of two hops can be worth.
            revocations: Whoever is revoked there vouches for nobody.

        Raises:
            ArgumentInvalid: an argument of another type, range or mesh.
        """
        super().__init__()
        self.mesh: str = mesh_argument("mesh", mesh)
        self.root: IdentityKey = key_argument("root", root)
        self._percent = uint_argument("attenuation_percent", attenuation_percent, 100)
        self._cap = uint_argument("cap", cap, SCORE_MAX)
        self._revocations = revocations_argument(revocations, self.mesh)
        self._edges: dict[bytes, dict[bytes, _Edge]] = {root.raw: {}}  # the root's are always there
        self._by_subject: dict[bytes, set[bytes]] = {}  # issuers of edges; of none that was withdrawn
        self._total = 0

    def __len__(self) -> int:
        self._ready()
        return self._total

    def direct(self, target: IdentityKey | bytes) -> int:
        """Return the weight of the root's own edge to this identity, 0 where there is none.

        Raises:
            ArgumentInvalid: neither an `IdentityKey` nor 32 bytes.
        """
        raw = raw_key(target)
        self._ready()
        edge = self._edges[self.root.raw].get(raw)
        return 0 if edge is None else int(edge[0])

    def derived(self, target: IdentityKey | bytes) -> int:
        """Return what the best path of two hops from the root to this identity is worth, 0 where there is none.

        The cost grows with the fewer of the root's edges and the target's, not with the graph.

        Raises:
            ArgumentInvalid: neither an `IdentityKey` nor 32 bytes.
        """
        raw, own = raw_key(target), self.root.raw
        self._ready()
        if raw == own:
            return 0
        best = 0
        with self._lock:
            self._finish()
            trusted, vouchers = self._edges[own], self._by_subject.get(raw, set())
            for voucher in trusted if len(trusted) < len(vouchers) else vouchers:
                first = trusted.get(voucher)
                if first is None or first[0] <= best or voucher not in vouchers:
                    continue
                weight = min(first[0], self._edges[voucher][raw][0])
                if weight > best and self._may_count(voucher, raw):
                    best = weight
        return min(best * self._percent // 100, self._cap)

    def score(self, target: IdentityKey | bytes) -> int:
        """Return the larger of `direct` and `derived`.

        Raises:
            ArgumentInvalid: neither an `IdentityKey` nor 32 bytes.
        """
        return max(self.direct(target), self.derived(target))

    def _may_count(self, issuer: bytes, _subject: bytes) -> bool:
        return self._revocations is None or not self._revocations.is_revoked(issuer)

    def _fields(self) -> list[Any]:
        issuers = [
            [issuer, [[subject, *edge] for subject, edge in sorted(edges.items())]]
            for issuer, edges in sorted(self._edges.items())
            if edges
        ]
        return [self.root.raw, issuers]
