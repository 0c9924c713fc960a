"""Measurements that anyone can repeat: `python -m benchmarks.run`. Each is a ratio, taken in one interleaved run."""
