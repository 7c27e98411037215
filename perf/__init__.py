"""Measures agentbus against its peers: `python -m perf SUITE`. `README.md` states the method."""
