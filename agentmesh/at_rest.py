"""What a whole state looks like at rest: one frame, versioned, with a generation and a checksum (section 7.1).

    exported = msgpack [body, SHA-256(body)]
    body     = msgpack [kind, version, mesh, generation, fields]

Agents, ledgers, graphs, projections, revocations, successions and lists share it. The checksum finds damage, never
malice: whoever can alter the bytes can compute it. A store seals them, with its own key or with `seal_state`. The
generation finds an older state that was put back, where the last one is known from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, TypeVar

from attrs import frozen

from agentmesh.envelope import is_mesh_name
from agentmesh.errors import AgentMeshError, Malformed, StateMalformed, StateStale, StateVersionUnknown
from agentmesh.limits import MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.arguments import bytes_argument, uint_argument

VERSION: Final = 1
STATE_MAX_BYTES: Final = 1 << 32
MANY: Final = STATE_MAX_BYTES  # no state has more items than bytes: the byte cap is what bounds them
_BODY: Final = _wire.array(
    _wire.Text(1, 16), _wire.Uint(), _wire.Text(1, MESH_MAX_BYTES), _wire.Uint(), _wire.Bin(1, UINT_MAX)
)
_Restored = TypeVar("_Restored")


class StateKind(StrEnum):
    """What a state is of, so that none passes for another."""

    AGENT = "agent"
    AGT = "agt"
    LEDGER = "ledger"
    GRAPH = "graph"
    PROJECTION = "projection"
    REVOCATIONS = "revocations"
    SUCCESSIONS = "successions"
    LISTS = "lists"


def export_fields(kind: StateKind, mesh: str, generation: int, fields: list[Any], *, version: int = VERSION) -> bytes:
    """Return the canonical bytes of a state, whose fields are of this version of its kind."""
    body = _wire.encode([str(kind), version, mesh, generation, _wire.encode(fields)])
    return _wire.encode_pair(body, _crypto.sha256(body))


def restore_fields(
    kind: StateKind,
    layouts: tuple[_wire.Array, ...],
    exported: bytes,
    build: Callable[[bytes, str, int, list[Any]], _Restored],
    *,
    at_least_generation: int,
) -> _Restored:
    """Return what `build` makes of a state: of its bytes, its mesh, its generation and its fields.

    The layouts of its fields are given by version, from 1 on.

    Raises:
        ArgumentInvalid: not bytes, or `at_least_generation` is not a count.
        StateVersionUnknown: written by a newer release.
        StateStale: older than `at_least_generation`.
        StateMalformed: anything else; nothing was restored.
    """
    exported = bytes_argument("exported", exported)
    uint_argument("at_least_generation", at_least_generation)
    wrong: type[AgentMeshError] = StateMalformed
    try:
        body, checksum = _wire.decode_pair(exported, STATE_MAX_BYTES)
        if checksum != _crypto.sha256(body):
            raise Malformed
        name, version, mesh, generation, fields = _wire.decode(body, _BODY, STATE_MAX_BYTES)
        if name != kind or not is_mesh_name(mesh):
            raise Malformed
        if not VERSION <= version <= len(layouts):
            wrong = StateVersionUnknown
            raise Malformed
        if generation < at_least_generation:
            wrong = StateStale
            raise Malformed
        return build(exported, mesh, generation, _wire.decode(fields, layouts[version - VERSION], STATE_MAX_BYTES))
    except AgentMeshError:
        pass
    raise wrong


@frozen
class StateHead:
    """What an exported state says of itself before its fields: not secret, and not proved.

    Attributes:
        kind: What it is of.
        version: The version of its fields.
        mesh: The mesh.
        generation: How often it had changed.
    """

    kind: StateKind
    version: int
    mesh: str
    generation: int


def head_of(exported: bytes) -> StateHead:
    """Return what an exported state says of itself; its fields are not read. Section 7.1.

    Raises:
        ArgumentInvalid: not bytes.
        StateMalformed: no exported state, or a damaged one.
    """
    exported = bytes_argument("exported", exported)
    try:
        body, checksum = _wire.decode_pair(exported, STATE_MAX_BYTES)
        name, version, mesh, generation, _ = _wire.decode(body, _BODY, STATE_MAX_BYTES)
        if checksum == _crypto.sha256(body) and is_mesh_name(mesh) and name in tuple(StateKind):
            return StateHead(StateKind(name), version, mesh, generation)
    except AgentMeshError:
        pass
    raise StateMalformed


def require(condition: bool) -> None:
    """Refuse fields that contradict one another.

    Raises:
        Malformed: the condition does not hold.
    """
    if not condition:
        raise Malformed
