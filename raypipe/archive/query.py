"""Build the ADQL queries to the archive's catalog.

A detection in one observation (observation_source o) belongs to a source of the catalog
(master_source m) through the stack of observations in which it was detected; match_type 'u' selects
unique matches. Columns are those of the Chandra Source Catalog's documentation; a column of the
observation that a source also has gets the prefix `obs_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raypipe.errors import ServiceError, UsageError

SOURCE_TABLE = "master_source"
OBSERVATION_TABLE = "observation_source"

_SOURCE_COLUMNS = """
name ra dec err_ellipse_r0 err_ellipse_r1 err_ellipse_ang significance likelihood_class
conf_flag dither_warning_flag extent_flag pileup_flag sat_src_flag streak_src_flag
var_flag var_inter_hard_flag
flux_aper90_b flux_aper90_lolim_b flux_aper90_hilim_b
flux_aper90_h flux_aper90_lolim_h flux_aper90_hilim_h
flux_aper90_m flux_aper90_lolim_m flux_aper90_hilim_m
flux_aper90_s flux_aper90_lolim_s flux_aper90_hilim_s
var_intra_index_b var_intra_prob_b ks_intra_prob_b kp_intra_prob_b
var_inter_index_b var_inter_prob_b var_inter_sigma_b nh_gal
flux_powlaw flux_powlaw_lolim flux_powlaw_hilim
powlaw_gamma powlaw_gamma_lolim powlaw_gamma_hilim powlaw_gamma_rhat
powlaw_nh powlaw_nh_lolim powlaw_nh_hilim powlaw_nh_rhat
powlaw_ampl powlaw_ampl_lolim powlaw_ampl_hilim powlaw_ampl_rhat powlaw_stat
flux_bb flux_bb_lolim flux_bb_hilim
bb_kt bb_kt_lolim bb_kt_hilim bb_kt_rhat
bb_nh bb_nh_lolim bb_nh_hilim bb_nh_rhat
bb_ampl bb_ampl_lolim bb_ampl_hilim bb_ampl_rhat bb_stat
flux_brems flux_brems_lolim flux_brems_hilim
brems_kt brems_kt_lolim brems_kt_hilim brems_kt_rhat
brems_nh brems_nh_lolim brems_nh_hilim brems_nh_rhat
brems_norm brems_norm_lolim brems_norm_hilim brems_norm_rhat brems_stat
flux_apec flux_apec_lolim flux_apec_hilim
apec_kt apec_kt_lolim apec_kt_hilim apec_kt_rhat
apec_abund apec_abund_lolim apec_abund_hilim apec_abund_rhat
apec_z apec_z_lolim apec_z_hilim apec_z_rhat
apec_nh apec_nh_lolim apec_nh_hilim apec_nh_rhat
apec_norm apec_norm_lolim apec_norm_hilim apec_norm_rhat apec_stat
"""

_OBSERVATION_COLUMNS = """
obsid obi region_id ra_pnt dec_pnt gti_obs gti_end instrument grating datamode
readmode exptime theta phi
src_cnts_aper90_b src_cnts_aper90_lolim_b src_cnts_aper90_hilim_b
flux_significance_b conf_code obs_dither_warning_flag edge_code extent_code multi_chip_code
pileup_warning obs_sat_src_flag obs_streak_src_flag var_code
obs_flux_aper90_b obs_flux_aper90_lolim_b obs_flux_aper90_hilim_b
obs_flux_aper90_h obs_flux_aper90_lolim_h obs_flux_aper90_hilim_h
obs_flux_aper90_m obs_flux_aper90_lolim_m obs_flux_aper90_hilim_m
obs_flux_aper90_s obs_flux_aper90_lolim_s obs_flux_aper90_hilim_s
var_index_b var_prob_b ks_prob_b kp_prob_b var_sigma_b var_mean_b var_min_b var_max_b
"""

REQUIRED = ("obsid", "obi", "region_id", "name", "ra", "dec")
"""Columns without which no manifest can be made."""


@dataclass(frozen=True)
class Column:
    """Describe a column of the manifest: its name there, and the table and column it comes from."""

    name: str
    table: str
    archive_name: str

    @property
    def selected(self) -> str:
        """Return the column's expression in a SELECT."""
        alias = "m" if self.table == SOURCE_TABLE else "o"
        renamed = f" AS {self.name}" if self.name != self.archive_name else ""
        return f"{alias}.{self.archive_name}{renamed}"


COLUMNS = (
    *(Column(name, SOURCE_TABLE, name) for name in _SOURCE_COLUMNS.split()),
    *(
        Column(name, OBSERVATION_TABLE, name.removeprefix("obs_"))
        for name in _OBSERVATION_COLUMNS.split()
    ),
)
"""All columns that are requested if the service has them."""


@dataclass(frozen=True)
class Query:
    """Query detections: a release's tables in their `schema`, restricted by `where`."""

    schema: str
    where: str | None = None

    def rows(self, columns: Sequence[Column], *conditions: str) -> str:
        """Return ADQL for the detections that meet all `conditions`, in any order."""
        return self._select(", ".join(column.selected for column in columns), *conditions)

    def counts_by_obsid(self, after: int | None = None) -> str:
        """Return ADQL for the detections `n` per `observation` (obsid) above `after`, in order."""
        conditions = [] if after is None else [f"o.obsid > {after}"]
        select = self._select("o.obsid AS observation, COUNT(*) AS n", *conditions)
        return f"{select} GROUP BY o.obsid ORDER BY observation"

    def total(self, *conditions: str) -> str:
        """Return ADQL for the number of detections, `n`, and the largest region_id, `largest`."""
        return self._select("COUNT(*) AS n, MAX(o.region_id) AS largest", *conditions)

    def available_columns(self) -> str:
        """Return ADQL for the names of the columns that the service has."""
        tables = (SOURCE_TABLE, OBSERVATION_TABLE)
        names = ", ".join(f"'{self.schema}.{table}', '{table}'" for table in tables)
        return (
            f"SELECT table_name, column_name FROM TAP_SCHEMA.columns WHERE table_name IN ({names})"
        )

    def _select(self, selected: str, *conditions: str) -> str:
        narrowed = [*conditions, *([f"(\n{self.where}\n)"] if self.where else [])]
        return (
            f"SELECT {selected} FROM {self.schema}.{SOURCE_TABLE} m, "
            f"{self.schema}.master_stack_assoc a, {self.schema}.stack_source s, "
            f"{self.schema}.stack_observation_assoc b, {self.schema}.{OBSERVATION_TABLE} o "
            "WHERE a.match_type = 'u' AND m.name = a.name "
            "AND s.detect_stack_id = a.detect_stack_id AND s.region_id = a.region_id "
            "AND s.detect_stack_id = b.detect_stack_id AND s.region_id = b.region_id "
            "AND o.obsid = b.obsid AND o.obi = b.obi AND o.region_id = b.region_id"
            + "".join(f" AND {condition}" for condition in narrowed)
        )


def choose_columns(available: Iterable[tuple[str, str]], where: str) -> list[Column]:
    """Return the COLUMNS that a service has; `available` lists its (table, column) pairs.

    Raises ServiceError, which names `where`, if one of REQUIRED is missing.
    """
    known = {(table.rsplit(".", 1)[-1].lower(), name.lower()) for table, name in available}
    chosen = [column for column in COLUMNS if (column.table, column.archive_name) in known]
    missing = set(REQUIRED) - {column.name for column in chosen}
    if missing:
        raise ServiceError(
            f"{where}: its catalog has no {', '.join(sorted(missing))}; "
            "check that discover.tap_url is the release's TAP service"
        )
    return chosen


def check_condition(where: str) -> str:
    """Check that a text is one condition inside a query's parentheses; else raise UsageError."""
    bare = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "", where)
    bare = re.sub(r"--[^\n]*", "", bare)
    depth = 0
    for character in bare:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
    if not bare.strip() or depth or set(bare) & set(";'\""):
        raise UsageError(
            f"--where {where!r} is not one ADQL condition, such as "
            "\"o.instrument = 'ACIS' AND o.theta < 5\""
        )
    return where.strip()
