"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from .base import Form
from .bm25 import BM25
from .choose import Delivered, read_back, shortest
from .decide import ESTIMATED, estimate_tokens
from .dedupe import Dedupe
from .diff import Diff
from .extract import Extract
from .fanout import FanOut, Receiver, fan_out
from .fold import Fold
from .guard import Balance, Edge, Guard, harm
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .keep import must_keep, tells_of_failure
from .lossy import Lossy, Shortened
from .mask import KEPT_RESULTS, MASK, Masking, Standing, mask_of, mask_results
from .named import FORMS, LOSSLESS, REFERENCES, is_kept, is_lossless, open_lossy
from .offload import Offload
from .pipeline import Pipeline
from .plan import Plan, check_plan, plan_of
from .rank import Ranker, best_first, shares
from .repeats import Repeat, find_repeats
from .report import FilterReport, FilterRow, add_up, report_rows
from .speed import Speed
from .strip import Strip
from .units import units_of
from .worth import Change, Costs, Outlook, Worth, weigh
from .yaml_block import YAML

__all__ = [
    "BM25",
    "ESTIMATED",
    "FORMS",
    "KEPT_RESULTS",
    "LOSSLESS",
    "MASK",
    "REFERENCES",
    "YAML",
    "Balance",
    "Change",
    "CompactJSON",
    "Costs",
    "Dedupe",
    "Delivered",
    "Diff",
    "Edge",
    "Extract",
    "FanOut",
    "FilterReport",
    "FilterRow",
    "Fold",
    "Form",
    "Guard",
    "Lossy",
    "Masking",
    "Offload",
    "Outlook",
    "Pipeline",
    "PlainJSON",
    "PlainJSONLines",
    "Plan",
    "Ranker",
    "Receiver",
    "Repeat",
    "Shortened",
    "Speed",
    "Standing",
    "Strip",
    "Worth",
    "add_up",
    "best_first",
    "check_plan",
    "estimate_tokens",
    "fan_out",
    "find_repeats",
    "harm",
    "is_kept",
    "is_lossless",
    "mask_of",
    "mask_results",
    "must_keep",
    "open_lossy",
    "plan_of",
    "read_back",
    "report_rows",
    "shares",
    "shortest",
    "tells_of_failure",
    "units_of",
    "weigh",
]
