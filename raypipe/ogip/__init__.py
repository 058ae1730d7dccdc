"""Read OGIP spectra and responses: PHA, ARF, RMF, and a Spectrum of all three."""

from raypipe.errors import OgipError
from raypipe.ogip.arf import Arf, read_arf
from raypipe.ogip.notes import Note
from raypipe.ogip.pha import Pha, read_pha
from raypipe.ogip.rmf import Rmf, read_rmf
from raypipe.ogip.spectrum import Spectrum, read_spectrum

__all__ = [
    "Arf",
    "Note",
    "OgipError",
    "Pha",
    "Rmf",
    "Spectrum",
    "read_arf",
    "read_pha",
    "read_rmf",
    "read_spectrum",
]
