"""Ways for several agents to work together, made of ordinary requests and topics.

Each function takes who asks first: a `Bus`, or the `Call` of a handler, whose deadline, trace and
hops the requests then inherit.
"""

from .ask import Ask
from .blackboard import Blackboard, Entry, Read, Write
from .chat import Debate, Turn, debate, group_chat
from .gather import Gathered, gather
from .hedge import hedged
from .retry import retried

__all__ = [
    "Ask",
    "Blackboard",
    "Debate",
    "Entry",
    "Gathered",
    "Read",
    "Turn",
    "Write",
    "debate",
    "gather",
    "group_chat",
    "hedged",
    "retried",
]
