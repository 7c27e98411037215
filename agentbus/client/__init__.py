"""What programs and agents use: the bus, agents, calls, streams, subscriptions."""

from .agent import Agent, HandlerSpec, handler
from .bus import Bus
from .call import Call
from .functions import agent_of
from .generation import Answer, Generate, GenerateOptions, ValueOptions
from .keys import load_keys
from .models import ModelAgent, model_agent_name
from .relay import Relay
from .reply import Reply
from .requester import Requester
from .stream import ReplyStream
from .subscription import Published, Subscription

__all__ = [
    "Agent",
    "Answer",
    "Bus",
    "Call",
    "Generate",
    "GenerateOptions",
    "HandlerSpec",
    "ModelAgent",
    "Published",
    "Relay",
    "Reply",
    "ReplyStream",
    "Requester",
    "Subscription",
    "ValueOptions",
    "agent_of",
    "handler",
    "load_keys",
    "model_agent_name",
]
