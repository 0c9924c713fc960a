r"""An agent over NATS JetStream: one subject an agent, a durable consumer each, the shelf in a key-value bucket.

It needs `nats-py` beside this project, `pip install '.[examples]'`, and a server: `nats-server -a 127.0.0.1 -js`. Two
shells, and what each prints is in examples/rows.py:

    python examples/nats_agent.py nats://127.0.0.1:4222 --store bob.mesh --key-file bob.key --table bob.rows
    python examples/nats_agent.py nats://127.0.0.1:4222 --store alice.mesh --key-file alice.key --table alice.rows \
        --peer did:agentmesh:...

docs/how-to/nats.md says why it is as it is.
"""

from __future__ import annotations

import sys

from nats_transport import NatsTransport
from rows import main

if __name__ == "__main__":
    sys.exit(main(NatsTransport))
