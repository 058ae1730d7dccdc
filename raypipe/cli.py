"""Run `raypipe VERB --workspace W [options]`; each verb is a function of the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from raypipe._version import __version__
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.exporting.formats import FORMATS
from raypipe.logs import log_to_stderr
from raypipe.redaction import printable, redact_text

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

Verb = Callable[[argparse.Namespace, Config], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code: 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    log_to_stderr(options.log_format, verbose=options.verbose, quiet=options.json)
    try:
        config = load_config(options.config, options.settings)
        answer = options.run(options, config)
    except UsageError as error:
        return _fail(error, BAD_USAGE, options)
    except RaypipeError as error:
        return _fail(error, FAILED, options)
    except KeyboardInterrupt:
        print("raypipe: interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:
        if options.json:
            print(json.dumps({"error": redact_text(repr(error)), "exit_code": FAILED}))
        raise
    try:
        _print(answer, options)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    return DONE


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="raypipe", description="Turn X-ray spectra into a latent catalog, on Ray."
    )
    parser.add_argument("--version", action="version", version=f"raypipe {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    simulate = _verb(verbs, "simulate", _simulate, "simulate a survey as FITS products")
    simulate.add_argument("--detections", type=int, help="number of detections")
    simulate.add_argument("--seed", type=int, help="seed for all random draws")
    simulate.add_argument("--out", required=True, help="folder to write the survey to")
    simulate.add_argument("--catalog", help="draw sources from this table of real ones")
    simulate.add_argument(
        "--responses",
        action="append",
        help="use the ARF and RMF pairs, of any telescopes, in this folder (may be given again)",
    )
    simulate.add_argument(
        "--visits", type=int, help="observations of each source, by different telescopes"
    )

    discover = _verb(
        verbs, "discover", _discover, "list the detections of a data source in a manifest"
    )
    _source_options(discover)

    plan = _verb(
        verbs, "plan", _plan, "predict time and cost of ingesting a release, from a sample"
    )
    plan.add_argument("--sample", type=int, help="number of detections to ingest as a sample")
    plan.add_argument(
        "--detections",
        type=int,
        help="predict for this number of detections; default: all in the manifest",
    )
    plan.add_argument("--seed", type=int, help="seed for the choice of the sample")
    plan.add_argument(
        "--cluster", help="Ray cluster launcher file with prices; default: cluster.yaml"
    )
    ingest = _verb(
        verbs, "ingest", _ingest, "read the files of a manifest into spectra and rejects"
    )
    train = _verb(verbs, "train", _train, "train an autoencoder on the spectra of a release")
    tune = _verb(verbs, "tune", _tune, "search for the settings that explain the spectra best")
    for verb in train, tune:
        verb.add_argument("--preset", choices=["folded", "paper"], help="recipe for model and loss")
    tune.add_argument("--trials", type=int, help="number of trials")
    embed = _verb(verbs, "embed", _embed, "write the latent catalog of a release")
    evaluate = _verb(verbs, "evaluate", _evaluate, "measure the quality of the latents")
    report = _verb(verbs, "report", _report, "write an HTML report on a catalog")
    export = _verb(verbs, "export", _export, "write a catalog in a format that other tools open")
    export.add_argument("--format", required=True, choices=FORMATS, help="format of the file")
    export.add_argument(
        "--sources", action="store_true", help="export sources instead of detections"
    )
    export.add_argument("--out", metavar="FOLDER", help="local path or s3://bucket/prefix")
    search = _verb(verbs, "search", _search, "find similar or unusual detections in a catalog")
    _search_options(search)
    run = _verb(verbs, "run", _run, "run the full pipeline, from a data source to a report")
    _source_options(run, extra=', or "simulated"')
    reprocess = _verb(
        verbs, "reprocess", _reprocess, "make the catalog of a new release, reusing an earlier one"
    )
    _source_options(reprocess, release_required=True)
    reprocess.add_argument("--base", help="earlier release to reuse; default: the only other one")
    compare = _verb(
        verbs, "compare", _compare, "compare the catalogs of two releases, source by source"
    )
    compare.add_argument("first", help="release with a catalog")
    compare.add_argument("second", help="other release with a catalog")
    status = _verb(verbs, "status", _status, "show the contents of a workspace")
    listed = _verb(verbs, "settings", _settings, "list every setting, as TOML for --config")
    listed.add_argument("section", nargs="?", help="list this section alone")

    everywhere = discover, plan, ingest, train, embed, evaluate, report, export, search, run, status
    for verb in *everywhere, tune, reprocess, compare:
        verb.add_argument("--workspace", required=True, help="local path or s3://bucket/prefix")
    for verb in plan, ingest, train, tune, embed, evaluate, report, export, search:
        verb.add_argument("--release", help="release to work on; default: the only one")
    for verb in plan, embed, evaluate, report, export, search, run, reprocess, compare:
        verb.add_argument(
            "--model", help="id of a model in the workspace, or folder of a model bundle"
        )
    for verb in evaluate, report, run:
        verb.add_argument("--labels", help="table with class labels and true parameters")
    return parser


def _verb(verbs: Any, name: str, function: Verb, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=function)
    parser.add_argument("--config", help="TOML file with settings")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="change one setting; may be repeated; see raypipe settings",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more details")
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="log as text, or as JSON lines that include the figures of each stage",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    return parser


def _source_options(
    parser: argparse.ArgumentParser, extra: str = "", release_required: bool = False
) -> None:
    parser.add_argument(
        "--source", required=True, help=f"folder, s3:// prefix, or release of the archive{extra}"
    )
    parser.add_argument("--where", metavar="ADQL", help="select detections of an archive release")
    parser.add_argument("--catalog", help="join the columns and class labels of this table")
    parser.add_argument("--release", help="name for the release", required=release_required)


def _search_options(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--detection", metavar="ID", help="find detections similar to this one")
    asked.add_argument(
        "--name", metavar="'2CXO J...'", help="find detections similar to those of this source"
    )
    asked.add_argument("--pha", metavar="FILE", help="find detections similar to your own spectrum")
    asked.add_argument(
        "--strangest", action="store_true", help="list the detections that the model explains worst"
    )
    for file in "arf", "rmf", "background":
        parser.add_argument(
            f"--{file}",
            metavar="FILE",
            help=f"{file.upper() if len(file) == 3 else file} file of that spectrum",
        )
    parser.add_argument("-k", type=int, default=10, help="number of results")


def _simulate(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.simulation.simulate import simulate

    given = {name: getattr(options, name) for name in ("detections", "seed", "visits")}
    settings = config.simulate.model_dump() | {k: v for k, v in given.items() if v is not None}
    folders = options.responses
    responses = folders[0] if folders and len(folders) == 1 else folders
    summary = simulate(options.out, catalog=options.catalog, responses=responses, **settings)
    return asdict(summary)


def _discover(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.discovery.discover import discover

    return discover(
        options.workspace,
        source=options.source,
        where=options.where,
        catalog=options.catalog,
        release=options.release,
        config=config,
    )


def _plan(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.planning.plan import plan
    from raypipe.planning.plan_text import plan_lines

    answer = plan(
        options.workspace,
        release=options.release,
        sample=options.sample,
        detections=options.detections,
        seed=options.seed,
        cluster=options.cluster,
        model=options.model,
        config=config,
    )
    return answer if options.json else "\n".join(plan_lines(answer))


def _ingest(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.ingestion.ingest import ingest

    return ingest(options.workspace, release=options.release, config=config)


def _train(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.training.train import train

    model_id = train(
        options.workspace, release=options.release, preset=options.preset, config=config
    )
    return {"model_id": model_id}


def _tune(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.tuning.tune import tune

    model_id = tune(
        options.workspace,
        release=options.release,
        preset=options.preset,
        trials=options.trials,
        config=config,
    )
    return {"model_id": model_id}


def _embed(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.embedding.embed import embed

    model_id = embed(options.workspace, release=options.release, model=options.model, config=config)
    return {"model_id": model_id}


def _evaluate(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.evaluation.evaluate import evaluate

    metrics = evaluate(
        options.workspace,
        release=options.release,
        model=options.model,
        labels=options.labels,
        config=config,
    )
    return metrics if options.json else metrics["summary"]


def _report(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.reporting.report import report

    page = report(
        options.workspace,
        release=options.release,
        model=options.model,
        labels=options.labels,
        config=config,
    )
    return {"report": page}


def _export(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.exporting.export import export

    written = export(
        options.workspace,
        format=options.format,
        release=options.release,
        model=options.model,
        sources=options.sources,
        out=options.out,
        config=config,
    )
    return {"export": written}


def _search(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.searching.search import answer_json, answer_text, search

    answer = search(
        options.workspace,
        detection=options.detection,
        name=options.name,
        pha=options.pha,
        arf=options.arf,
        rmf=options.rmf,
        background=options.background,
        k=options.k,
        strangest=options.strangest,
        release=options.release,
        model=options.model,
        config=config,
    )
    return answer_json(answer) if options.json else answer_text(answer)


def _run(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.pipeline.run import run

    return run(
        options.workspace,
        source=options.source,
        where=options.where,
        catalog=options.catalog,
        labels=options.labels,
        release=options.release,
        model=options.model,
        config=config,
    )


def _reprocess(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.reprocessing.reprocess import reprocess

    return reprocess(
        options.workspace,
        release=options.release,
        source=options.source,
        base=options.base,
        where=options.where,
        catalog=options.catalog,
        model=options.model,
        config=config,
    )


def _compare(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.reprocessing.compare import compare

    return compare(
        options.workspace, options.first, options.second, model=options.model, config=config
    )


def _status(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.pipeline.status import status, status_lines

    state = status(options.workspace)
    return state if options.json else "\n".join(status_lines(state))


def _settings(options: argparse.Namespace, config: Config) -> Any:
    from raypipe.config_toml import settings

    chosen = {options.section} if options.section else None
    text = settings(options.section, config)
    return config.model_dump(include=chosen) if options.json else text.rstrip()


def _fail(error: RaypipeError, code: int, options: argparse.Namespace) -> int:
    said = redact_text(str(error))
    if options.json:
        print(json.dumps({"error": said, "exit_code": code}))
    print(f"raypipe: {printable(said)}", file=sys.stderr)
    return code


def _reader_gone() -> int:
    """Discard what is still to be printed after the reader, such as `head`, has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _print(answer: Any, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(answer, default=str))
    elif isinstance(answer, dict):
        print("\n".join(_lines(answer)))
    elif answer is not None:
        print(answer)


def _lines(answer: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in answer.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
