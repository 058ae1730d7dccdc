"""Account for each file of a folder, so that none is left out without being reported."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raypipe.discovery.files import Skipped
from raypipe.redaction import printable

log = logging.getLogger(__name__)

_NAMED_IN_LOG = 20
_MOST_SUFFIXES = 1000
_SUFFIXES_SHOWN = 10
_SUFFIX_LENGTH = 20
_OTHER = "others"


class SetAside(NamedTuple):
    """Name a file that could have been a detection but is not, or a folder that is not searched.

    `detection_id` is that of the detection whose photons the file repeats, None otherwise.
    """

    uri: str
    reason: str
    detection_id: str | None = None


@dataclass
class Account:
    """Count a folder's files: `listed` is the sum of all other counts.

    `spectra`: PHAs that are detections; `companions`: their responses and backgrounds, and those
    of spectra set aside; `unused`: products of the CSC that no detection uses, because they are of
    older versions or have no PHA; `set_aside`: files listed by name; `overlooked`: all other
    files, by suffix; `not_searched`: folders left out, whose files are not counted.
    """

    listed: int = 0
    spectra: int = 0
    companions: int = 0
    unused: int = 0
    set_aside: list[SetAside] = field(default_factory=list)
    overlooked: Counter[str] = field(default_factory=Counter)
    not_searched: list[SetAside] = field(default_factory=list)

    def overlook(self, name: str, number: int = 1) -> None:
        """Count a file as one that does not look like a spectrum; -1 removes it from the count."""
        suffix = _suffix(name)
        if suffix not in self.overlooked and len(self.overlooked) >= _MOST_SUFFIXES:
            suffix = _OTHER
        self.overlooked[suffix] += number

    def skip(self, skipped: Skipped, uri: str) -> None:
        """Count a file or folder that a listing left out."""
        if skipped.is_folder:
            self.not_searched.append(SetAside(uri, skipped.reason))
        else:
            self.listed += 1
            self.set_aside.append(SetAside(uri, skipped.reason))

    def summary(self) -> dict[str, Any]:
        """Return the counts for the manifest's summary."""
        return {
            "files": {
                "listed": self.listed,
                "spectra": self.spectra,
                "companions": self.companions,
                "unused": self.unused,
                "set_aside": len(self.set_aside),
                "overlooked": self.overlooked.total(),
            },
            "overlooked_suffixes": self._commonest_suffixes(),
            "folders_not_searched": len(self.not_searched),
        }

    def entries(self) -> list[SetAside]:
        """Return the files that are set aside and the folders not searched, in order of URI."""
        return sorted([*self.set_aside, *self.not_searched], key=lambda entry: entry[:2])

    def report(self) -> None:
        """Log the counts, and the names of the first files that are set aside."""
        log.info("discover: %s", self)
        entries = self.entries()
        for entry in entries[:_NAMED_IN_LOG]:
            log.warning("%s: set aside: %s", entry.uri, entry.reason)
        if len(entries) > _NAMED_IN_LOG:
            log.warning("%d more are set aside", len(entries) - _NAMED_IN_LOG)

    def __str__(self) -> str:
        suffixes = ", ".join(f"{suffix} {n}" for suffix, n in self._commonest_suffixes().items())
        return (
            f"{self.listed} files: {self.spectra} spectra, {self.companions} companions, "
            f"{self.unused} CSC products not used, {len(self.set_aside)} set aside, "
            f"{self.overlooked.total()} looked like no spectrum"
            + (f" ({suffixes})" if suffixes else "")
        )

    def _commonest_suffixes(self) -> dict[str, int]:
        there = ((suffix, n) for suffix, n in self.overlooked.items() if n)
        return dict(sorted(there, key=lambda each: (-each[1], each[0]))[:_SUFFIXES_SHOWN])


def _suffix(name: str) -> str:
    """Return the suffix of a file's name in lower case, together with .gz."""
    base = name.rsplit("/", 1)[-1].lower()
    plain = base.removesuffix(".gz")
    _, dot, suffix = plain.rpartition(".")
    return printable(f".{suffix}" + base[len(plain) :], _SUFFIX_LENGTH) if dot else "no suffix"
