"""raypipe settings: list every setting with its default, limits and description."""

from __future__ import annotations

import textwrap
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raypipe.config import Config, nearest
from raypipe.errors import UsageError

_LINE_WIDTH = 98
_KINDS = {str: '"text"', bool: "true or false", int: "whole number", float: "number"}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def settings(section: str | None = None, config: Config | None = None) -> str:
    """Write the settings of one section, or of all, as commented TOML that `--config` reads.

    Values are those of `config`, by default the defaults. A setting without a value is a comment.
    Raises UsageError for an unknown section.
    """
    config = config or Config()
    known = list(Config.model_fields)
    if section is not None and section not in known:
        raise UsageError(f"{section}: no such section{nearest(section, known)}")
    chosen = [section] if section is not None else known
    return "\n".join(_section(name, getattr(config, name)) for name in chosen)


def _section(name: str, values: BaseModel) -> str:
    """One section: its purpose, its plain settings, then those that are tables themselves."""
    given = values.model_dump(exclude_none=True)
    lines = [*_comment(type(values).__doc__ or ""), f"[{name}]"]
    tables = []
    for key, field in type(values).model_fields.items():
        comment = _comment(_explain(field))
        if key not in given:
            lines += [*comment, f"# {key} = {_placeholder(field.annotation)}"]
        elif isinstance(given[key], dict):
            tables += ["", *comment, tomli_w.dumps({name: {key: given[key]}}).strip()]
        else:
            lines += [*comment, tomli_w.dumps({key: given[key]}).strip()]
    return "\n".join([*lines, *tables, ""])


def _explain(field: FieldInfo) -> str:
    """Description of a setting, its choices, and the limits of its value."""
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
    """Name what a setting without a value takes: `int | None` takes a whole number."""
    return " or ".join(_KINDS[kind] for kind in get_args(annotation) if kind in _KINDS)


def _comment(text: str) -> list[str]:
    plain = " ".join(text.split())
    return textwrap.wrap(plain, _LINE_WIDTH, initial_indent="# ", subsequent_indent="# ")
