"""vLLM's CPU build as a server of its own, asked over HTTP with token ids, answers streamed.

What it says of itself comes from its metrics page: the times that its scheduler measured, without
HTTP, its process boundaries and this client. `make engines` makes the environment that it runs in.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any, BinaryIO

import httpx
import orjson

from ..children import ChildFailed
from ..macro.engine_asks import Answer, Asked
from . import VLLM_CPU

__all__ = ["contend", "read_metrics"]

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 300.0
MAX_MODEL_TOKENS = 4096
KV_GIB = 2
BLOCK_TOKENS = 32
"""The smallest block for which the CPU backend's attention is optimised; its default is 128."""
_POLL_S = 0.25
_JSON = {"content-type": "application/json"}
_EVENT_END = b"\n\n"
_PREFIX = b"data: "
_SAMPLE = re.compile(r"^vllm:(\w+)_(sum|count)\{[^}]*\} (\S+)$", re.MULTILINE)
_LOG_TAIL = 2000


class Server:
    """A running server."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def answer(
        self, prompts: Sequence[Asked], max_tokens: int, salt: str
    ) -> Sequence[Answer]:
        """Post all at once; between two looks at the server's metrics."""
        before = await self._metrics()
        answers = await asyncio.gather(*(self._one(p, max_tokens, salt) for p in prompts))
        ttft, decode = _own_times(before, await self._metrics())
        return [replace(answer, own_ttft=ttft, own_decode=decode) for answer in answers]

    async def _one(self, asked: Asked, max_tokens: int, salt: str) -> Answer:
        body = {
            "prompt": asked.ids,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "add_special_tokens": False,
            "cache_salt": salt,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        content = orjson.dumps(body)
        begun = perf_counter()
        first, last, tokens, reused = 0.0, 0.0, 0, 0
        request = self._client.stream("POST", "/v1/completions", content=content, headers=_JSON)
        async with request as response:
            async for event in _events(response):
                for choice in event.get("choices", ()):
                    if choice.get("token_ids"):
                        last = perf_counter()
                        first = first or last
                        tokens += len(choice["token_ids"])
                if usage := event.get("usage"):
                    reused = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return Answer(asked=begun, first=first, last=last, tokens=tokens, reused=reused)

    async def _metrics(self) -> Mapping[str, float]:
        return read_metrics((await self._client.get("/metrics")).text)


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    if response.status_code != httpx.codes.OK:
        raise ChildFailed(f"vllm_cpu answered {(await response.aread())[:300]!r}")
    rest = b""
    async for chunk in response.aiter_raw():
        *events, rest = (rest + chunk).split(_EVENT_END)
        for event in events:
            data = event.removeprefix(_PREFIX)
            if data != b"[DONE]":
                yield orjson.loads(data)


def read_metrics(text: str) -> dict[str, float]:
    """Return the sums and counts of the server's histograms, by `name_sum` and `name_count`."""
    found: dict[str, float] = {}
    for name, kind, value in _SAMPLE.findall(text):
        found[f"{name}_{kind}"] = found.get(f"{name}_{kind}", 0.0) + float(value)
    return found


def _own_times(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float]:
    """Return the server's own times to the first token and from it to the last, on average."""

    def mean(name: str) -> float:
        def grown(kind: str) -> float:
            return after.get(f"{name}_{kind}", 0.0) - before.get(f"{name}_{kind}", 0.0)

        return grown("sum") / max(1.0, grown("count"))

    waited = mean("request_queue_time_seconds") + mean("request_prefill_time_seconds")
    return waited, mean("request_decode_time_seconds")


def _command(folder: Path, port: int) -> list[str]:
    assert VLLM_CPU.environment is not None
    return [
        str(VLLM_CPU.environment / "bin" / "python"),
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--max-model-len", str(MAX_MODEL_TOKENS)),
        *("--block-size", str(BLOCK_TOKENS), "--enable-prefix-caching"),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        "--enforce-eager",
    ]


def _environment(threads: int) -> dict[str, str]:
    cores = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(threads)]
    )
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores[:threads])),
    }


@asynccontextmanager
async def contend(folder: Path, threads: int) -> AsyncGenerator[Server, None]:
    """Start the server, with as many threads, and wait until it answers.

    Raises:
        ChildFailed: it does not; with the end of its log.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *_command(folder, port),
            env=_environment(threads),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            timeout = httpx.Timeout(ANSWER_TIMEOUT_S)
            base = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=base, timeout=timeout, trust_env=False) as client:
                await _wait_until_healthy(client, process, log)
                yield Server(client)
        finally:
            await _stop(process)


async def _wait_until_healthy(client: httpx.AsyncClient, process: Process, log: BinaryIO) -> None:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while process.returncode is None:
                try:
                    if (await client.get("/health")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        pass
    log.seek(0)
    tail = log.read().decode(errors="replace")[-_LOG_TAIL:]
    raise ChildFailed(f"vllm_cpu did not start; its log ends:\n{tail}")


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
