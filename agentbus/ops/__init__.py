"""How a process of a bus is watched: its metrics over HTTP, and its agent that answers tools."""

from .collection import spare_from_collection
from .describe import AgentDescription, HandlerDescription
from .exposition import exposition
from .http import Page, parse_address, serve_http
from .process import (
    OFF,
    DescribeAgent,
    FindFilters,
    FindSpans,
    FoundFilters,
    FoundSpans,
    ProcessAgent,
    ProcessQuery,
    ProcessReport,
    operate,
    process_agent_name,
)
from .rates import AgentRates, handled, rates
from .survey import find_filters, find_spans, survey
from .traces import Branch, TraceSummary, summaries, tree

__all__ = [
    "OFF",
    "AgentDescription",
    "AgentRates",
    "Branch",
    "DescribeAgent",
    "FindFilters",
    "FindSpans",
    "FoundFilters",
    "FoundSpans",
    "HandlerDescription",
    "Page",
    "ProcessAgent",
    "ProcessQuery",
    "ProcessReport",
    "TraceSummary",
    "exposition",
    "find_filters",
    "find_spans",
    "handled",
    "operate",
    "parse_address",
    "process_agent_name",
    "rates",
    "serve_http",
    "spare_from_collection",
    "summaries",
    "survey",
    "tree",
]
