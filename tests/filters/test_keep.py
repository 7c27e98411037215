"""What no lossy filter leaves out: all that tells of failures, and little else."""

from __future__ import annotations

import random
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.filters.keep import (
    FRAMES,
    SHORT_TOKENS,
    failures,
    is_short,
    must_keep,
    tells_of_failure,
)

from .recorded import tool_outputs

FAILURES = [
    *("error: no route", "error: none of them is there", "error: 0 bytes were written"),
    *("error: null pointer", "error: no", "ERROR 0", "ERROR: 0x1"),
    *("task 0 failed", "rank 0 ERROR it broke", "00:00:00.0 ERROR it broke", "shard 0 failed: odd"),
    *("3 passed, 10 failed", "0 error", "1.0 failures", "0 passed, 1 failure(s)"),
    *("error: cannot open the file", "ERROR", "Error: it broke", "[error] it broke", "1 error"),
    *("10 errors", "Found 3 error(s)", "2 failed, 3 passed", "FAILED tests/a.py::b", "FAIL\tpkg"),
    *("--- FAIL: TestOne (0.00s)", "Failures: 1, Errors: 0", 'failures="4" errors="0"'),
    *("fatal: not a git repository", "panic: runtime error", "thread 'main' panicked at a.rs:2"),
    *("npm ERR! code ELIFECYCLE", "error[E0382]: borrow of moved value", "a.c:3:5: error: no x"),
    *("Uncaught TypeError: x is not a function", "make: *** [all] Error 2", "3 failing"),
    *("ValueError: invalid literal", "KeyError", "E       assert 1 == 2", "E   assert 0", "E"),
    *("java.lang.NullPointerException: x", "Caused by: a.b.FooException", "IOException: disk"),
    *(
        "Exception in thread main",
        "  | ExceptionGroup: two (2 sub-exceptions)",
        "test.py:6: KeyError",
    ),
    *("retry after ConnectionResetError('x')", "got TimeoutError from 10.0.0.1"),
    *("exit code 1", "Exit code: 137", "exited with code 2", "exit status 1", "exitCode=3"),
    *("returned non-zero exit status 9", "Process finished with exit code -11", "returncode: 1"),
    *("terminated by signal 9", "Segmentation fault (core dumped)", "Killed", "12 Killed  ./run"),
    *('"GET /x HTTP/1.1" 404 123', "HTTP/2 503", "status: 500", '"statusCode": 404', "status=502"),
    *("404 Not Found", "HTTP 429 Too Many Requests", "503 Service Unavailable", "401 Unauthorized"),
    *("<<<<<<< HEAD", "=======", ">>>>>>> feature", "||||||| base", "CONFLICT (content): in a.py"),
    *("sh: foo: command not found", "cat: x: No such file or directory", "Permission denied"),
    *("connect: Connection refused", "request timed out", "OSError: No space left on device"),
    *("Unable to locate package", "Could not resolve host", "java.lang.OutOfMemoryError: heap"),
    *(
        '{"error": "boom"}',
        '{"last_error": "boom"}',
        "errorCode=7",
        "error_count: 3",
        '"error":{"a":1}',
    ),
    *('"message":"1 passed\\nError: x"', '"Output":"FAIL\\n"', "msg=x level=error", "[crit] x"),
    *('{"level":"fatal"}', '{"severity": "critical"}', "CRITICAL: x", "2005 SEVERE x"),
    *("a/test_db.py F.x  [ 14%]", "b/test_error.py E   [ 42%]", "not ok 3 - it works", "  ✕ adds"),
    *("03-17 16:13:46.764  2227  2794 E Tag: x", "E/Tag: x", "E0102 12:00:00.1 1 a.cc:1] x"),
    *("DeprecationWarning: use b", "a.c:3:5: warning: unused x", "warning: unused x", "WARNING: x"),
    *("发生error了", "erreur: Error: é", "________ test_one ________", ">       assert a == b"),
    *(
        "_ftl: error=0x80004005",
        "errors: 07",
        "failed: 1.5",
        "error: 'no route'",
        "error: nothing left",
    ),
]
NO_FAILURES = [
    *("errors=0 warnings=3", "Failures: 0, Errors: 0"),
    *("3 passed, 0 failed", "(0 failed)", "Tests: 0 failed", "0 failure(s)", "was 0 exceptions"),
    *(
        "0 errors",
        "no errors",
        "0 failed, 3 passed",
        "without errors",
        "Found 0 error(s)",
        "zero errors",
    ),
    *("error_count: 0", 'failures="0" errors="0"', '"error": null', '"errors": []', "errors: {}"),
    *(
        '"error": ""',
        '{\\"error\\": \\"\\", \\"response\\"',
        "error=false",
        "Failures: 0",
        "failed: 0.0",
    ),
    *(
        "error: none",
        "error(s): 0",
        "error=0x0",
        "errors: 0 warnings: 3",
        "error=null x=1",
        "HRESULT 0x00000000",
    ),
    *(
        "src/errors.py",
        "error_handler()",
        "on-error",
        "log.error",
        "kdump-error-handler.sh",
        "terror",
    ),
    *("logger.error(x)", "failover", "exceptional", "default", "ferris"),
    *("raise ValueError(message)", "except (KeyError, TypeError):", "throw new FooException('x')"),
    *("from a import FooError", "class FooError extends Base {", "    def fail_fast(self):"),
    *("exit code 0", "exited with 0", "exit(1)", "return 1", "status: 200", '"statusCode": 404000'),
    *('"GET /404 HTTP/1.1" 200 404', "HTTP/1.1 302 Found", "port 500", "404 items", "line 503"),
    *("WARN it is slow", "1 warning", "level=info", "severity low", "all ok", "", " ", "\x00"),
    *(
        "test_a.py ...",
        "Error" * 0,
        "====",
        "======== 3 passed ========",
        "<<<",
        "with the exception of",
    ),
]


@pytest.mark.parametrize("line", FAILURES)
@pytest.mark.parametrize("end", ["", "\r"])
def test_what_tells_of_a_failure_is_kept(line: str, end: str) -> None:
    assert tells_of_failure(line + end)
    assert must_keep(["ok", line + end, "ok"]) == [False, True, False]


@pytest.mark.parametrize("line", NO_FAILURES)
def test_what_tells_of_none_is_not(line: str) -> None:
    assert not tells_of_failure(line)


def kept(text: str) -> list[str]:
    lines = text.split("\n")
    return [line for line, keep in zip(lines, must_keep(lines), strict=True) if keep]


PYTHON = """Traceback (most recent call last):
  File "a.py", line 3, in <module>
    main()
    ~~~~^^
  File "a.py", line 2, in main
    raise Odd("x")
Odd: x"""


def test_a_traceback_is_kept_from_its_head_to_the_exception() -> None:
    """The exception's name says nothing by itself."""
    assert not tells_of_failure("Odd: x")
    assert kept(f"start\n{PYTHON}\ndone\n") == PYTHON.split("\n")
    deep = "\n".join(["  File x", "    y"] * 500)
    long = PYTHON.replace("    ~~~~^^", deep)
    assert kept(f"start\n{long}\ndone\n") == long.split("\n")
    prefixed = "\n".join(f"12:00:01 app | {line}" for line in PYTHON.split("\n"))
    assert kept(f"12:00:00 app | start\n{prefixed}\n12:00:02 app | done") == prefixed.split("\n")
    assert kept(f"start\n{PYTHON}\ndone\n".replace("\n", "\r\n")) == [
        f"{line}\r" for line in PYTHON.split("\n")
    ]


def test_a_traceback_of_a_group_is_kept() -> None:
    group = """  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 3, in <module>
  |     main()
  | Odds: two (2 sub-oddities)"""
    assert kept(f"start\n{group}\ndone") == group.split("\n")


def test_frames_under_an_exception_are_kept_up_to_a_bound() -> None:
    head = "2024 ERROR it broke\njava.lang.IllegalStateException: x"
    frames = [f"\tat a.b.C.d(C.java:{line})" for line in range(40)]
    text = "\n".join(["ok", head, *frames, "Caused by: a.OddException: y", *frames, "ok"])
    assert kept(text) == [
        *head.split("\n"),
        *frames[:FRAMES],
        "Caused by: a.OddException: y",
        *frames[:FRAMES],
    ]


def test_what_is_indented_no_deeper_is_no_frame() -> None:
    assert kept("  error: x\n  next\n    deeper\nend") == ["  error: x"]
    assert kept("error: x\n\n    behind a blank") == ["error: x"]
    assert kept("error: x\n    one\nout\n    another") == ["error: x", "    one"]


def test_a_short_text() -> None:
    assert is_short("word " * SHORT_TOKENS, lambda text: len(text.split()))
    assert not is_short("word " * (SHORT_TOKENS + 1), lambda text: len(text.split()))
    assert not is_short("x" * 10_000_000, lambda text: pytest.fail("it need not be counted"))


@given(st.text(), st.sampled_from(FAILURES), st.text())
def test_a_failure_is_found_in_a_long_line(before: str, failure: str, after: str) -> None:
    line = f"{'x ' * 300}{before} . {failure} . {after}{' y' * 300}"
    found = list(failures(line))
    end = len(line) - len(after) - 603
    start = end - len(failure)
    assert line[start:end] == failure
    whole = any(failures(f". {failure} ."))
    assert not whole or any(first <= start and end <= last for first, last in found)
    assert all(0 <= first < last <= len(line) for first, last in found)
    assert found == sorted(found)


def test_a_failure_is_found_with_what_stands_around_it() -> None:
    assert list(failures("a " * 500 + "error: x" + " a" * 500)) == [(750, 1050), (950, 1250)]
    assert list(failures("error: x" + " a" * 500)) == [(0, 250)]


@given(st.lists(st.text()))
def test_any_lines(lines: list[str]) -> None:
    keep = must_keep(lines)
    assert len(keep) == len(lines)
    assert all(keep[n] for n, line in enumerate(lines) if tells_of_failure(line))


LEVELS = (
    "[error]",
    " ERROR ",
    " FATAL ",
    " SEVERE ",
    "exception",
    "Failed",
    "failure;",
    "Traceback",
)


def test_no_recorded_log_loses_an_error() -> None:
    for name, text in tool_outputs("log", "test_output", "lint"):
        lines = text.split("\n")
        for line, keep in zip(lines, must_keep(lines), strict=True):
            assert keep or not any(level in line for level in LEVELS), f"{name}: {line}"


def test_of_recorded_outputs_without_failures_little_is_kept() -> None:
    """lsof lists what it was denied, 530 times: that is kept."""
    for name, text in tool_outputs("cli", "csv", "diff", "shell", "xml", "yaml", "json_array"):
        lines = text.split("\n")
        share = sum(must_keep(lines)) / len(lines)
        assert share < 0.06 or name == "cli/centos-7.7-lsof.txt", f"{name}: {share:.0%}"


def test_of_ordinary_logs_little_is_kept() -> None:
    shares = {}
    for name, text in tool_outputs("log"):
        lines = text.split("\n")
        shares[name.removeprefix("log/").removesuffix(".log")] = sum(must_keep(lines)) / len(lines)
    assert all(shares[name] < 0.02 for name in ("android", "healthapp", "spark"))
    assert all(shares[name] < 0.2 for name in ("hdfs", "windows", "zookeeper"))
    assert max(shares.values()) < 0.6


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        " ",
        "\n",
        "error",
        "Error ",
        "error_",
        "aError",
        "E ",
        "_ ",
        "\\n",
        "x.py ",
        "exit ",
        "(",
    ],
)
def test_time_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        lines = (unit * (size // len(unit))).split("\n")
        times = []
        for _ in range(3):
            begun = process_time()
            must_keep(lines)
            times.append(process_time() - begun)
        return min(times)

    assert seconds(800_000) < 12 * seconds(200_000) + 0.05


def test_many_lines_take_no_long_time() -> None:
    some = random.Random(1)
    words = ["block", "blk_38865", "INFO", "dfs.DataNode", "10.251.73.220:50010", "terminating"]
    lines = [" ".join(some.choices(words, k=9)) for _ in range(100_000)]
    begun = process_time()
    assert not any(must_keep(lines))
    assert process_time() - begun < 20
