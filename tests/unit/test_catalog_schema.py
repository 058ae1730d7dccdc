"""The columns' descriptions: words of the controlled vocabulary, units that readers know."""

from __future__ import annotations

import warnings

import pytest
from astropy.io.votable.ucd import check_ucd
from astropy.units import Unit, UnitsWarning

from raypipe.archive.query import COLUMNS
from raypipe.catalog import schema
from raypipe.catalog.csc_columns import CAME_ALONG
from raypipe.catalog.physics_columns import FIT_COLUMNS
from raypipe.catalog.schema import Column, describe
from raypipe.simulation.populations import PARAMETERS
from raypipe.spectra.schema import SPECTRUM_FIELDS

PATTERNED = ["z_cov", "z3", "z3_err", "z3_std", "z3_mean", "z3_sd"]
PATTERNED += ["shared_2", "predicted_flux", "predicted_flux_lolim", "predicted_flux_hilim"]
PATTERNED += ["predicted_class_p"]
PATTERNED += ["p_HM-STAR", "p_cluster_3", "votes_HM-STAR", "counts_s", "background_counts_b"]
KNOWN = {name: describe(name) for name in [*schema._COLUMNS, *PATTERNED, *CAME_ALONG]}
FITS = {name: Column(*parts) for name, parts in FIT_COLUMNS.items()}


def test_every_pattern_has_an_example() -> None:
    described = {schema.describe(name) for name in PATTERNED}
    assert len(described) == len(PATTERNED) == len(schema._PATTERNS)


@pytest.mark.parametrize(("name", "column"), [*KNOWN.items(), *FITS.items()])
def test_ucds_and_units_are_in_the_vocabulary(name: str, column: Column | None) -> None:
    assert column is not None
    assert check_ucd(column.ucd, check_controlled_vocabulary=True), column.ucd
    assert column.ucd
    assert column.description
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)
        Unit(column.unit, format="vounit")
        Unit(column.unit, format="fits")


def test_what_a_catalog_can_have_is_described() -> None:
    names = [column.name for column in COLUMNS] + list(PARAMETERS)
    names += [field.name for field in SPECTRUM_FIELDS if field.name not in schema.LEFT_OUT]
    assert [name for name in names if describe(name) is None] == []
