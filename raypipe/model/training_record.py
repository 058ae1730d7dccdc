"""Read what a bundle's metrics.json records of the training: the spectra, the code, the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raypipe.errors import RaypipeError

TRAINED_ON = "trained_on"
"""Key of the description of the training spectra in metrics.json."""


FINETUNED = "finetuned"
"""Key of the description of a tuning to a view (`raypipe align --finetune`) in metrics.json."""


class TrainedOn(BaseModel):
    """Describe the spectra on which a model was trained; None and {} stand for unknown.

    `survey` names the release or the simulated survey; `simulated` tells whether raypipe simulated
    the spectra. `counts` is the smallest and the largest number of counts of a training spectrum,
    in the source region and in the channels that the model uses. `telescopes` and `classes` give
    the number of training detections of each; the telescope's name includes its instrument.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    survey: str | None = None
    simulated: bool | None = None
    detections: int | None = None
    sources: int | None = None
    counts: tuple[int, int] | None = None
    responses: int | None = None
    telescopes: dict[str, int] = Field(default_factory=dict)
    classes: dict[str, int] = Field(default_factory=dict)


class TrainingRecord(BaseModel):
    """Hold the keys of metrics.json that describe a training; None and {} stand for unknown."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    release: str | None = None
    data_fingerprint: str | None = None
    made_by: dict[str, str] = Field(default_factory=dict)
    spectra: dict[str, int] = Field(default_factory=dict)
    epochs: int | None = None
    best_epoch: int | None = None
    validation_loss: float | None = None
    trained_on: TrainedOn = Field(default_factory=TrainedOn)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        """Take the description of the spectra from the keys of earlier versions if need be."""
        spectra = metrics.get("spectra")
        earlier = {
            "survey": metrics.get("release"),
            "detections": spectra.get("train") if isinstance(spectra, dict) else None,
            "classes": metrics.get("classes"),
        }
        given = metrics.get(TRAINED_ON)
        if given is None or isinstance(given, dict):
            known = {key: value for key, value in earlier.items() if value is not None}
            metrics = metrics | {TRAINED_ON: known | (given or {})}
        return {key: value for key, value in metrics.items() if value is not None}

    @property
    def version(self) -> str | None:
        """Return the version of raypipe that trained the model."""
        return self.made_by.get("raypipe")


def training_record(metrics: Mapping[str, Any], where: str) -> TrainingRecord:
    """Read the record of a training from the content of metrics.json.

    Keys may be missing, as in bundles of earlier versions. Raises RaypipeError, with the address
    `where` of the bundle, if a key that is there has a value of the wrong type.
    """
    try:
        return TrainingRecord.model_validate(dict(metrics))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise RaypipeError(
            f"{where}: metrics.json: {key}: {problem['msg']}; restore it from a copy, or train the "
            "model again"
        ) from error


def describe_spectra(trained_on: TrainedOn, release: str | None) -> str:
    """Write the number, kind and origin of the training spectra as a phrase.

    `release` is that of the workspace in which the model was trained, None if there was none.
    """
    kind = {True: "simulated detections", False: "observed detections", None: "detections"}
    number = "" if trained_on.detections is None else f"{trained_on.detections:,} "
    sources = "" if trained_on.sources is None else f" of {trained_on.sources:,} sources"
    origin = describe_origin(trained_on, release)
    return f"{number}{kind[trained_on.simulated]}{sources}{origin and f', {origin}'}"


def describe_origin(trained_on: TrainedOn, release: str | None) -> str:
    """Name the survey, or the release of a workspace, of the training spectra; "" if unknown."""
    survey = trained_on.survey or ""
    return f"release {survey}" if survey and survey == release else survey


def describe_counts(trained_on: TrainedOn) -> str:
    """Write the range of counts of the training spectra as a phrase, "unknown" if it is."""
    if trained_on.counts is None:
        return "unknown"
    return f"{trained_on.counts[0]:,} to {trained_on.counts[1]:,}"


def describe_numbers(numbers: Mapping[str, int]) -> str:
    """Write names with their numbers as a list, "unknown" if there are none."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items()) or "unknown"
