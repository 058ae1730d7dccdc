"""The errors raypipe raises on purpose: each message names the thing at fault and the mend."""


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

    The message names the file, the HDU where there is one, and what was expected there.
    """

    def __init__(self, path: str, problem: str, *, hdu: str | None = None) -> None:
        self.path = path
        self.hdu = hdu
        self.problem = problem
        where = f"{path}[{hdu}]" if hdu else path
        super().__init__(f"{where}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_ogip_error, (self.path, self.problem, self.hdu)


def _rebuild_ogip_error(path: str, problem: str, hdu: str | None) -> OgipError:
    return OgipError(path, problem, hdu=hdu)
