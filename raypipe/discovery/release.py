"""Name the release that a source's detections belong to."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata

from raypipe.archive.products import is_release_name
from raypipe.config import DiscoverConfig
from raypipe.errors import RaypipeError, UsageError
from raypipe.store.workspace import Workspace, check_name

_SURVEY = "survey.json"
_MOST_CHARACTERS = 64
"""Length of a release's name that is made from a folder's: exports and locks extend it."""

_OTHER = re.compile(r"[^A-Za-z0-9_.\-]+")


def choose_release_name(source: str, release: str | None, config: DiscoverConfig) -> str:
    """Return the name of a source's release, the first that is given of these:

    `release`; the name of the archive's release; the release in the survey.json of a simulated
    survey; `discover.release`; the folder's own name (`folder_release`). Raises UsageError if the
    source is no folder, its survey is incomplete, or the name cannot be a release's.
    """
    if is_release_name(source):
        return check_name(release or source, "release")
    folder = Workspace(source)
    if not folder.exists(""):
        raise UsageError(f"{folder.uri}: no such folder")
    if folder.is_file(""):
        parent = folder.absolute_uri().rpartition("/")[0]
        raise UsageError(
            f"{folder.uri}: a file; give the folder that holds it: --source {parent or '/'}"
        )
    given = _survey_release(folder, release) or config.release
    return check_name(given, "release") if given else folder_release(folder)


def is_survey(folder: Workspace) -> bool:
    """Return whether a folder holds a survey that `simulate` wrote."""
    return folder.exists(_SURVEY)


def folder_release(folder: Workspace) -> str:
    """Return the release name that a folder, bucket or prefix gives: its last part.

    Letters lose their accents, and other characters become `-`. A long name is cut, and ends in a
    hash of the whole. Raises UsageError if nothing is left of the name.
    """
    path = folder.absolute_uri()
    last = posixpath.basename(posixpath.normpath(path) if folder.is_local else path)
    letters = unicodedata.normalize("NFKD", last)
    plain = "".join(each for each in letters if not unicodedata.combining(each))
    name = _OTHER.sub("-", plain).strip("-._")
    if len(name) > _MOST_CHARACTERS:
        digest = hashlib.sha256(last.encode("utf-8", "surrogateescape")).hexdigest()[:7]
        name = f"{name[: _MOST_CHARACTERS - 8]}-{digest}"
    if not name:
        raise UsageError(
            f"{folder.uri}: the folder's name gives no name for its release; name it, for "
            "instance --release mine"
        )
    return name


def _survey_release(folder: Workspace, asked: str | None) -> str | None:
    """Return the release asked for, else that of the simulated survey in a folder, if any.

    Raises UsageError if the survey is incomplete, since detections and the truth are missing then;
    and if no release is asked for and the file names none.
    """
    if not folder.exists(_SURVEY):
        return asked
    where = folder.absolute_uri(_SURVEY)
    try:
        survey = folder.read_json(_SURVEY)
        release, is_complete = str(survey["release"]), survey.get("complete", True)
    except (RaypipeError, LookupError, TypeError, AttributeError) as error:
        if asked is not None:
            return asked
        raise UsageError(
            f"{where}: not a survey's description ({error}); simulate the survey again or give "
            "--release"
        ) from error
    if not is_complete:
        raise UsageError(
            f"{where}: the survey there is not complete; run raypipe simulate again with the same "
            "arguments"
        )
    return asked or release
