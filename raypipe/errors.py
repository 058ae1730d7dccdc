"""Define the errors that raypipe raises; their messages name the cause and the remedy."""

from raypipe.redaction import printable


class RaypipeError(Exception):
    """Report a failure with an explanation; the command line ends with exit code 1."""


class UsageError(RaypipeError):
    """Report a wrong option, name or configuration; the command line ends with exit code 2."""


class BusyError(RaypipeError):
    """Report that another run is doing the same work on the same workspace."""


class ServiceError(RaypipeError):
    """Report that a network service did not answer, or gave an unusable answer."""


class OgipError(RaypipeError, ValueError):
    """Report that bytes are not the OGIP product that was expected.

    The message names the file, the HDU if known, and what was expected there. `problem` and `hdu`
    may quote untrusted headers: they are shortened to `MAX_PROBLEM` and `MAX_HDU` characters, and
    their control characters are escaped. `path` is kept as given and shortened in the message only.
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
