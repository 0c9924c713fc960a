"""Where agents are kept: opened, and each of their steps written before anything leaves (section 7.2)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from agentmesh.agent import Agent
from agentmesh.agt.agent import AgtAgent
from agentmesh.agt.agent import core_of as agt_core_of
from agentmesh.agt_identity import AgtIdentity
from agentmesh.audit.log import AuditLog
from agentmesh.engine.guard import check_flags, check_given, core_of, working_entropy
from agentmesh.engine.hooks import Clock, system_clock_ms
from agentmesh.engine.state import Journal
from agentmesh.envelope import mesh_argument
from agentmesh.errors import ArgumentInvalid
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.policy import Policy
from agentmesh.primitives.arguments import BytesLike, frameless, text_argument
from agentmesh.primitives.entropy import CheckedEntropy, Entropy
from agentmesh.primitives.keys import Redacted
from agentmesh.store import care
from agentmesh.store.care import AgentInfo
from agentmesh.store.counter import Counter
from agentmesh.store.data_key import StoreKey, key_argument
from agentmesh.store.opened import AGT, NATIVE, Beginning, Opened
from agentmesh.store.rows import NAME_MAX_BYTES, Backend
from agentmesh.store.states import States

_Agent = TypeVar("_Agent")


class Store(Redacted):
    """Agents in rows: of a file, a database, or memory. Use it in a with statement, or close it.

    One process has an agent open at a time. `SQLiteStore`, `PostgresStore` and `MemoryStore` are of this class; so is
    one of your own, over a `Backend`.
    """

    __slots__ = ("_key", "_open", "backend")

    @frameless
    def __init__(self, backend: Backend, key: StoreKey) -> None:
        """Keep agents in `backend`, sealed under `key`.

        Args:
            backend: Where rows are kept.
            key: 32 bytes or a `StateKey`; or a passphrase, a text; or what returns 32 bytes when it is called, as a
                key service does. It is asked for each agent that is opened.

        Raises:
            ArgumentInvalid: no such key. Its traceback does not hold it.
        """
        self.backend: Backend = backend
        self._key: StoreKey = key_argument(key)
        self._open: dict[str, Opened] = {}

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
        keep_log: bool = False,
        counter: Counter | None = None,
        acknowledge: bool = True,
        in_order: bool = False,
    ) -> Agent:
        """Return the agent that is there under this name, or a new one. Section 7.2.

        Each call of it is durable before it returns; what it makes waits in its outbox, what it hands up in its inbox.

        Args:
            mesh: The mesh's name, as for `Agent.create`; that of the agent which is there.
            name: What the agent is called in this store, 1 to 128 bytes.
            identity: Who a new agent is; a fresh identity if `None`. The one that is there must be the same.
            exported: What a new agent begins with, as `Agent.export_state` returned it.
            clock: As for `Agent.create`, and so are `entropy` and `limits`.
            entropy: See there.
            policy: As for `Agent.restore`.
            limits: See there.
            journal: Its audit trail, where that is not in this store: an `AuditJournal`, or a journal of your own.
            keep_log: Keep its audit log in this store, with each step: see `log`.
            counter: A number outside the store, which tells an older copy of it.
            acknowledge: Tell peers what was opened, so that their outboxes empty.
            in_order: Hand up data messages in the order of their indices.

        Raises:
            ArgumentInvalid: a bad argument, or one that contradicts the agent which is there.
            StoreLocked, StoreKeyWrong: the agent is open already, and by whom; the key does not open it.
            StoreBroken, StateMalformed: what is there is not what was written; nothing was altered.
            StoreFailed, StateVersionUnknown: the store did not answer; written by a newer release.
            BackendUnfit, RandomnessFailed: as for `Agent.create`.
        """
        check_flags(acknowledge=acknowledge, in_order=in_order, keep_log=keep_log)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal, counter=counter)
        if keep_log and journal is not None:
            raise ArgumentInvalid("journal", "given, and the log is to be kept in the store")
        source = CheckedEntropy(working_entropy(entropy))
        beginning = Beginning(NATIVE, mesh_argument("mesh", mesh), identity, exported, clock)
        recording = keep_log or journal is not None
        flags = {"recording": recording, "acknowledge": acknowledge, "reliable": True, "in_order": in_order}

        def made(opened: Opened) -> Agent:
            core = core_of(opened.state, clock, source, policy, limits, **flags)
            return opened.agent(lambda kept: Agent(core, kept), core, journal, counter, keep_log=keep_log)

        return self._opened(name, Opened(self.backend, name, self._key, source, beginning, policy), made)

    @frameless
    def open_agt_agent(
        self,
        mesh: str,
        *,
        name: str = "agt",
        identity: AgtIdentity | None = None,
        exported: BytesLike | None = None,
        clock: Clock = system_clock_ms,
        entropy: Entropy | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | None = None,
        keep_log: bool = False,
        counter: Counter | None = None,
    ) -> AgtAgent:
        """Return the agent of AGT's mesh that is there under this name, or a new one. Section 7.2; docs/agt.md.

        Its prekeys and conversations are there after a restart, and what it hands up stays in its inbox until it is
        done. What it makes is durable before it leaves, and is not kept: sent twice, a frame breaks its receiver.

        Args:
            mesh: What policy and audit records call the mesh; that of the agent which is there.
            name: What the agent is called in this store, 1 to 128 bytes.
            identity: Who a new agent is; a fresh identity if `None`. The one that is there must be the same.
            exported: What a new agent begins with, as `AgtAgent.export_state` returned it.
            clock: As for `AgtAgent.create`, and so are `entropy` and `limits`.
            entropy: See there.
            policy: As for `AgtAgent.restore`.
            limits: See there.
            journal: As for `open_agent`.
            keep_log: As for `open_agent`.
            counter: As for `open_agent`.

        Raises:
            ArgumentInvalid: a bad argument, or one that contradicts the agent which is there.
            StoreLocked, StoreKeyWrong: the agent is open already, and by whom; the key does not open it.
            StoreBroken, StateMalformed: what is there is not what was written; nothing was altered.
            StoreFailed, StateVersionUnknown: the store did not answer; written by a newer release.
            BackendUnfit, RandomnessFailed: as for `AgtAgent.create`.
        """
        check_flags(keep_log=keep_log)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal, counter=counter)
        if keep_log and journal is not None:
            raise ArgumentInvalid("journal", "given, and the log is to be kept in the store")
        source = CheckedEntropy(working_entropy(entropy))
        beginning = Beginning(AGT, mesh_argument("mesh", mesh), identity, exported, clock)
        recording = keep_log or journal is not None

        def made(opened: Opened) -> AgtAgent:
            core = agt_core_of(opened.state, clock, source, policy, limits, recording=recording, reliable=True)
            return opened.agent(lambda kept: AgtAgent(core, kept, clock), core, journal, counter, keep_log=keep_log)

        return self._opened(name, Opened(self.backend, name, self._key, source, beginning, policy), made)

    def _opened(self, name: str, opened: Opened, agent_of: Callable[[Opened], _Agent]) -> _Agent:
        try:
            agent = agent_of(opened)
        except BaseException:
            opened.close()
            raise
        self._open[name] = opened
        return agent

    @frameless
    def open_states(
        self, name: str = "trust", *, entropy: Entropy | None = None, counter: Counter | None = None
    ) -> States:
        """Return what keeps ledgers, graphs, revocations, successions and lists under this name. Section 7.2.

        They are rows of their own, beside those of agents, because a policy is there before the agent that it is for.

        Args:
            name: What they are called together in this store, 1 to 128 bytes; no agent's name.
            entropy: As for `Agent.create`.
            counter: A number outside the store, which tells an older copy of them: one that is older is refused.

        Raises:
            ArgumentInvalid: a bad argument, or the name of an agent.
            StateStale: the counter knows of later ones.
            StoreLocked: they are open already; it says by whom.
            StoreKeyWrong: the key does not open them.
            StoreBroken: what is there is not what was written; nothing was altered.
            StateVersionUnknown: written by a newer release.
            StoreFailed: the store did not answer.
            BackendUnfit, RandomnessFailed: as for `Agent.create`.
        """
        check_given(clock=system_clock_ms, limits=None, entropy=entropy, counter=counter)
        source = CheckedEntropy(working_entropy(entropy))
        name = text_argument("name", name, 1, NAME_MAX_BYTES)
        return States(self.backend, name, self._key, source, counter)

    def log(self, name: str = "agent") -> AuditLog:
        """Return the audit log of an agent that is open here, and keeps its log here.

        Raises:
            ArgumentInvalid: it is not.
        """
        opened = self._open.get(name)
        if opened is None or opened.log is None:
            raise ArgumentInvalid("name", "no agent that is open here and keeps its log here")
        return opened.log

    # --- care --------------------------------------------------------------------------------------------------------

    @frameless
    def names(self) -> tuple[str, ...]:
        """Return the names of the agents that are there, sorted.

        Raises:
            StoreError: the store did not answer.
        """
        return self.backend.names()

    @frameless
    def info(self, name: str = "agent") -> AgentInfo:
        """Return what can be said of an agent without its key.

        Raises:
            ArgumentInvalid: there is none of this name.
            StoreError: it is open already, or the store did not answer.
        """
        return care.info(self.backend, name)

    @frameless
    def check(self, name: str = "agent") -> AgentInfo:
        """Open every row of an agent, and its log, and see that they agree; nothing is written.

        Raises:
            ArgumentInvalid: there is none of this name.
            StoreBroken, LogBroken, StateMalformed: what is there is not what was written.
            StoreKeyWrong: the key does not open it.
            StoreError: it is open already, or the store did not answer.
        """
        return care.check(self.backend, name, self._key)

    @frameless
    def rekey(self, key: StoreKey) -> tuple[str, ...]:
        """Seal every row of every agent anew, under new keys of their own and this one; return whose were.

        Each agent is one write, so a crash leaves each under the old key or the new. Called again with the same key it
        goes on with those that are left. What was copied before opens under the old key for ever: delete old backups.

        Raises:
            ArgumentInvalid: no such key.
            StoreLocked: an agent is open; those before it are done.
            StoreKeyWrong: an agent opens under neither key.
            StoreError: the store did not answer, or is damaged.
        """
        key = key_argument(key)
        done = tuple(name for name in self.names() if care.rekey(self.backend, name, self._key, key))
        self._key = key
        return done

    # --- closing -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every agent that is open here, and the store. Closing twice is no error.

        What an agent is asked for afterwards raises `StoreClosed` where it would write.
        """
        self._open.clear()
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
