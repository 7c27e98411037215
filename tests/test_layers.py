"""The layers of the package: imports point only downward, heavy libraries stay in one place."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    "errors": -1,
    "names": 0,
    "messages": 0,
    "config": 0,
    "wire": 1,
    "routing": 1,
    "context": 1,
    "kv": 1,
    "telemetry": 1,
    "filters": 1.5,
    "transport": 2,
    "storage": 2,
    "engine": 2,
    "export": 2,
    "client": 3,
    "broker": 3,
    "ops": 3.5,
    "guard": 3.5,
    "daemon": 4,
    "patterns": 4,
    "testing": 4,
    "workers": 4,
    "demo": 4,
    "cli": 5,
    "__main__": 6,
}
"""Package or module to layer, as the design numbers them; 1.5 is for the pure policies (placement
and sla are to come), 3.5 for what watches the services of one process. Errors are below the rest of the vocabulary, which raises them."""
PURE = 1.5
"""Up to this layer there is no I/O, no clock, no event loop and no environment."""

IMPURE_MODULES = frozenset(
    [
        "asyncio",
        "anyio",
        "uvloop",
        "socket",
        "select",
        "selectors",
        "ssl",
        "threading",
        "subprocess",
        "multiprocessing",
        "time",
        "os",
        "io",
        "pathlib",
        "tempfile",
        "shutil",
        "signal",
        "logging",
        "random",
        "secrets",
        "torch",
        "zmq",
        "httpx",
    ]
)
HEAVY = {
    "torch": {"agentbus_torch"},
    "transformers": {"agentbus_torch"},
    "safetensors": {"agentbus_torch"},
    "tokenizers": {"agentbus_minilm", "agentbus_torch"},
    "onnxruntime": {"agentbus_minilm"},
    "gguf": {"agentbus_torch"},
    "llguidance": {"agentbus_torch"},
    "typer": {"cli"},
    "prometheus_client": {"ops"},
    "zmq": {"transport"},
    "opentelemetry": {"export"},
    "uvicorn": {"demo"},
    "starlette": {"demo"},
    "httpx": {"demo"},
}
"""Libraries that only the named packages may import."""


def modules() -> list[Path]:
    return sorted((ROOT / "agentbus").rglob("*.py"))


def package_of(path: Path) -> str:
    """Name the layer table's entry that a file belongs to; empty for `agentbus/__init__.py`."""
    first = path.relative_to(ROOT / "agentbus").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute name of each module that a file imports, inside functions too."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    here = list(parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            yield ".".join([*base, *(node.module.split(".") if node.module else [])])
            if node.module is None or node.level:
                yield from (
                    ".".join([*base, node.module or "", a.name]).replace("..", ".")
                    for a in node.names
                )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    own = package_of(path)
    if not own:
        return
    for name in imports(path):
        if not name.startswith("agentbus."):
            continue
        other = name.split(".")[1]
        if other == own or other not in LAYERS:
            continue
        assert LAYERS[other] < LAYERS[own], f"{own} (layer {LAYERS[own]}) imports {name}"


def test_every_package_has_a_layer() -> None:
    assert {package_of(path) for path in modules()} - {""} <= set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_layers_do_no_io(path: Path) -> None:
    own = package_of(path)
    if own and LAYERS[own] <= PURE:
        assert not {name.split(".")[0] for name in imports(path)} & IMPURE_MODULES


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    own = package_of(path)
    for name in imports(path):
        assert own in HEAVY.get(name.split(".")[0], {own}), f"{own} imports {name}"


def outside() -> list[Path]:
    """Code that uses agentbus as its users do."""
    folders = ("adapters", "examples", "perf")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", outside(), ids=lambda p: str(p.relative_to(ROOT)))
def test_code_outside_uses_public_names_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.ImportFrom) and node.level == 0 and node.module):
            continue
        if node.module.split(".")[0] == "agentbus":
            public = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(public), node.module


def test_an_upward_import_would_be_seen() -> None:
    seen = list(imports(ROOT / "agentbus" / "client" / "bus.py"))
    assert "agentbus.config" in seen
    assert "agentbus.client.agent" in seen
