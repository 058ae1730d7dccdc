"""Convert `tune.space` to Optuna's distributions, and drawn values to settings."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel

from raypipe.config import Config, ModelConfig, Range, TrainConfig
from raypipe.config_toml import load_config
from raypipe.errors import UsageError
from raypipe.training.train import EXECUTION
from raypipe.tuning.records import Value, Values

log = logging.getLogger(__name__)

_SECTIONS: dict[str, type[BaseModel]] = {"model": ModelConfig, "train": TrainConfig}
_COMMON = {"seed", "test_fraction", "validation_fraction", "epochs", "references"} | EXECUTION
"""Settings of [train] that all trials share, because otherwise they could not be compared."""
_FOLDED_ONLY = {"model.loss_power"}
_MOST_COMBINATIONS = 10_000


@dataclass(frozen=True)
class Space:
    """Hold the settings `base`, and distributions of the searched settings, by `section.key`."""

    base: Config
    distributions: dict[str, BaseDistribution]

    @property
    def default(self) -> Values:
        """Return the configured values of the searched settings."""
        return {name: _value_of(self.base, name) for name in self.distributions}

    def settings(self, values: Mapping[str, Value]) -> Config:
        """Return the settings with these values; raises UsageError if they are invalid."""
        changed = self.base.model_dump()
        for name, value in values.items():
            section, key = name.split(".")
            changed[section][key] = value
        changed["train"]["validation_cash"] = True
        return load_config(settings=changed)


def read_space(config: Config) -> Space:
    """Read `tune.space`; raises UsageError if a setting is unknown, fixed, or never valid.

    The configured values always belong to the space: they are the first trial.
    """
    named = set(config.tune.space)
    if config.model.preset == "paper" and _FOLDED_ONLY & named:
        log.info(
            "tune: %s is not searched, because preset paper does not use it",
            ", ".join(_FOLDED_ONLY & named),
        )
        named -= _FOLDED_ONLY
    space = Space(config, {name: _distribution(config, name) for name in sorted(named)})
    for name, distribution in space.distributions.items():
        for value in _extremes(distribution):
            _require_valid(space, name, value)
    return space


def _distribution(config: Config, name: str) -> BaseDistribution:
    own, wanted = _value_of(config, name), config.tune.space[name]
    if not isinstance(wanted, Range):
        values = wanted if own in wanted else [own, *wanted]
        return CategoricalDistribution(list(dict.fromkeys(values)))
    if isinstance(own, str):
        raise UsageError(f"tune.space: {name} is text and has no range; give a list of values")
    low, high = min(wanted.low, own), max(wanted.high, own)
    if not isinstance(own, int):
        return FloatDistribution(low, high, log=wanted.log)
    if not float(low).is_integer() or not float(high).is_integer():
        raise UsageError(f"tune.space: {name} takes whole numbers, not {low:g} to {high:g}")
    return IntDistribution(int(low), int(high), log=wanted.log)


def _value_of(config: Config, name: str) -> Value:
    section, _, key = name.partition(".")
    known = _SECTIONS.get(section)
    if known is None or key not in known.model_fields:
        raise UsageError(f"tune.space: {name} is not a setting of [model] or [train]")
    if section == "train" and key in _COMMON:
        raise UsageError(f"tune.space: {name} is the same for all trials and cannot be searched")
    value: Value = getattr(getattr(config, section), key)
    return value


def _extremes(distribution: BaseDistribution) -> list[Value]:
    """Return all values of a list, or the two ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)  # type: ignore[arg-type]
    return [distribution.low, distribution.high]  # type: ignore[attr-defined]


def _require_valid(space: Space, name: str, value: Value) -> None:
    """Raise UsageError if a value is invalid with any values of the other settings."""
    problem: UsageError | None = None
    for others in islice(_other_settings(space, name), _MOST_COMBINATIONS):
        try:
            space.settings({**others, name: value})
        except UsageError as error:
            problem = problem or error
        else:
            return
    raise UsageError(f"tune.space: {name} = {value!r} is never valid: {problem}")


def _other_settings(space: Space, name: str) -> Iterator[dict[str, Any]]:
    """Yield other settings to combine with a value of `name`: as configured, then all lists."""
    yield {}
    others = {
        other: distribution.choices
        for other, distribution in space.distributions.items()
        if other != name and isinstance(distribution, CategoricalDistribution)
    }
    for values in product(*others.values()):
        yield dict(zip(others, values, strict=True))
