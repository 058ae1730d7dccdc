"""Run the verb `describe`: say what is known of single spectra, without Ray or a workspace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypipe.config import Config
from raypipe.config_toml import as_config
from raypipe.describing.description import Description, Descriptions, Undescribed
from raypipe.describing.plot_files import PlotFiles
from raypipe.errors import OgipError, RaypipeError, UsageError
from raypipe.ogip import Spectrum

if TYPE_CHECKING:
    from raypipe.model.bundle import Model
    from raypipe.model.inputs import SpectrumOrPath


def describe(
    *spectra: SpectrumOrPath,
    model: str | os.PathLike[str] | Model | None = None,
    arf: str | os.PathLike[str] | None = None,
    rmf: str | os.PathLike[str] | None = None,
    background: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> Description | Descriptions:
    """Describe spectra, or PHA files given by their paths: fluxes, physics, classes, cautions.

    One spectrum gives its `Description`, or raises OgipError, naming the file, if it cannot be
    read or used. Several give `Descriptions`, in which such a spectrum is in its place with its
    error.

    `model` is a model or the folder of a bundle; without one, it is the model that ships with
    raypipe. `arf`, `rmf` and `background` replace the files that the PHA names, and belong to one
    spectrum. `plot` is a file (.png, .svg or .html) to draw the description into; for several
    spectra it is a folder, or a name with {file}, which stands for the name of the spectrum. Of
    `config`, the settings `embed` are used.
    """
    found = describe_all(
        spectra,
        model=model,
        arf=arf,
        rmf=rmf,
        background=background,
        plot=plot,
        config=config,
    )
    if len(found) > 1:
        return found
    (only,) = found
    if isinstance(only, Undescribed):
        raise only.error
    return only


def describe_all(
    spectra: Iterable[SpectrumOrPath],
    *,
    model: str | os.PathLike[str] | Model | None = None,
    arf: str | os.PathLike[str] | None = None,
    rmf: str | os.PathLike[str] | None = None,
    background: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> Descriptions:
    """Describe any number of spectra as `describe` does, with the errors of those that fail.

    Raises UsageError for arguments that do not fit each other, before anything is read.
    """
    given = list(spectra)
    overrides = {"arf": arf, "rmf": rmf, "background": background}
    _require_usable(given, overrides)
    plots = PlotFiles.of(plot, [_path(each) for each in given])
    embed = as_config(config).embed

    from raypipe.describing.measure import describe_spectrum, folded_network, on_one_core

    trained = _opened(model)
    network = folded_network(trained)
    described: list[Description | Undescribed] = []
    with on_one_core():
        for place, each in enumerate(given):
            try:
                spectrum = _read(each, overrides)
                description = describe_spectrum(spectrum, trained, network, embed)
            except RaypipeError as error:
                described.append(Undescribed(_path(each), error))
            else:
                plots.write(place, description)
                described.append(description)
    return Descriptions(tuple(described))


def _require_usable(given: list[Any], overrides: Mapping[str, object]) -> None:
    if not given:
        raise UsageError("no spectrum was given: name at least one PHA file")
    for place, each in enumerate(given):
        if not isinstance(each, Spectrum | str | os.PathLike):
            raise UsageError(
                f"spectrum {place} is of type {type(each).__name__}: give spectra "
                "(raypipe.read_spectrum) or paths of PHA files"
            )
    if any(file is not None for file in overrides.values()):
        if len(given) > 1:
            raise UsageError("--arf, --rmf and --background belong to one spectrum: give only that")
        if isinstance(given[0], Spectrum):
            raise UsageError("arf, rmf and background belong to a path: give them to read_spectrum")


def _read(given: SpectrumOrPath, overrides: Mapping[str, Any]) -> Spectrum:
    from raypipe.searching.query import SpectrumFiles

    if isinstance(given, Spectrum):
        return given
    try:
        return SpectrumFiles(given, **overrides).read()
    except OSError as error:
        raise OgipError(os.fspath(given), f"cannot be read ({error.strerror})") from error


def _opened(model: str | os.PathLike[str] | Model | None) -> Model:
    from raypipe.model.bundle import Model, load_model

    if isinstance(model, Model):
        return model
    return load_model() if model is None else load_model(model)


def _path(given: SpectrumOrPath) -> str:
    return given.path if isinstance(given, Spectrum) else os.fspath(given)
