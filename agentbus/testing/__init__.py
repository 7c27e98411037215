"""For tests of agents, transports and engines.

`open_bus` is a bus within the test, `ScriptedEngine` a model that says what it is told, `fault_proxy`
a bad network, `worker_process` a process to kill. What transports and engines of others' must do is
in `agentbus.testing.contracts`, which needs pytest; nothing else here does.
"""

from __future__ import annotations

from ..engine.fake import Reply
from .bus import Handled, SpyBus, open_bus
from .engines import ScriptedEngine
from .faults import Direction, Fault, FaultKind, random_faults
from .leftovers import Leftovers
from .processes import CommandProcess, command_process, worker_process
from .proxy import Connection, FaultProxy, fault_proxy

__all__ = [
    "CommandProcess",
    "Connection",
    "Direction",
    "Fault",
    "FaultKind",
    "FaultProxy",
    "Handled",
    "Leftovers",
    "Reply",
    "ScriptedEngine",
    "SpyBus",
    "command_process",
    "fault_proxy",
    "open_bus",
    "random_faults",
    "worker_process",
]
