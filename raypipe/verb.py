"""Do what every verb repeats: open the workspace, resolve the settings, record the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar

from raypipe.config import Config
from raypipe.config_toml import as_config
from raypipe.store.run_record import Figures, record_run
from raypipe.store.workspace import Workspace

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Call:
    """Hold one call of a verb: its name, the opened workspace, and the resolved settings."""

    verb: str
    workspace: Workspace
    config: Config

    def recorded(
        self, config: Config | None = None, *, optional: bool = False
    ) -> AbstractContextManager[Figures]:
        """Record the run in W/runs while the block runs; see `record_run`.

        Enter the block after the arguments are checked: a call that is refused must leave nothing
        behind, because the address of the workspace may be the mistake. `config` replaces the
        settings in the record where an argument of the verb has changed them.
        """
        return record_run(self.workspace, self.verb, config or self.config, optional=optional)


def verb(body: Callable[Concatenate[Call, Parameters], Answer]) -> Callable[Parameters, Answer]:
    """Turn a function that takes a `Call` first into a verb, which takes only the rest.

    The verb keeps name, docstring and parameters of the function, without the `Call`. One of the
    parameters is `workspace`; one may be `config`. The `Call` holds what they stand for.
    """
    whole = signature(body)
    first, *others = whole.parameters.values()
    public = whole.replace(parameters=others)

    @wraps(body)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        given: dict[str, Any] = public.bind(*args, **kwargs).arguments
        settings = as_config(given.get("config"))
        workspace = given["workspace"]
        opened = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
        return body(Call(body.__name__, opened, settings), *args, **kwargs)

    call.__annotations__ = {k: v for k, v in body.__annotations__.items() if k != first.name}
    call.__signature__ = public  # type: ignore[attr-defined]
    return call
