"""A fleet: thousands of agents over a relay that loses and alters, on one machine. `python -m benchmarks.fleet`."""
