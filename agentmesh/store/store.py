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


@frozen(kw_only=True)
class AgentInfo:
    """What can be said of an agent in a store without its key.

    Attributes:
        name: Its name in the store.
        commits: How many writes it has seen.
        rows: How many rows of each kind there are, by kind.
        size_bytes: What its rows hold together, sealed.
    """

    name: str
    commits: int
    rows: dict[str, int]
    size_bytes: int


class Store(Redacted):
    """Agents in rows: of a file, a database, or memory. Use it in a with statement, or close it.

    One process has an agent open at a time. `SQLiteStore`, `PostgresStore` and `MemoryStore` are of this class; so is
    one of your own, over a `Backend`.
    """

    def __init__(self, backend: Backend, key: KeyLike) -> None:
        """Keep agents in `backend`, sealed under `key`.

        Args:
            backend: Where rows are kept.
            key: 32 bytes or a `StateKey`; or a passphrase, a text; or what returns 32 bytes when it is called, as a
                key service does. It is asked for each agent that is opened.

        Raises:
            ArgumentInvalid: no such key. Its traceback does not hold it.
        """
        self.backend: Backend = backend
        self._key = key_argument(key)
        self._open: dict[str, Rows] = {}

    # --- opening -----------------------------------------------------------------------------------------------------

    @frameless
    def open_agent(
        self,
        mesh: str,
        *,
        name: str = "agent",
        identity: Identity | None = None,
        exported: BytesLike | None = None,
        clock: Clock = system_clock_ms,
        entropy: Entropy | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | None = None,
        counter: Counter | None = None,
        acknowledge: bool = True,
        in_order: bool = False,
    ) -> Agent:
        """Return the agent that is there under this name, or a new one. Section 7.2.

        Each call of it that changes something is durable before it returns; what it makes waits in its outbox, what it
        hands up in its inbox.

        Args:
            mesh: The mesh's name, as for `Agent.create`; that of the agent which is there.
            name: What the agent is called in this store, 1 to 128 printable characters of ASCII.
            identity: Who a new agent is; a fresh identity if `None`. The one that is there must be the same.
            exported: What a new agent begins with, as `Agent.export_state` returned it.
            clock: As for `Agent.create`, and so are `entropy`, `policy` and `limits`.
            entropy: See there.
            policy: See there. Must be given where the agent had one of its own, as for `Agent.restore`.
            limits: See there.
            journal: Its audit trail: an `AuditJournal`, over a log in this store or elsewhere.
            counter: A number outside the store, which tells an older copy of it.
            acknowledge: Tell peers what was opened, so that their outboxes empty.
            in_order: Hand up data messages in the order of their indices.

        Raises:
            ArgumentInvalid: a bad argument, or one that contradicts the agent which is there.
            StoreLocked: the agent is open already; it says by whom.
            StoreKeyWrong: the key does not open it.
            StoreBroken, StateMalformed: what is there is not what was written; nothing was altered.
            StateVersionUnknown: written by a newer release.
            StoreFailed: the store did not answer.
            BackendUnfit, RandomnessFailed: as for `Agent.create`.
        """
        mesh, name = mesh_argument("mesh", mesh), name_argument(name)
        if identity is not None and not isinstance(identity, Identity):
            raise ArgumentInvalid("identity", "not an Identity")
        check_flags(acknowledge=acknowledge, in_order=in_order)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal, counter=counter)
        check_policy_mesh(policy, mesh)
        source = working_entropy(entropy)
        begin = None if exported is None else restore_agent(bytes_argument("exported", exported), read_clock(clock))
        rows = self.backend.open_rows(name, create=True)
        assert rows is not None  # it was to be made
        try:
            opened = _Opened(rows, self._key, name, CheckedEntropy(source))
            state = opened.state
            if state is None:
                state = _new_state(mesh, identity, begin, source)
            else:
                _check_same(state, mesh, identity, begin)
            check_policy_kept(policy, state)
            had_policy = state.has_policy
            core = core_of(
                state,
                clock,
                source,
                policy,
                limits,
                recording=journal is not None,
                acknowledge=acknowledge,
                reliable=True,
                in_order=in_order,
            )
            opened.write_first(state, changed=state.has_policy is not had_policy)
            trail = Trail(journal, opened.records)
            trail.kept()
            known = 0 if counter is None else counter.read()
            is_older = state.generation < known
            state.generation = max(state.generation, known)
            keeping = Keeping(rows, opened.sealer, trail, counter, generation=state.generation)
            agent = Agent(core, keeping)
            if is_older:
                agent._seam.run_outside(lambda now_ms: roll_back(core, now_ms))
            elif counter is not None:
                counter.advance(state.generation)
        except BaseException:
            rows.close()
            raise
        self._open[name] = rows
        return agent
