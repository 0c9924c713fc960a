"""Where agents are kept: opened, and every step of theirs written before anything leaves (docs/protocol.md, section 7.2)."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from attrs import field, frozen

from agentmesh.agent import Agent
from agentmesh.engine.core import Clock, Core, read_clock, system_clock_ms
from agentmesh.engine.export import restore_agent
from agentmesh.engine.guard import check_flags, check_given, check_policy_kept, core_of, working_entropy
from agentmesh.engine.rollback import roll_back
from agentmesh.engine.rows import RowChanges, rows_of, state_of
from agentmesh.engine.state import AgentState, Journal, RowKind
from agentmesh.envelope import mesh_argument
from agentmesh.errors import ArgumentInvalid, StateMalformed, StoreBroken
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.policy import Policy, check_policy_mesh
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import Redacted
from agentmesh.store.counter import Counter
from agentmesh.store.keeping import Keeping
from agentmesh.store.rows import Backend, Rows
from agentmesh.store.sealing import Key, Sealer, key_argument
from agentmesh.store.trail import Trail

NAME_MAX_BYTES: Final = 128
