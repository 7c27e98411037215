"""From a model's name to a model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from agentbus.config import EngineSettings
from agentbus.context.template import Template, probe
from agentbus.errors import AgentbusError, ConfigError, ModelBroken
from agentbus.kv import Event

from .chat import read_chat_template, read_template_source
from .config import ModelConfig, read_config
from .convert import converted
from .fingerprint import take_fingerprint
from .grammar import Grammars
from .locate import locate
from .model import Model
from .runner import Runner
from .tiers import open_tiers
from .tokens import PromptEncoder, Vocabulary
from .tool_calls import ToolFormat, find_format
from .weights import Weights

__all__ = ["Loaded", "load", "load_runner"]

_MAX_PROBLEM = 500
"""Characters of a parser's explanation that are passed on."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """All of a model that the engine needs."""

    folder: Path
    runner: Runner
    kv_events: list[Event] | None
    """Gets what the runner stores and removes, if it is to be published; to be emptied."""
    vocabulary: Vocabulary
    encoder: PromptEncoder
    template: Template
    grammars: Grammars
    tool_format: ToolFormat


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError("device", f"{name!r} cannot be used ({error})") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    if device.type == "cuda":
        multiplies = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        multiplies = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if multiplies else torch.float32


def _end_ids(config: ModelConfig, encoder: PromptEncoder) -> tuple[int, ...]:
    ids = {*config.end_ids, *encoder.markup_ids}
    return tuple(sorted(i for i in ids if 0 <= i < config.vocabulary))


def load_runner(
    folder: Path,
    config: ModelConfig,
    settings: EngineSettings,
    end_ids: tuple[int, ...],
    events: list[Event] | None = None,
) -> Runner:
    """Load a folder's weights and lay out their KV pool; `events` gets what happens to its blocks.

    Raises:
        ModelBroken: the weights cannot be used.
        ConfigError: there is no such device, the KV does not fit into its memory, or the folder of
            lower tiers cannot be used.
    """
    device = _device(settings.device)
    dtype = _dtype(settings.dtype, device)
    positions = min(config.window, settings.kv_tokens)
    fingerprint = take_fingerprint(folder, config, dtype, settings.block_size)
    try:
        weights = Weights(folder, dtype=dtype, device=device)
        model = Model(config, weights, positions=positions)
        return Runner(
            model,
            kv_tokens=settings.kv_tokens,
            block_size=settings.block_size,
            end_ids=end_ids,
            fingerprint=fingerprint,
            open_tiers=lambda blocks: open_tiers(blocks, fingerprint, settings, events),
        )
    except (RuntimeError, MemoryError) as error:  # torch says RuntimeError when memory is out
        raise ModelBroken(str(folder), f"it cannot be loaded ({error})") from error


def load(model: str, settings: EngineSettings) -> Loaded:
    """Find, convert if need be, and load a model.

    Raises:
        ModelNotFound, ModelBroken: it cannot be had.
        ConfigError: a setting does not fit this machine.
    """
    source = locate(model)
    try:
        folder = converted(source.path, settings.cache_dir) if source.is_gguf else source.path
        return _load(folder, settings)
    except AgentbusError:
        raise
    except Exception as error:  # a stranger's files, through parsers that raise what they like
        problem = f"it cannot be loaded ({type(error).__name__}: {error})"
        raise ModelBroken(str(source.path), " ".join(problem.split())[:_MAX_PROBLEM]) from error


def _load(folder: Path, settings: EngineSettings) -> Loaded:
    config = read_config(folder)
    vocabulary = Vocabulary.load(folder)
    template = probe(read_chat_template(folder))
    encoder = PromptEncoder(vocabulary, template)
    end_ids = _end_ids(config, encoder)
    events: list[Event] | None = [] if settings.kv_events else None
    runner = load_runner(folder, config, settings, end_ids, events)
    return Loaded(
        folder=folder,
        runner=runner,
        kv_events=events,
        vocabulary=vocabulary,
        encoder=encoder,
        template=template,
        grammars=Grammars(vocabulary.json, config.vocabulary, end_ids),
        tool_format=find_format(read_template_source(folder)),
    )
