"""Measures agentbus against its peers: `python -m perf SUITE`. `README.md` states the method."""

from .compiled import use_compiled

use_compiled()
