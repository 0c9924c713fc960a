"""One agent of a store, opened: its rows, what seals them, and the state that they make (section 7.2).

Nothing is written before all that is there has been opened and found whole. Which protocol an agent speaks is its form:
the rows that its state makes, and what makes an agent of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, final

from attrs import frozen

from agentmesh.agt import rows as agt_rows
from agentmesh.agt.rows import AgtRowKind
from agentmesh.agt.state import AgtState
from agentmesh.agt.upkeep import roll_back as agt_roll_back
from agentmesh.agt_identity import AgtIdentity
from agentmesh.audit.journal import AuditJournal
from agentmesh.audit.log import AuditLog
from agentmesh.engine.export import restore_agent
from agentmesh.engine.guard import changing, check_policy_kept
from agentmesh.engine.hooks import Clock, Hooks, read_clock
from agentmesh.engine.rollback import roll_back
from agentmesh.engine.rows import rows_of, state_of
from agentmesh.engine.state import AgentState, Journal, RowKind, Step
from agentmesh.errors import ArgumentInvalid, StoreBroken
from agentmesh.events import Events
from agentmesh.identity import Identity
from agentmesh.policy import Policy, check_policy_mesh
from agentmesh.primitives.arguments import BytesLike, bytes_argument, text_argument
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.primitives.keys import Redacted
from agentmesh.store.counter import Counter
from agentmesh.store.data_key import StoreKey
from agentmesh.store.keeping import Keeping
from agentmesh.store.log_rows import StoreLog
from agentmesh.store.rows import NAME_MAX_BYTES, Backend, Name, Rows
from agentmesh.store.sealing import HEAD, Sealer
from agentmesh.store.trail import Trail

_Agent = TypeVar("_Agent")
_GENERATION: Final = (RowKind.GENERATION, b"")


@frozen
class Form:
    """How agents of one protocol stand in a store.

    Attributes:
        kinds: The kinds of rows that their state makes.
        own: The name of the row that each has, once.
        identity: What their identities are.
        new: Makes the state of a new one, of its identity and mesh.
        restore: Makes the state of an export, at a time.
        state_of: Makes the state of its rows.
        rows_of: Makes the rows of a state.
        roll_back: The step that begins anew, of a core at a time.
    """

    kinds: frozenset[str]
    own: Name
    identity: type[Any]
    new: Callable[[Any, str], Any]
    restore: Callable[[bytes, int], Any]
    state_of: Callable[[Any], Any]
    rows_of: Callable[[Any], Any]
    roll_back: Callable[[Any, int], Step[Events]]


NATIVE: Final = Form(
    frozenset(map(str, RowKind)),
    (RowKind.AGENT, b""),
    Identity,
    AgentState,
    restore_agent,
    state_of,
    rows_of,
    roll_back,
)
AGT: Final = Form(
    frozenset(map(str, (*AgtRowKind, RowKind.INBOX, RowKind.GENERATION))),
    (AgtRowKind.AGENT, b""),
    AgtIdentity,
    AgtState,
    lambda exported, _now_ms: agt_rows.restore_agent(exported, 0),
    agt_rows.state_of,
    agt_rows.rows_of,
    agt_roll_back,
)
_FORMS: Final = (NATIVE, AGT)
_STATE_KINDS: Final = NATIVE.kinds | AGT.kinds


def form_of(rows: Mapping[Name, bytes]) -> Form:
    """Return the form of an agent's state by its rows; where none has its own row, a native agent's is missing."""
    return next((form for form in _FORMS if form.own in rows), NATIVE)


def state_rows(opened: Mapping[Name, bytes], generation: int) -> tuple[dict[Name, bytes], dict[Name, bytes]]:
    """Return (the rows of an agent's state, the others) of what was opened."""
    rows: dict[Name, bytes] = {}
    others: dict[Name, bytes] = {}
    for name, data in opened.items():
        (rows if name[0] in _STATE_KINDS else others)[name] = data
    if rows:
        rows[_GENERATION] = generation.to_bytes(8, "big")
    return rows, others


def entries_from(sealer: Sealer, rows: Rows) -> Callable[[int], Iterator[tuple[bytes, bytes]]]:
    """Return what reads the entries of the log in these rows, from a number on."""

    def read(first: int) -> Iterator[tuple[bytes, bytes]]:
        opened = sealer.open_log(rows.read(log=True, first=first), first)
        return ((number.to_bytes(8, "big"), entry) for number, entry in opened)

    return read


def is_new(rows: Rows) -> bool:
    """Say whether nothing was written yet: whoever made the agent did not come to its first write.

    Raises:
        StoreBroken: no write is counted, and there are rows.
    """
    if rows.commit_number:
        return False
    if any(True for log in (False, True) for _ in rows.read(log=log)):
        raise StoreBroken(HEAD)
    return True


@final
class Beginning(Redacted):
    """What an agent is where the store holds none, and what the one that it holds must be."""

    __slots__ = ("form", "identity", "mesh", "state")

    def __init__(self, form: Form, mesh: str, identity: Any, exported: BytesLike | None, clock: Clock) -> None:
        """Take up what a caller gave.

        Raises:
            ArgumentInvalid: not an identity, not an export, or both that contradict one another or the mesh.
            StateMalformed, StateVersionUnknown: as for `Agent.restore`.
        """
        if identity is not None and not isinstance(identity, form.identity):
            raise ArgumentInvalid("identity", "not one of this protocol's identities")
        self.form: Form = form
        self.mesh: str = mesh
        self.identity: Any = identity
        self.state: Any = None
        if exported is not None:
            self.state = form.restore(bytes_argument("exported", exported), read_clock(clock))
            self.check(self.state)

    def check(self, state: Any) -> None:
        """Refuse an agent that is not the one which the caller means.

        Raises:
            ArgumentInvalid: it is of another mesh, or of another identity.
        """
        if state.mesh != self.mesh:
            raise ArgumentInvalid("mesh", "another than that of the agent")
        if self.identity is not None and self.identity.key != state.identity.key:
            raise ArgumentInvalid("identity", "another than that of the agent")

    def new(self, entropy: CheckedEntropy) -> Any:
        """Return the state that a new agent begins with."""
        if self.state is not None:
            return self.state
        form = self.form
        return form.new(form.identity.generate(entropy) if self.identity is None else self.identity, self.mesh)


@final
class Opened(Redacted):
    """An agent's rows, open for writing.

    Attributes:
        rows: The rows.
        sealer: What seals them.
        state: The agent's state.
        log: The audit log, where it is kept in the store.
    """

    __slots__ = ("_form", "_had_policy", "_is_new", "_others", "log", "rows", "sealer", "state")

    def __init__(
        self,
        backend: Backend,
        name: str,
        key: StoreKey,
        entropy: CheckedEntropy,
        beginning: Beginning,
        policy: Policy | None,
    ) -> None:
        """Open the rows of a name, and read all of them.

        Raises:
            ArgumentInvalid: it is another agent, it had a policy and is to have none, or there is one already.
            StoreError: it is open elsewhere, cannot be read, is damaged, or sealed under another key.
        """
        check_policy_mesh(policy, beginning.mesh)
        rows = backend.open_rows(text_argument("name", name, 1, NAME_MAX_BYTES), create=True)
        assert rows is not None  # it was to be made
        self.rows: Rows = rows
        self._form = beginning.form
        self._others: dict[Name, bytes] = {}
        self.log: AuditLog | None = None
        try:
            number = rows.commit_number
            self._is_new = is_new(rows)
            if self._is_new:
                self.sealer: Sealer = Sealer.new(name, key, entropy=entropy)
                self.state: Any = beginning.new(entropy)
            else:
                self.sealer, opened, generation = Sealer.open(name, key, rows.read(), number, entropy=entropy)
                stated, self._others = state_rows(opened, generation)
                if not stated:
                    raise ArgumentInvalid("name", "that of states, which are no agent")
                if form_of(stated) is not self._form:
                    raise ArgumentInvalid("name", "that of an agent of another protocol")
                self.state = self._form.state_of(stated)
                beginning.check(self.state)
                if beginning.state is not None:
                    raise ArgumentInvalid("exported", "given, and the store has an agent of this name")
            check_policy_kept(policy, self.state)
            self._had_policy = self.state.has_policy
        except BaseException:
            rows.close()
            raise

    def _write_first(self) -> None:
        """Write a new agent whole; or the agent's own row, where it has a policy now and had none, or the reverse."""
        if not self._is_new and self.state.has_policy is self._had_policy:
            return
        rows = self._form.rows_of(self.state)
        generation = int.from_bytes(rows.pop(_GENERATION), "big")
        written: dict[Name, bytes | None] = dict(rows.items())
        if not self._is_new:
            written = {self._form.own: rows[self._form.own]}
        number = self.rows.commit_number + 1
        put, removed = self.sealer.seal_rows(written, number, generation)
        self.rows.write(number, put, removed)
        self.sealer.written()

    def agent(
        self,
        make: Callable[[Journal], _Agent],
        core: Hooks,
        journal: Journal | None,
        counter: Counter | None,
        *,
        keep_log: bool,
    ) -> _Agent:
        """Return the agent that `make` makes, kept in these rows; it begins anew where the counter knows a later state.

        Raises:
            StoreError: the rows, the log or the counter do not answer, or are not what was written.
        """
        state, known = self.state, 0
        if counter is not None:  # before anything is written, because it may not answer
            known = counter.read()
            counter.advance(max(state.generation, known))
        self._write_first()
        if keep_log:
            self.log = AuditLog(StoreLog(entries_from(self.sealer, self.rows), self._others))
            journal = AuditJournal(self.log)
        trail = Trail(journal, self._others)
        self._others = {}
        trail.kept()
        is_older = state.generation < known
        state.generation = max(state.generation, known)  # behind the first write: until it begins anew it is the older
        keeping = Keeping(self.rows, self.sealer, trail, counter, generation=state.generation)
        agent = make(keeping)
        if is_older:
            _begin_anew(agent, core, self._form)
        return agent

    def close(self) -> None:
        """Let go of the rows."""
        self.rows.close()


@changing
def _begin_anew(agent: Any, core: Hooks, form: Form) -> Events:
    events: Events = agent._seam.run(lambda now_ms: form.roll_back(core, now_ms))
    return events
