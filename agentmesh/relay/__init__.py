"""What a relay operator uses: rate limits and records, without a key (docs/protocol.md, sections 4, 5.1 and 8)."""

from agentmesh.relay.limiter import RelayLimiter
from agentmesh.relay.record import relay_record

__all__ = ["RelayLimiter", "relay_record"]
