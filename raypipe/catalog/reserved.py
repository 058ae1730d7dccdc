"""Reserve the names of raypipe's own columns, so that no table of a user may fill them."""

from __future__ import annotations

from raypipe.catalog.schema import is_own
from raypipe.spectra.schema import SPECTRUM_FIELDS
from raypipe.store.manifest import IDENTITY, OWN_TYPES

_HATS = {"_healpix_29", "norder", "dir", "npix"}
"""Names that a HATS catalog gives to its index and to its partitions."""

_WRITTEN = {*OWN_TYPES, *(field.name for field in SPECTRUM_FIELDS), *_HATS}


def is_reserved(name: str) -> bool:
    """Tell whether a name, in upper or lower case, is that of a column which raypipe writes.

    These are the columns of manifest, spectra, catalog and sources, except those that identify a
    detection (`raypipe.store.manifest.IDENTITY`), which a table may fill, and the probabilities
    `p_<class>`, whose classes only a model knows.
    """
    lower = name.lower()
    return lower not in IDENTITY and (lower in _WRITTEN or is_own(lower))
