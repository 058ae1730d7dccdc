"""State how to cite an exported catalog, what its data are, and whom to acknowledge."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from raypipe._version import __version__
from raypipe.exporting.formats.content import CITATION
from raypipe.store.publication import Publication

FILE = "CITATION.cff"
"""File beside the exports, in the Citation File Format 1.2.0."""

METHOD = f"Pinciroli Vago, Martínez-Galarza, Amato (2025), {CITATION}"
_OWN_REFERENCES = (
    {
        "type": "software",
        "title": "raypipe: a latent catalog of X-ray spectra",
        "authors": [{"name": "The raypipe developers"}],
        "version": __version__,
    },
    {
        "type": "article",
        "title": "Extracting latent representations from X-ray spectra. Classification, "
        "regression, and accretion signatures of Chandra sources",
        "authors": [
            {"family-names": "Pinciroli Vago", "given-names": "Nicolò Oreste"},
            {"family-names": "Martínez-Galarza", "given-names": "Juan Rafael"},
            {"family-names": "Amato", "given-names": "Roberta"},
        ],
        "year": 2025,
        "identifiers": [{"type": "other", "value": CITATION}],
    },
)
_CSC_REFERENCES = tuple(
    {
        "type": "article",
        "title": title,
        "authors": [{"family-names": "Evans", "given-names": "Ian N."}, {"name": "et al."}],
        "journal": "The Astrophysical Journal Supplement Series",
        "volume": volume,
        "start": start,
        "year": year,
        "doi": doi,
    }
    for title, volume, start, year, doi in (
        ("The Chandra Source Catalog", 189, 37, 2010, "10.1088/0067-0049/189/1/37"),
        ("The Chandra Source Catalog Release 2 Series", 274, 22, 2024, "10.3847/1538-4365/ad6319"),
    )
)


@dataclass(frozen=True)
class Origin:
    """Say what an exported catalog is made from: simulated spectra, detections of the CSC, files.

    `csc` and `own` count its detections in the Chandra Source Catalog, and those from other files.
    """

    simulated: bool | None
    csc: int
    own: int

    @property
    def is_csc(self) -> bool:
        """Tell whether there are real detections of the Chandra Source Catalog."""
        return self.csc > 0 and not self.simulated

    @property
    def data(self) -> str:
        """Describe the spectra."""
        if self.simulated:
            return "The spectra are simulated by raypipe: no row is an observation."
        parts = [
            f"{self.csc:,} detections of the Chandra Source Catalog" if self.csc else "",
            f"{self.own:,} spectra from other files" if self.own else "",
        ]
        return f"Made from {' and '.join(filter(None, parts)) or 'no spectra'}."

    @property
    def terms(self) -> str:
        """State the license, and the acknowledgment that the source of the data asks for."""
        terms = (
            "raypipe is under the license in its repository, which says nothing about the data. "
            "For the data, the terms of the archive that the spectra come from apply; add the "
            "license under which you publish the catalog."
        )
        if not self.is_csc:
            return terms
        papers = "; ".join(
            f"Evans et al. ({paper['year']}), {paper['title']}, ApJS {paper['volume']}, "
            f"{paper['start']}, doi:{paper['doi']}"
            for paper in _CSC_REFERENCES
        )
        return (
            f"{terms} Please acknowledge: This research has made use of data obtained from the "
            "Chandra Source Catalog, provided by the Chandra X-ray Center (CXC). Its papers are: "
            f"{papers}."
        )


def citation_file(publication: Publication, origin: Origin) -> str:
    """Return the contents of CITATION.cff."""
    content = {
        "cff-version": "1.2.0",
        "message": "Please cite this catalog, raypipe, and the references.",
        "type": "dataset",
        "title": f"Latent catalog of X-ray spectra: {publication.release}",
        "abstract": f"{origin.data} Latents by the model {publication.model_id}.",
        "authors": [{"name": f"raypipe {publication.raypipe_version}"}],
        "version": str(publication.number),
        "date-released": publication.published[:10],
        "references": [*_OWN_REFERENCES, *(_CSC_REFERENCES if origin.is_csc else ())],
    }
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return text
