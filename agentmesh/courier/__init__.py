"""Run an agent over a broker, with asyncio: a `Transport` of a few lines, and the `Courier` that does the rest.

What an application over a network writes anew each time is here once: what waits in the outbox is offered until the
peer has it, what comes is acknowledged once it is durable, bundles stay on the shelf, and whatever fails is done again
after a pause that grows. Nothing else in this library waits for anything (docs/how-to/broker.md).
"""

from agentmesh.courier.courier import Courier
from agentmesh.courier.pauses import Pauses
from agentmesh.courier.transport import Acknowledge, Transport

__all__ = ["Acknowledge", "Courier", "Pauses", "Transport"]
