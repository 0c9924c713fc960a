"""What stands beside us: each peer runs in an environment of its own, as a worker that speaks JSON lines."""
