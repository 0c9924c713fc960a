"""What keeps a store in order: what is in it, whether all of it opens, and other keys (section 7.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen

from agentmesh.audit.log import AuditLog
from agentmesh.errors import ArgumentInvalid, StoreKeyWrong
from agentmesh.primitives.arguments import text_argument
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.store.data_key import StoreKey, passphrase_costs
from agentmesh.store.log_rows import StoreLog
from agentmesh.store.opened import entries_from, form_of, is_new, state_rows
from agentmesh.store.rows import LOG, NAME_MAX_BYTES, NUMBER_BYTES, Backend, Name, Rows
from agentmesh.store.sealing import KEY, Sealer


@frozen(kw_only=True)
class AgentInfo:
    """What can be said of an agent in a store: its DID with the store's key, the rest without.

    Attributes:
        name: Its name in the store.
        commits: How many writes it has seen.
        rows: How many rows there are, by kind.
        size_bytes: What they hold together, sealed.
        passphrase_costs: (passes, KiB) that Argon2id takes, where a passphrase seals them; `None` where a key does.
        did: Its DID, where `check` opened its rows; `None` where nobody did, and where there is no agent in them.
    """

    name: str
    commits: int
    rows: dict[str, int]
    size_bytes: int
    passphrase_costs: tuple[int, int] | None
    did: str | None = None


def info(backend: Backend, name: str) -> AgentInfo:
    """Return what can be said of an agent without its key."""
    with _opened(backend, name) as rows:
        return _info(name, rows)


def check(backend: Backend, name: str, key: StoreKey) -> AgentInfo:
    """Open every row of an agent, and see that they agree."""
    with _opened(backend, name) as rows:
        if is_new(rows):
            return _info(name, rows)
        sealer, opened, generation = Sealer.open(name, key, rows.read(), rows.commit_number, entropy=SystemEntropy())
        state, others = state_rows(opened, generation)
        did: str | None = form_of(state).state_of(state).identity.did if state else None
        AuditLog(StoreLog(entries_from(sealer, rows), others)).verify()
        return _info(name, rows, did)


def rekey(backend: Backend, name: str, old: StoreKey, new: StoreKey) -> bool:
    """Seal every row of an agent anew; return whether that was still to do."""
    entropy = SystemEntropy()
    with _opened(backend, name) as rows:
        number = rows.commit_number
        if is_new(rows):
            return False
        try:
            Sealer.open(name, new, rows.read(), number, entropy=entropy)
        except StoreKeyWrong:
            pass
        else:
            return False
        sealer, opened, generation = Sealer.open(name, old, rows.read(), number, entropy=entropy)
        everything: dict[Name, bytes] = dict(opened)
        for entry_number, entry in sealer.open_log(rows.read(log=True)):
            everything[LOG, entry_number.to_bytes(NUMBER_BYTES, "big")] = entry
        _, put, removed = sealer.rekey(new, everything, number + 1, generation)
        rows.write(number + 1, put, removed)
        return True


@contextmanager
def _opened(backend: Backend, name: str) -> Iterator[Rows]:
    rows = backend.open_rows(text_argument("name", name, 1, NAME_MAX_BYTES), create=False)
    if rows is None:
        raise ArgumentInvalid("name", "no agent of this name is there")
    try:
        yield rows
    finally:
        rows.close()


def _info(name: str, rows: Rows, did: str | None = None) -> AgentInfo:
    kinds: Counter[str] = Counter()
    size_bytes = 0
    costs: tuple[int, int] | None = None
    for log in (False, True):
        for kind, key, sealed in rows.read(log=log):
            kinds[kind] += 1
            size_bytes += len(key) + len(sealed)
            if kind == KEY:
                costs = passphrase_costs(sealed)
    return AgentInfo(
        name=name,
        commits=rows.commit_number,
        rows=dict(sorted(kinds.items())),
        size_bytes=size_bytes,
        passphrase_costs=costs,
        did=did,
    )
