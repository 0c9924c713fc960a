r"""An agent over Redis Streams: one stream an agent, a consumer group on each, the shelf in a set.

It needs `redis` beside this project, `pip install '.[examples]'`, and a server that forgets nothing:
`redis-server --appendonly yes`. Two shells, and what each prints is in examples/rows.py:

    python examples/redis_agent.py redis://127.0.0.1:6379 --store bob.mesh --key-file bob.key --table bob.rows
    python examples/redis_agent.py redis://127.0.0.1:6379 --store alice.mesh --key-file alice.key --table alice.rows \
        --peer did:agentmesh:...

docs/how-to/redis.md says why it is as it is.
"""

from __future__ import annotations

import sys

from redis_transport import RedisTransport
from rows import main

if __name__ == "__main__":
    sys.exit(main(RedisTransport))
