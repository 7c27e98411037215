"""Settings from a TOML file: found, read and checked; an error names file, line, key and reason."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pydantic
from pydantic_core import ErrorDetails

from ..config import DaemonSettings
from ..errors import ConfigError, UnreadableFile
from ..routing import Policy, Tokens

__all__ = ["find_settings_file", "load_rules", "load_settings", "override"]

DEFAULT_FILE = "agentbus.toml"
MAX_FILE = 1024 * 1024
"""Bytes of a settings file."""
_HOLDERS = (tuple, Mapping)
"""Types of keys that hold several tables."""
_LOG = ("format", "level")
_ENGINE = ("dtype", "threads", "prices", "token_log")
"""What the command line may say of a table."""
_UNKNOWN_KEY = "unexpected_keyword_argument"


def find_settings_file(given: str) -> Path | None:
    """Return the file given, else `AGENTBUS_CONFIG`'s, else ./agentbus.toml if there is one."""
    named = given or os.environ.get("AGENTBUS_CONFIG")
    if named:
        return Path(named)
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def load_settings(path: Path | None) -> DaemonSettings:
    """Read settings; without a file, those that hold without one.

    Raises:
        UnreadableFile: the file cannot be read.
        ConfigError: it is not TOML, or a key or a value in it is not one of ours.
    """
    return _load(path)[0]


def load_rules(path: Path | None) -> tuple[Policy | None, Tokens]:
    """Read the access policy, each rule with its place, and the tokens. Raises as `load_settings`.

    Without a file, or without `[acl]` in it, there is no policy.
    """
    return _load(path)[1:]


def _load(path: Path | None) -> tuple[DaemonSettings, Policy | None, Tokens]:
    if path is None:
        return DaemonSettings(), None, Tokens()
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"this is not TOML: {error}") from error
    try:
        # As JSON, since strict validation takes a dataclass's fields from JSON alone.
        settings = pydantic.TypeAdapter(DaemonSettings).validate_json(orjson.dumps(data))
        return settings, *_rules(path, text, settings)
    except orjson.JSONEncodeError as error:
        raise ConfigError(str(path), f"a value is out of range: {error}") from error
    except pydantic.ValidationError as error:
        raise _first_problem(path, text, error.errors(include_url=False)[0]) from error
    except ConfigError as error:
        raise _out_of_range(path, text, data, error) from error


def _rules(path: Path, text: str, settings: DaemonSettings) -> tuple[Policy | None, Tokens]:
    def place(at: int) -> str:
        line = _line_of(text, ["acl", "rules", str(at)])
        return f"{path}, line {line}" if line else str(path)

    policy = None if settings.acl is None else Policy.of(settings.acl, place)
    return policy, Tokens(settings.tokens)


def override(settings: DaemonSettings, **given: Any) -> DaemonSettings:
    """Return settings with what the command line says; None and empty texts say nothing.

    Raises:
        ConfigError: a value cannot be used.
    """
    said = {name: value for name, value in given.items() if value not in (None, "")}
    log = {name: said.pop(name) for name in _LOG if name in said}
    engine = {name: said.pop(name) for name in _ENGINE if name in said}
    return dataclasses.replace(
        settings,
        log=dataclasses.replace(settings.log, **log),
        engine=dataclasses.replace(settings.engine, **engine),
        **said,
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise UnreadableFile(str(path), f"it is over {MAX_FILE} bytes")
        return raw.decode()
    except OSError as error:
        raise UnreadableFile(str(path), str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise UnreadableFile(str(path), "it is not UTF-8 text") from error


def _first_problem(path: Path, text: str, problem: ErrorDetails) -> ConfigError:
    keys = [str(key) for key in problem["loc"]]
    if problem["type"] != _UNKNOWN_KEY:
        return _error(path, text, keys, problem["msg"][0].lower() + problem["msg"][1:])
    near = difflib.get_close_matches(keys[-1], _keys_at(keys[:-1]), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return _error(path, text, keys, f"unknown key{hint}")


def _out_of_range(
    path: Path, text: str, data: Mapping[str, Any], error: ConfigError
) -> ConfigError:
    """Place an error that names its key alone, as settings objects raise it, or with its tables."""
    if keys := _in_array(data, error):
        return _error(path, text, keys, error.problem)
    said = tuple(error.setting.split("."))
    places = [keys for keys in _all_keys() if keys[-len(said) :] == said] or [said]
    found = [keys for keys in places if _line_of(text, keys)]
    return _error(path, text, (found or places)[0], error.problem)


def _in_array(data: Mapping[str, Any], error: ConfigError) -> list[str]:
    """Return where an error is that a table in an array raises by itself, too; else nothing."""
    for table in _tables(DaemonSettings):
        values: Any = data
        kind: Any = DaemonSettings
        for key in table:
            values = values.get(key) if isinstance(values, dict) else None
            kind = typing.get_type_hints(kind)[key]
        for key, value in values.items() if isinstance(values, dict) else ():
            one = _class_in(typing.get_type_hints(kind).get(key))
            for at, part in enumerate(value if isinstance(value, list) and one else ()):
                try:
                    pydantic.TypeAdapter(one).validate_json(orjson.dumps(part))
                except ConfigError as own:
                    if str(own) == str(error):
                        return [*table, key, str(at), error.setting]
                except pydantic.ValidationError:
                    continue
    return []


def _error(path: Path, text: str, keys: Sequence[str], problem: str) -> ConfigError:
    line = _line_of(text, keys)
    where = f"{path}, line {line}" if line else str(path)
    return ConfigError(f"{where}: {'.'.join(keys)}", problem)


def _tables(kind: type, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[str]]:
    """Return the keys of each table of the file."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    found = {above: names}
    for name in names:
        if dataclasses.is_dataclass(hints[name]):
            found |= _tables(hints[name], (*above, name))
    return found


def _keys_at(table: Sequence[str]) -> list[str]:
    """Return the keys that a table of the file may have, also one in an array or under a name."""
    kind: Any = DaemonSettings
    for key in table:
        # What is in an array or stands under a name is the one class that its type tells of.
        hint = typing.get_type_hints(kind).get(key) if dataclasses.is_dataclass(kind) else kind
        arrayed = typing.get_origin(hint) in _HOLDERS and dataclasses.is_dataclass(kind)
        kind = hint if arrayed else _class_in(hint)
    return [field.name for field in dataclasses.fields(kind)] if kind else []


def _class_in(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return hint
    return next((arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)), None)


def _all_keys() -> list[tuple[str, ...]]:
    return [(*table, key) for table, keys in _tables(DaemonSettings).items() for key in keys]


def _line_of(text: str, keys: Sequence[str]) -> int:
    """Return the line that a key stands in, or its table's; 0 where it is written otherwise.

    A key of a table that is written in one line stands where that table does.
    """
    table: list[str] = []
    counts: dict[str, int] = {}
    best = depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([\w.-]+)\s*\]", line)
        if header:
            table = header[2].split(".")
            if table == list(keys):
                return number
            if header[1] == "[[":
                at = counts[header[2]] = counts.get(header[2], -1) + 1
                table = [*table, str(at)]
        entry = re.match(r"\s*([\w.-]+)\s*=", line)
        here = [*table, *(entry[1].split(".") if entry else [])]
        if here == list(keys):
            return number
        if depth < len(here) and here == list(keys[: len(here)]) and (entry or header):
            best, depth = number, len(here)
    return best
