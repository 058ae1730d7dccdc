"""Run `raypipe VERB --workspace W [options]`; each verb is a function of the package."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import raypipe
from raypipe._version import __version__
from raypipe.cli_options import VERBS, add_options, options_of, takes_settings
from raypipe.config import Config
from raypipe.config_toml import load_config
from raypipe.errors import RaypipeError, UsageError
from raypipe.logs import LogFormat, log_to_stderr
from raypipe.redaction import printable, redact_text

if TYPE_CHECKING:
    from raypipe.describing.description import Descriptions

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

_LOADS = {
    **dict.fromkeys(("discover", "plan", "ingest"), "Ray"),
    **dict.fromkeys(("train", "tune", "embed", "run", "reprocess"), "Ray and PyTorch"),
    **dict.fromkeys(("cluster", "classify", "align", "evaluate", "report", "explore"), "PyTorch"),
    **dict.fromkeys(("export", "describe", "search", "compare", "translate"), "PyTorch"),
}
"""Libraries that a verb imports before it works, which takes seconds."""

log = logging.getLogger("raypipe.cli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code: 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    log_to_stderr(options.log_format, verbose=options.verbose, quiet=options.json)
    try:
        config = load_config(options.config, options.settings)
        result = _call(options.verb, options, config)
        answer = _answer(options.verb, result, config, options)
    except UsageError as error:
        return _fail(error, BAD_USAGE, options)
    except RaypipeError as error:
        return _fail(error, FAILED, options)
    except KeyboardInterrupt:
        continues = "" if options.verb == "describe" else "; run the same command again to continue"
        print(f"raypipe: interrupted{continues}", file=sys.stderr)
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
    return _report_undescribed(result) if options.verb == "describe" else DONE


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="raypipe", description="Turn X-ray spectra into a latent catalog, on Ray."
    )
    parser.add_argument("--version", action="version", version=f"raypipe {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        each = verbs.add_parser(name, help=summary, description=summary)
        add_options(each, name)
        _add_common_options(each)
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    common = parser.add_argument_group("options of every verb")
    common.add_argument("--config", help="TOML file with settings")
    common.add_argument(
        "--set",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="change one setting; may be repeated; see raypipe settings",
    )
    common.add_argument("-v", "--verbose", action="store_true", help="log more details")
    common.add_argument(
        "--log-format",
        choices=get_args(LogFormat),
        default="text",
        help="log as text, or as JSON lines that include the figures of each stage",
    )
    common.add_argument("--json", action="store_true", help="print the answer as JSON")


def _call(verb: str, options: argparse.Namespace, config: Config) -> Any:
    """Call the function of a verb with the options that were given, and with the settings."""
    names = [each.name for each in options_of(verb) if each.name in options]
    given = {name: getattr(options, name) for name in names}
    if verb == "simulate":
        given = config.simulate.model_dump() | given
    if takes_settings(verb):
        given["config"] = config
    if verb in _LOADS:
        log.info("%s: loading %s", verb, _LOADS[verb])
    if verb == "describe":
        from raypipe.describing.describe import describe_all

        return describe_all(**given)  # keeps the errors of single files
    function = getattr(raypipe, verb)  # imports the module of the verb
    return function(**given)


def _answer(verb: str, result: Any, config: Config, options: argparse.Namespace) -> Any:
    """Turn the result of a verb into what is printed: as JSON, or for reading."""
    match verb:
        case "simulate":
            return asdict(result)
        case "train" | "tune" | "embed":
            return {"model_id": result}
        case "report" | "explore" | "export":
            return {verb: result}
        case "describe":
            from raypipe.describing.table import described_text

            return result.as_json() if options.json else described_text(result)
        case "search":
            from raypipe.searching.answers import answer_json, answer_text

            return answer_json(result) if options.json else answer_text(result)
        case "translate":
            return result.as_json() if options.json else str(result)
        case "settings" if options.json:
            section = vars(options).get("section")
            return config.model_dump(include={section} if section else None)
        case "settings":
            return result.rstrip()
        case "evaluate" if "compare" in vars(options) and not options.json:
            from raypipe.evaluation.compare_runs import comparison_text

            return comparison_text(result)
        case "align" if not options.json:
            from raypipe.alignment.card import metrics_table

            return f"{result['alignment_id']}\n{metrics_table(result)}"
        case "evaluate" if not options.json:
            return result["summary"]
        case "classify" if not options.json:
            from raypipe.classifying.judging import headlines

            return headlines(result)
        case "plan" if not options.json:
            from raypipe.planning.plan_text import plan_lines

            return "\n".join(plan_lines(result))
        case "models" if not options.json:
            from raypipe.pipeline.models import models_lines

            return "\n".join(models_lines(result))
        case "status" if not options.json:
            from raypipe.pipeline.status import status_lines

            return "\n".join(status_lines(result))
    return result


def _fail(error: RaypipeError, code: int, options: argparse.Namespace) -> int:
    said = redact_text(str(error))
    if options.json:
        print(json.dumps({"error": said, "exit_code": code}))
    print(f"raypipe: {printable(said)}", file=sys.stderr)
    return code


def _report_undescribed(found: Descriptions) -> int:
    """Print the error of each file that was not described; return the exit code."""
    for each in found.undescribed:
        print(f"raypipe: {printable(redact_text(str(each)))}", file=sys.stderr)
    return FAILED if found.undescribed else DONE


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
