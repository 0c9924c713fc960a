"""What a broker must do for an agent: four methods, which anyone writes for a broker of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

Acknowledge = Callable[[], Awaitable[object]]


class Transport(Protocol):
    """A connection to a broker, for one agent. It is trusted with nothing but to try.

    Whatever a method raises means that the broker was not reached: the courier makes the call again later, or, where
    an application waits for it, raises `TransportFailed`. It is made on this same object: so a call whose connection is
    lost need not try again, but the next one has to connect. None may swallow errors, nor a cancellation: any of them
    may be cancelled while it waits, ends promptly then, and leaves the transport usable. Several may be called at once.
    `agentmesh.testing.transport_kit` holds a broker to what can be asked of it.
    """

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Hand an envelope to the broker, for an agent; return once the broker keeps it, to the best of its promise.

        It is kept as it is, up to `Limits.envelope_max_bytes`, whether its agent ever connected or not, and comes to
        that agent alone. The same bytes, published again after they were acknowledged, come again: they are offered for
        a reason. What the broker does not take, because it is too large or no envelope, is not dropped: this raises.
        """
        ...

    def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Yield the envelopes for this agent, each with what tells the broker that it is done with.

        An envelope that was not acknowledged is to come again: after a while, or at the latest when this is called
        again, which begins a connection. What was acknowledged need not, and stops once the broker has heard of it.
        However much was not acknowledged, what is behind it comes; and what is published meanwhile wakes who waits.
        It ends, or raises, where the connection does.
        """
        ...

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Add bundles of this agent to the shelf; a last-resort bundle takes the place of the one before.

        There may be no one-time bundle among them, or no last-resort bundle, and then the one before stays.
        The last-resort bundle goes first, so that who breaks off in between leaves an agent that can be reached.
        """
        ...

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Return a one-time bundle of an agent and remove it, so that it serves once; else its last-resort bundle.

        Who takes at the same moment as others gets one of his own.
        Returns `None` where the shelf has none.
        """
        ...
