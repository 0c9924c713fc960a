"""Where an envelope goes: to the session that it is of, or to what its kind asks for (docs/protocol.md, section 4)."""

from __future__ import annotations

from agentmesh.engine import conversing, knocking, verdicts
from agentmesh.engine.core import Core
from agentmesh.engine.state import Step
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.events import Events


def receive(core: Core, asked: tuple[bytes, bool], now_ms: int) -> Step[Events]:
    """Receive an envelope of any kind; what a known session is of is known by its first bytes.

    Args:
        core: The agent's.
        asked: The envelope, and whether the message is to be disclosable.
        now_ms: The agent's clock.
    """
    envelope, disclosable = asked
    outer = OuterEnvelope(envelope, core.limits)
    conversed = conversing.receive_by_prefix(core, outer, now_ms, disclosable=disclosable)
    if conversed is not None:
        return conversed
    kind = core.route(outer)
    if kind is Kind.KNOCK:
        return verdicts.receive_knock(core, outer, now_ms)
    if kind is Kind.REJECT:
        return knocking.receive_reject(core, outer, now_ms)
    return conversing.receive_message(core, outer, now_ms, disclosable=disclosable)
