"""Make the options of each verb from the signature of its function, and give each its help text.

To add an option, add a parameter to the function, and its text to `OPTIONS`.
"""

from __future__ import annotations

import argparse
import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import raypipe
from raypipe.config import PRESET_BINS
from raypipe.config_cluster import ClusterMethod
from raypipe.exporting.formats import FORMATS, RESPONSES

VERBS = {
    "simulate": "simulate a survey as FITS products",
    "discover": "list the detections of a data source in a manifest",
    "plan": "predict time and cost of ingesting a release, from a sample",
    "ingest": "read the files of a manifest into spectra and rejects",
    "train": "train an autoencoder on the spectra of a release",
    "tune": "search for the settings that explain the spectra best",
    "embed": "write the latent catalog of a release",
    "cluster": "find clusters of detections, as columns of the catalog",
    "classify": "add calibrated class probabilities, learned from labeled sources",
    "evaluate": "measure the quality of the latents",
    "align": "align spectra with a second view of their sources",
    "translate": "predict the spectrum of a row of the aligned table",
    "report": "write an HTML report on a catalog",
    "explore": "write an HTML page to explore a catalog, with its spectra",
    "export": "write a catalog in a format that other tools open",
    "describe": "say what is known of spectra: flux, physics, classes, cautions",
    "search": "find similar or unusual detections in a catalog",
    "run": "run the full pipeline, from a data source to a report",
    "reprocess": "make the catalog of a new release, reusing an earlier one",
    "compare": "compare the catalogs of two releases, source by source",
    "status": "show the contents of a workspace",
    "models": "list the model in the box and those of a workspace",
    "settings": "list every setting, as TOML for --config",
}
"""Each verb, in the order of `raypipe --help`, with its summary."""


@dataclass(frozen=True)
class Option:
    """Hold the help text of an option, and how argparse shows and checks its value."""

    help: str
    metavar: str | tuple[str, str] | None = None
    choices: tuple[str, ...] | None = None


OPTIONS = {
    "arf": Option("ARF file of that spectrum", metavar="FILE"),
    "background": Option("background file of that spectrum", metavar="FILE"),
    "base": Option("earlier release to reuse; default: the only other one"),
    "alignment": Option(
        "score this alignment; default: the one whose columns the catalog has", metavar="ID"
    ),
    "by": Option(
        "join --catalog by position on the sky; default: by id or name", choices=("position",)
    ),
    "catalog": Option("join the columns and class labels of this table"),
    "compare": Option(
        "measure nothing, but say which figures of run 2 are better or worse than those of run 1; "
        "a run is a metrics.json, or the id of a model",
        metavar=("RUN1", "RUN2"),
    ),
    "cluster": Option("Ray cluster launcher file with prices; default: cluster.yaml"),
    "columns": Option(
        "columns of the view, and light curves as TIMES:RATES; default: all that can be used",
        metavar="NAME,...",
    ),
    "clusters": Option("number of clusters; default: chosen by the data", metavar="N"),
    "classifier": Option("use this classifier of the same model, and train none", metavar="FILE"),
    "context": Option(
        "whether position in the sky and column density take part; default: all",
        choices=("all", "none"),
    ),
    "detection": Option("find detections similar to this one", metavar="ID"),
    "detections": Option("predict for this number of detections; default: all in the manifest"),
    "finetune": Option(
        "also tune a copy of the catalog's model, encoder and decoder, to the view, as a new model"
    ),
    "first": Option("release with a catalog"),
    "format": Option("format; ogip writes the responses", choices=(*FORMATS, RESPONSES)),
    "host": Option("serve at this address of the machine; default: 127.0.0.1", metavar="ADDRESS"),
    "k": Option("number of results"),
    "key": Option(
        "join rows by this; default: the first that matches",
        choices=("name", "detection_id", "position"),
    ),
    "labels": Option("table with class labels and true parameters"),
    "like_view": Option(
        "find detections similar to a row of the aligned table: its name, detection_id or #N, or "
        "values as JSON",
        metavar="ROW",
    ),
    "method": Option("how clusters are found", choices=get_args(ClusterMethod)),
    "model": Option(
        "id of a model, or folder of a bundle; default: the workspace's, else the one in the box"
    ),
    "name": Option("find detections similar to those of this source", metavar="'2CXO J...'"),
    "out": Option(
        "write to this local path or s3://bucket/prefix; default: the workspace", metavar="FOLDER"
    ),
    "pha": Option("find detections similar to your own spectrum", metavar="FILE"),
    "plot": Option(
        "draw into this .png, .svg or .html; for several spectra a folder, or a name with {file}",
        metavar="FILE",
    ),
    "port": Option("serve at this port; default: a free one", metavar="N"),
    "preset": Option("recipe for model and loss", choices=tuple(PRESET_BINS)),
    "previous": Option(
        "release whose clusters keep their numbers; default: the newest that has clusters"
    ),
    "radius": Option("join by position within this distance, arcsec; default: 1"),
    "release": Option("release to work on; default: the only one"),
    "responses": Option(
        "use the responses, of any telescopes, in this folder; may be given several times"
    ),
    "rmf": Option("RMF file of that spectrum", metavar="FILE"),
    "sample": Option("number of detections to ingest as a sample"),
    "second": Option("other release with a catalog"),
    "section": Option("list this section alone"),
    "seed": Option("seed for the choice of the sample"),
    "source": Option("folder, s3:// prefix, or release of the archive"),
    "spectra": Option("PHA files, with ARF and RMF beside them or given", metavar="FILE"),
    "serve": Option("serve a page of all detections until Ctrl-C, instead of writing a file"),
    "sources": Option("export sources instead of detections"),
    "strangest": Option("list the detections that the model explains worst"),
    "text": Option(
        "find detections similar to this text, by the text encoder of the alignment",
        metavar="TEXT",
    ),
    "text_encoder": Option(
        "read columns of text with this encoder, a folder of the sentence-transformers layout",
        metavar="FOLDER",
    ),
    "to_view": Option("find rows of the aligned table instead of detections"),
    "train": Option("train a model on these spectra, and embed them with it"),
    "study": Option("also ask all questions of the study; takes minutes"),
    "trials": Option("number of trials"),
    "visits": Option("observations of each source, by different telescopes"),
    "with_": Option(
        "join the columns of this table, by id, name or position, to color and filter by",
        metavar="TABLE",
    ),
    "view": Option(
        "row of the aligned table: its name, detection_id or #N, or values as JSON", metavar="ROW"
    ),
    "where": Option("select detections of an archive release", metavar="ADQL"),
    "workspace": Option("local path or s3://bucket/prefix"),
}
"""Each option by the name of its parameter, for all verbs but those in `SPECIAL_OPTIONS`."""

_NEW_RELEASE = Option(
    "name of the release; default: that of the archive or survey, or the folder's"
)
SPECIAL_OPTIONS = {
    ("simulate", "catalog"): Option("draw sources from this table of real ones"),
    ("simulate", "detections"): Option("number of detections"),
    ("simulate", "out"): Option("folder to write the survey to"),
    ("simulate", "seed"): Option("seed for all random draws"),
    ("evaluate", "catalog"): Option(
        "table of real detections that a survey was drawn from, or of the catalog's own: fluxes, "
        "fits and variability for the questions of the study"
    ),
    ("align", "with_"): Option("table with the second view", metavar="TABLE"),
    ("translate", "detection"): Option(
        "also predict counts for the instrument and exposure of this detection", metavar="ID"
    ),
    ("translate", "pha"): Option(
        "also predict counts for the instrument and exposure of your own spectrum", metavar="FILE"
    ),
    ("translate", "plot"): Option(
        "draw flux and counts with their bands into this .png or .svg", metavar="FILE"
    ),
    ("cluster", "plot"): Option(
        "draw the spectra of the clusters into this .png or .svg", metavar="FILE"
    ),
    ("describe", "model"): Option(
        "folder of a model bundle; default: the model that ships with raypipe"
    ),
    ("discover", "release"): _NEW_RELEASE,
    ("run", "release"): _NEW_RELEASE,
    ("run", "source"): Option('folder, s3:// prefix, release of the archive, or "simulated"'),
    ("explore", "sample"): Option(
        "most detections on the page; default: 50000; the strangest are among them", metavar="N"
    ),
    ("reprocess", "release"): Option("name of the release"),
}
"""Options whose parameter means something else in one verb, by verb and parameter."""

ONLY_IN_PYTHON = {
    "simulate": {"apec_dir", "counts_min", "counts_max", "overwrite", "workers", "progress"},
}
"""Parameters, besides `config`, that are no options. Some are settings of the verb's section."""

_TYPES = {"int": int, "float": float}
POSITIONAL = {"first", "second", "section", "spectra"}
PAIRS = {"compare"}
"""Options that take two values."""
REPEATED = {"responses"}
"""Options that may be given several times; the function gets a list."""
EXACTLY_ONE = {"search": ("detection", "name", "pha", "strangest", "like_view", "text")}
"""Options of a verb that exclude each other, and one of which is required."""


@dataclass(frozen=True)
class Parameter:
    """Describe a parameter of a verb: its name, its type as written, and whether it is required.

    `is_variadic` tells that the function takes any number of positional values, and the command
    line at least one.
    """

    name: str
    type: str
    is_required: bool
    is_variadic: bool = False


@cache
def parameters_of(verb: str) -> tuple[Parameter, ...]:
    """Read the parameters of a verb in its source, without the `Call` that `@verb` fills in.

    Importing the verb instead would load Ray and PyTorch, which takes seconds.
    """
    path = Path(raypipe.__file__).parents[1] / raypipe.public_names()[verb].replace(".", "/")
    (function,) = (
        node
        for node in ast.parse(path.with_suffix(".py").read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == verb
    )
    given = function.args
    no_default = [None] * (len(given.args) - len(given.defaults))
    defaults = [*no_default, *given.defaults, *given.kw_defaults]
    found = [
        Parameter(each.arg, ast.unparse(each.annotation or ast.Constant(None)), default is None)
        for each, default in zip([*given.args, *given.kwonlyargs], defaults, strict=True)
    ]
    if given.vararg is not None:
        annotation = ast.unparse(given.vararg.annotation or ast.Constant(None))
        found.insert(0, Parameter(given.vararg.arg, annotation, True, is_variadic=True))
    return tuple(each for each in found if each.type != "Call")


def takes_settings(verb: str) -> bool:
    """Return whether a verb has the parameter `config`."""
    return any(each.name == "config" for each in parameters_of(verb))


def options_of(verb: str) -> list[Parameter]:
    """Return the parameters of a verb that are options of the command line."""
    others = {"config"} | ONLY_IN_PYTHON.get(verb, set())
    return [each for each in parameters_of(verb) if each.name not in others]


def add_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the options of a verb to its parser.

    An option that the user omits leaves no value, so that the default of the function applies.
    """
    exclusive = EXACTLY_ONE.get(verb, ())
    choice = parser.add_mutually_exclusive_group(required=True) if exclusive else parser
    for parameter in sorted(options_of(verb), key=lambda each: each.name not in exclusive):
        _add(choice if parameter.name in exclusive else parser, verb, parameter)


def _add(parser: Any, verb: str, parameter: Parameter) -> None:
    name = parameter.name
    option = SPECIAL_OPTIONS.get((verb, name)) or OPTIONS[name]
    shown: dict[str, Any] = {"help": option.help, "default": argparse.SUPPRESS}
    if name in POSITIONAL:
        nargs = "+" if parameter.is_variadic else None if parameter.is_required else "?"
        parser.add_argument(name, nargs=nargs, metavar=option.metavar, **shown)
        return
    shown["required"] = parameter.is_required
    if parameter.type == "bool":
        shown["action"] = "store_true"
    else:
        shown |= {"metavar": option.metavar, "choices": option.choices}
        shown["type"] = _TYPES.get(parameter.type.removesuffix(" | None"), str)
    if name in PAIRS:
        shown["nargs"] = 2
    if name in REPEATED:
        shown["action"] = "append"
    # A parameter that would be a word of Python ends with an underscore: `with_` is --with.
    word = name.rstrip("_").replace("_", "-")
    parser.add_argument(f"-{word}" if len(word) == 1 else f"--{word}", dest=name, **shown)
