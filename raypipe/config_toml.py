"""Read settings from TOML files and `--set`, and list them as TOML (raypipe settings)."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from raypipe.config import Config
from raypipe.errors import UsageError

_LINE_WIDTH = 98
_KINDS = {str: '"text"', bool: "true or false", int: "whole number", float: "number"}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def load_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Read settings from a TOML file, a nested mapping, and `section.key=value` overrides.

    Each takes precedence over the one before. The value of an override is read as TOML if it is
    valid TOML, otherwise as text. Raises UsageError for unknown keys, wrong types and files that
    cannot be read.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(Path(file).read_text())
        except OSError as error:
            raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: not TOML ({error})") from error
    _merge(values, settings or {})
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or name.count(".") != 1:
            raise UsageError(f"--set {override}: expected section.key=value")
        section, key = name.split(".")
        _merge(values, {section: {key: _parse_value(text)}})
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error, file)) from error


def as_config(config: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """Turn a Config, a nested mapping, a TOML file or None into a Config."""
    if isinstance(config, Config):
        return config
    if isinstance(config, str | Path):
        return load_config(config)
    return load_config(settings=config)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the most similar known name, if any."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; is it {found[0]}?" if found else ""


def _explain(error: ValidationError, file: str | Path | None) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        is_unknown = item["type"] == "extra_forbidden"
        lines.append(f"{name}: {_no_such_setting(name) if is_unknown else item['msg']}")
    return f"configuration{f' {file}' if file else ''}: " + "; ".join(lines)


def _no_such_setting(name: str) -> str:
    """Say that a setting or section is unknown, and which one was probably meant."""
    known = [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key in _keys_of(field.annotation)
    ]
    if "." not in name:
        return f"no such section{nearest(name, Config.model_fields)}"
    hint = nearest(name, known) or "; raypipe settings lists all of them"
    return f"no such setting{hint}"


def _keys_of(section: Any) -> Iterable[str]:
    return section.model_fields


def settings(section: str | None = None, config: Config | None = None) -> str:
    """Write the settings of one section, or of all, as commented TOML that `--config` reads.

    Values are those of `config`, or the defaults without one. A setting without a value is written
    as a comment. Raises UsageError for an unknown section.
    """
    config = config or Config()
    known = list(Config.model_fields)
    if section is not None and section not in known:
        raise UsageError(f"{section}: no such section{nearest(section, known)}")
    chosen = [section] if section is not None else known
    return "\n".join(_section(name, getattr(config, name)) for name in chosen)


def _section(name: str, values: BaseModel) -> str:
    """Write a section: its purpose, its simple settings, then those that are tables."""
    given = values.model_dump(exclude_none=True)
    lines = [*_comment(type(values).__doc__ or ""), f"[{name}]"]
    tables = []
    for key, field in type(values).model_fields.items():
        comment = _comment(_describe(field))
        if key not in given:
            lines += [*comment, f"# {key} = {_placeholder(field.annotation)}"]
        elif isinstance(given[key], dict):
            tables += ["", *comment, tomli_w.dumps({name: {key: given[key]}}).strip()]
        else:
            lines += [*comment, tomli_w.dumps({key: given[key]}).strip()]
    return "\n".join([*lines, *tables, ""])


def _describe(field: FieldInfo) -> str:
    """Return the description of a setting with its choices and the limits of its value."""
    choices = " | ".join(map(str, _choices(field.annotation)))
    bounds = " and ".join(
        f"{words} {bound:g}"
        for limit in field.metadata
        for name, words in _LIMITS.items()
        if (bound := getattr(limit, name, None)) is not None
    )
    notes = "; ".join(note for note in (choices, bounds) if note)
    return f"{field.description} ({notes})" if notes else str(field.description)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next(filter(None, map(_choices, get_args(annotation))), ())


def _placeholder(annotation: Any) -> str:
    """Name the kind of value that an unset setting takes, for instance a whole number."""
    return " or ".join(_KINDS[kind] for kind in get_args(annotation) if kind in _KINDS)


def _comment(text: str) -> list[str]:
    plain = " ".join(text.split())
    return textwrap.wrap(plain, _LINE_WIDTH, initial_indent="# ", subsequent_indent="# ")
