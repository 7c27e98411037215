"""What agents add to a process, in one that holds nothing else: all its objects are looked at."""

from __future__ import annotations

import json
import subprocess
import sys

COUNT = """
import json, uvloop
from perf.memory import by_type
print(json.dumps(uvloop.run(by_type(50))))
"""


def test_what_agents_add_is_counted_and_the_count_itself_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["Mailbox"][0] == found["Keeper"][0] == 50
    # Each keeps a message and its names of fields.
    assert 50 <= found["set"][0] < 60
    assert 50 * 1_000 < sum(size for _, size in found.values()) < 50 * 3_000
