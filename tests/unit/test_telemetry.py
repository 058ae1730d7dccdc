"""What stages tell: their figures, and lines of the log for people and machines."""

from __future__ import annotations

import json
import logging

import pytest

from raypipe.logs import JsonLines, TextLines
from raypipe.telemetry import stage


def _told(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = caplog.records
    return record


@pytest.fixture(autouse=True)
def _all_of_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("raypipe"), "propagate", True)
    caplog.set_level(logging.INFO, "raypipe")


def test_a_stage_ends_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    reasons = {f"reason {n}": n for n in range(1, 8)}
    with stage("ingest", "csc2.1") as told:
        told.add("rows", 70)
        told.add("rows", 30)
        told.add("bytes_read", 5000)
        told.reject({"fetch": {"gone": 20}, "read": reasons})
        figures = told.figures()
    assert (figures["rows"], figures["bytes_read"], figures["rejects"]) == (100, 5000, 48)
    assert figures["rejects_by_reason"] == {
        "gone": 20,
        "reason 7": 7,
        "reason 6": 6,
        "reason 5": 5,
        "reason 4": 4,
        "other reasons": 6,
    }
    line = TextLines().format(_told(caplog))
    assert "ingest csc2.1 done" in line
    assert "rows 100" in line
    assert "rejected: 20 gone; 7 reason 7" in line
    fields = json.loads(JsonLines().format(_told(caplog)))
    assert (fields["stage"], fields["outcome"], fields["rows"]) == ("ingest", "done", 100)
    assert fields["rejects_by_reason"]["gone"] == 20


def test_a_stage_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError), stage("embed", "csc2.1") as told:
        told.add("rows", 3 // len(told.totals))
    fields = json.loads(JsonLines().format(_told(caplog)))
    assert (fields["outcome"], fields["rows"]) == ("failed", 0)


def _interrupted() -> None:
    with stage("train", "folded-1"):
        raise KeyboardInterrupt


def test_a_stage_that_is_interrupted_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted()
    assert "train folded-1 interrupted" in TextLines().format(_told(caplog))


def test_metrics_that_are_not_known_are_an_error() -> None:
    with stage("ingest", "csc2.1") as told, pytest.raises(KeyError):
        told.add("spectra", 1)


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_lines_carry_no_credentials(formatter: logging.Formatter) -> None:
    address = "https://user:hidden@host/file?signature=hidden"
    try:
        raise OSError(address)
    except OSError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("raypipe", logging.INFO, "", 0, "%s", ("http://a:hidden@b/c",), info)
    line = formatter.format(record)
    assert "http://b/c" in line
    assert "https://host/file" in line
    assert "hidden" not in line
