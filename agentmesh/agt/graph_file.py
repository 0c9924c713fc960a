"""The file of a kars TrustGraph projection (graph.json): what of it counts, with every signature verified again.

kars verifies when it writes the file. Whoever reads it and trusts it trusts whoever can write where it is mounted; so
here it is only a list of claims. What one entry is worth, no other entry decides: an entry that is wrong is dropped and
counted, since edges only ever give trust. What is no such file at all is refused whole.

Beyond what kars drops, this drops keys that fail strict validation, edges of an identity to itself, edges from the
future, edges past their end, and all but the newest of several edges of the same two identities. An older one does not
come back when the newest has ended.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from attrs import field, frozen

from agentmesh.agt.encoding import read_object, unbase64, url64
from agentmesh.errors import BadIdentityKey, BadSignature, Malformed
from agentmesh.identity import IdentityKey
from agentmesh.limits import CLOCK_TOLERANCE_MS, SCORE_MAX, UINT_MAX
from agentmesh.primitives._labels import KARS_EDGE

# A file costs its reader one validation a vertex and one signature check an edge at most, 0.15 ms each: two seconds.
GRAPH_FILE_MAX_BYTES: Final = 8 << 20
VERTICES_MAX: Final = 5000
EDGES_MAX: Final = 10_000
_BRACKETS_MAX: Final = VERTICES_MAX + EDGES_MAX + 1000
_COMMAS_MAX: Final = 1 << 18
# An edge signs its ids between line feeds: an id that held one could be read as another id and what follows it.
_ID_SHAPE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_SECONDS_MAX: Final = UINT_MAX // 1000
NEVER: Final = UINT_MAX  # the end of an edge that has none

Edges = dict[bytes, dict[bytes, tuple[int, int]]]
"""By issuer and subject, 32 bytes each: the weight, and when it ends, milliseconds since the epoch."""


class Dropped(StrEnum):
    """Why an entry of the file does not count, in a fixed word."""

    VERTEX_FORM = "vertex-form"  # no object, or an id that is none
    VERTEX_TWICE = "vertex-twice"  # the id stood before: the first stands, or falls
    VERTEX_ALGORITHM = "vertex-algorithm"
    VERTEX_KEY = "vertex-key"  # not 32 bytes, or no key that is acceptable
    EDGE_FORM = "edge-form"  # no object, or a field of another type
    EDGE_ENDS = "edge-ends"  # from or to somebody who is no vertex
    EDGE_SELF = "edge-self"
    EDGE_SCORE = "edge-score"
    EDGE_TIMES = "edge-times"  # issued after its end
    EDGE_EARLY = "edge-early"  # issued in the future
    EDGE_SIGNATURE = "edge-signature"
    EDGE_REPLACED = "edge-replaced"  # there is a newer one of the same two
    EDGE_ENDED = "edge-ended"


def _read_only(counts: Mapping[Dropped, int]) -> Mapping[Dropped, int]:
    return MappingProxyType(dict(counts))


@frozen(kw_only=True)
class ProjectionReport:
    """What was taken of a file, and what was not. Numbers and fixed words: nothing that the file's writer chose.

    Attributes:
        vertices: How many vertices stand.
        edges: How many edges count.
        dropped: What was dropped, by why.
        dropped_before: How many edges kars says that it left out itself.
        has_root: The root is one of the vertices. Where it is not, nobody is trusted.
        changed: It is another graph than the one before.
    """

    vertices: int
    edges: int
    dropped: Mapping[Dropped, int] = field(converter=_read_only)
    dropped_before: int
    has_root: bool
    changed: bool


@frozen(kw_only=True)
class GraphFile:
    """A file that was read.

    Attributes:
        keys: The vertices' keys, by id.
        edges: What counts.
        dropped: What does not.
        dropped_before: What kars left out, as it says.
    """

    keys: Mapping[str, IdentityKey] = field(repr=False)
    edges: Edges = field(repr=False)
    dropped: Mapping[Dropped, int]
    dropped_before: int


@frozen(kw_only=True)
class _Edge:
    issuer: IdentityKey
    subject: IdentityKey
    weight: int
    issued_at: int
    ends_ms: int
    text: bytes
    signature: bytes


def read_graph_file(data: bytes, *, now_ms: int) -> GraphFile:
    """Return what counts in a file, now.

    Raises:
        TooLarge: more than `GRAPH_FILE_MAX_BYTES`; nothing was parsed.
        Malformed: not JSON as `read_object` takes it, without the two lists, with more than `VERTICES_MAX` vertices or
            `EDGES_MAX` edges, or with a count of edges that contradicts them.
    """
    value = read_object(data, GRAPH_FILE_MAX_BYTES, max_brackets=_BRACKETS_MAX, max_commas=_COMMAS_MAX)
    vertices, edges = _list(value, "vertices", VERTICES_MAX), _list(value, "edges", EDGES_MAX)
    said = value.get("inputEdgeCount", len(edges))
    if type(said) is not int or not len(edges) <= said <= UINT_MAX:
        raise Malformed
    dropped: Counter[Dropped] = Counter()
    keys = _keys(vertices, dropped)
    newest = _newest(edges, keys, now_ms, dropped)
    found: Edges = {}
    for (issuer, subject), edge in newest.items():
        if now_ms > edge.ends_ms:
            dropped[Dropped.EDGE_ENDED] += 1
        else:
            found.setdefault(issuer, {})[subject] = (edge.weight, edge.ends_ms)
    return GraphFile(keys=keys, edges=found, dropped=dropped, dropped_before=said - len(edges))


def _list(value: dict[str, Any], name: str, most: int) -> list[Any]:
    found = value.get(name)
    if type(found) is not list or len(found) > most:
        raise Malformed
    return found


# --- vertices --------------------------------------------------------------------------------------------------------


def _keys(vertices: list[Any], dropped: Counter[Dropped]) -> dict[str, IdentityKey]:
    keys: dict[str, IdentityKey] = {}
    seen: set[str] = set()
    for item in vertices:
        name = item.get("id") if type(item) is dict else None
        if type(name) is not str or _ID_SHAPE.fullmatch(name) is None:
            dropped[Dropped.VERTEX_FORM] += 1
        elif name in seen:
            dropped[Dropped.VERTEX_TWICE] += 1
        elif item.get("alg") != "EdDSA":
            dropped[Dropped.VERTEX_ALGORITHM] += 1
        elif (key := _key(item.get("publicKeyB64u"))) is None:
            dropped[Dropped.VERTEX_KEY] += 1
        else:
            keys[name] = key
        if type(name) is str:
            seen.add(name)
    return keys


def _key(text: object) -> IdentityKey | None:
    raw = _bytes(text, 32)
    try:
        return None if raw is None else IdentityKey(raw)
    except BadIdentityKey:
        return None


def _bytes(text: object, size: int) -> bytes | None:
    """Return the bytes of a base64url text without padding, in its one form."""
    try:
        data = unbase64(text, size)
        return data if url64(data) == text else None
    except Malformed:
        return None


# --- edges -----------------------------------------------------------------------------------------------------------


def _newest(
    edges: list[Any], keys: dict[str, IdentityKey], now_ms: int, dropped: Counter[Dropped]
) -> dict[tuple[bytes, bytes], _Edge]:
    """Return the newest genuine edge of each two identities; of equally new ones that which gives less."""
    newest: dict[tuple[bytes, bytes], _Edge] = {}
    for item in edges:
        edge = _edge(item, keys, now_ms)
        if isinstance(edge, Dropped):
            dropped[edge] += 1
            continue
        pair = edge.issuer.raw, edge.subject.raw
        other = newest.get(pair)
        if other is not None:
            dropped[Dropped.EDGE_REPLACED] += 1
        if other is None or _rank(edge) > _rank(other):
            newest[pair] = edge
    return newest


def _rank(edge: _Edge) -> tuple[int, int, int]:
    return edge.issued_at, -edge.weight, -edge.ends_ms


def _edge(item: object, keys: dict[str, IdentityKey], now_ms: int) -> _Edge | Dropped:
    edge = _claimed(item, keys)
    if isinstance(edge, Dropped):
        return edge
    if edge.issuer == edge.subject:
        return Dropped.EDGE_SELF
    if not 0 <= edge.weight <= SCORE_MAX:
        return Dropped.EDGE_SCORE
    if edge.issued_at * 1000 > edge.ends_ms:
        return Dropped.EDGE_TIMES
    if edge.issued_at * 1000 > now_ms + CLOCK_TOLERANCE_MS:
        return Dropped.EDGE_EARLY
    try:
        edge.issuer.verify(KARS_EDGE, edge.text, edge.signature)
        return edge
    except BadSignature:
        return Dropped.EDGE_SIGNATURE


def _claimed(item: object, keys: dict[str, IdentityKey]) -> _Edge | Dropped:
    """Return what an entry says, nothing of which is verified."""
    if type(item) is not dict:
        return Dropped.EDGE_FORM
    source, target, score = item.get("from"), item.get("to"), item.get("score")
    issued_at, not_after = item.get("issuedAt"), item.get("notAfter")
    times = (issued_at,) if not_after is None else (issued_at, not_after)
    if type(source) is not str or type(target) is not str or type(score) is not int:
        return Dropped.EDGE_FORM
    if not all(type(time) is int and 0 <= time <= _SECONDS_MAX for time in times):
        return Dropped.EDGE_FORM
    issuer, subject = keys.get(source), keys.get(target)
    if issuer is None or subject is None:
        return Dropped.EDGE_ENDS
    signature = _bytes(item.get("signature"), 64)
    if signature is None:
        return Dropped.EDGE_SIGNATURE
    assert type(issued_at) is int
    until = "" if not_after is None else not_after
    return _Edge(
        issuer=issuer,
        subject=subject,
        weight=score,
        issued_at=issued_at,
        ends_ms=NEVER if not_after is None else not_after * 1000,
        text=f"{source}\n{target}\n{score}\n{issued_at}\n{until}\n".encode(),
        signature=signature,
    )
