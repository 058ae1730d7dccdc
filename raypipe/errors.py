"""The errors raypipe raises on purpose: each message names the thing at fault and the mend."""

from raypipe.redaction import printable


class RaypipeError(Exception):
    """A failure raypipe explains itself; the command line ends with exit code 1."""


class UsageError(RaypipeError):
    """A wrong option, name or configuration; the command line ends with exit code 2."""


class BusyError(RaypipeError):
    """Another run does the same work on the same workspace."""


class ServiceError(RaypipeError):
    """A service on the net that did not answer, or not with what it should have."""


class OgipError(RaypipeError, ValueError):
    """Bytes that are not the OGIP product they should be.

    The message names the file, the HDU where there is one, and what was expected there. `problem`
    and `hdu` quote headers that anybody may have written: they are cut to `MAX_PROBLEM` and
    `MAX_HDU` characters, and their control characters are escaped. `path` stays as given, and is
    cut in the message alone.
    """

    MAX_PATH = 600
    MAX_PROBLEM = 1000
    MAX_HDU = 100

    def __init__(self, path: str, problem: str, *, hdu: str | None = None) -> None:
        self.path = path
        self.hdu = hdu and printable(hdu, self.MAX_HDU)
        self.problem = printable(problem, self.MAX_PROBLEM)
        file = printable(path, self.MAX_PATH)
        where = f"{file}[{self.hdu}]" if self.hdu else file
        super().__init__(f"{where}: {self.problem}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_ogip_error, (self.path, self.problem, self.hdu)


def _rebuild_ogip_error(path: str, problem: str, hdu: str | None) -> OgipError:
    return OgipError(path, problem, hdu=hdu)
