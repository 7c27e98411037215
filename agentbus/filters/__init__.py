"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from .base import Form
from .choose import Delivered, read_back, shortest
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .fanout import FanOut, Receiver, fan_out
from .fold import Fold
from .guard import Balance, Edge, Guard, harm
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .ledger import Book, Decision, Given, Ledger, Receipt
from .lossy import Lossy, Shortened
from .mask import KEPT_RESULTS, MASK, Masking, Standing, mask_of, mask_results
from .named import FORMS, LOSSLESS, REFERENCES, open_lossy
from .pipeline import Pipeline
from .plan import Plan, check_plan, plan_of
from .repeats import Repeat, find_repeats
from .report import FilterReport, FilterRow, add_up, report_rows
from .speed import Speed
from .worth import Change, Costs, Outlook, Worth, weigh

__all__ = [
    "FORMS",
    "KEPT_RESULTS",
    "LOSSLESS",
    "MASK",
    "REFERENCES",
    "Balance",
    "Book",
    "Change",
    "CompactJSON",
    "Costs",
    "Decision",
    "Dedupe",
    "Delivered",
    "Diff",
    "Earlier",
    "Edge",
    "FanOut",
    "FilterReport",
    "FilterRow",
    "Fold",
    "Form",
    "Given",
    "Guard",
    "Ledger",
    "Lossy",
    "Masking",
    "Outlook",
    "Pipeline",
    "PlainJSON",
    "PlainJSONLines",
    "Plan",
    "Receipt",
    "Receiver",
    "Repeat",
    "Shortened",
    "Speed",
    "Standing",
    "Worth",
    "add_up",
    "check_plan",
    "fan_out",
    "find_repeats",
    "harm",
    "mask_of",
    "mask_results",
    "open_lossy",
    "plan_of",
    "read_back",
    "report_rows",
    "shortest",
    "weigh",
]
