"""One message to many peers, each over its own session: one step, and so one commit (docs/protocol.md, section 6).

It is N messages, with nothing that N peers agree on. Whoever cannot be sent to does not keep it from the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from agentmesh.attachments.reference import Attachment
from agentmesh.engine import conversing
from agentmesh.engine.core import Core
from agentmesh.engine.delivery import check_outbox
from agentmesh.engine.records import Records
from agentmesh.engine.state import Change, Step
from agentmesh.errors import (
    ChainExhausted,
    ConditionNotMet,
    LocalError,
    NoSession,
    OutboxFull,
    PeerNotAllowed,
    SessionNotOpen,
)
from agentmesh.outgoing import Sealed, SentMany, SentTo


def send_many(
    core: Core,
    dids: tuple[str, ...],
    data: bytes,
    *,
    action: str | None,
    attachments: tuple[Attachment, ...],
    disclosable: bool,
    label: bytes,
    now_ms: int,
) -> Step[SentMany]:
    """Seal a data message to each of these peers, all of them different."""
    results: list[SentTo] = []
    changes: tuple[Change, ...] = ()
    trail: Records = ()
    afterwards: deque[Callable[[], object]] = deque()
    count = size = 0
    for did in dids:
        sealed = _try_send(core, did, data, action, attachments, disclosable, label, now_ms, count, size)
        if isinstance(sealed, LocalError):
            results.append(SentTo(did, None, sealed))
            if core.recording and isinstance(sealed, PeerNotAllowed):
                afterwards.append(partial(core.counted.count_unsent, sealed.code, sealed.did, now_ms=now_ms))
            continue
        results.append(SentTo(did, sealed.output, None))
        changes += sealed.changes
        trail += sealed.records
        count, size = count + 1, size + len(sealed.output.envelope)
        if sealed.afterwards is not None:
            afterwards.append(sealed.afterwards)
    return Step(
        changes,
        trail,
        SentMany(tuple(results)),
        afterwards=partial(_call_all, afterwards) if afterwards else None,
        label=label,
    )


def _try_send(
    core: Core,
    did: str,
    data: bytes,
    action: str | None,
    attachments: tuple[Attachment, ...],
    disclosable: bool,
    label: bytes,
    now_ms: int,
    count: int,
    size: int,
) -> Step[Sealed] | LocalError:
    try:
        step = conversing.send(core, (did, data, action, None, disclosable, label, attachments), now_ms)
        if core.reliable:
            check_outbox(core, len(step.output.envelope), count, size)
        return step
    except (ChainExhausted, ConditionNotMet, NoSession, OutboxFull, PeerNotAllowed, SessionNotOpen) as error:
        left = error
    left.__context__ = None
    return left.with_traceback(None)  # its frames hold the data


def _call_all(calls: deque[Callable[[], object]]) -> None:
    """Call each, and let go of it: what is broken off goes on here, and counts nobody's refusal anew."""
    while calls:
        calls[0]()
        calls.popleft()
