"""Start and stop of observations, from the headers of all telescopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.time import Time, TimeDelta

from raypipe.ogip import read_pha
from raypipe.ogip.times import Times, observation_times
from tests.unit.ogip_files import column, pha_bytes, pha_hdu, table, to_bytes

SECOND = 1.0 / 86400.0
CLOCK = {"MJDREF": 50814.0, "TIMESYS": "TT", "TSTART": 86400.0, "TSTOP": 129600.0}
UNKNOWN = Times(None, None)


@pytest.mark.parametrize(
    ("file", "start", "stop"),
    [
        # Where the header also has MJD-OBS, it is the expectation; else DATE-OBS to the second.
        ("csc/acisf01575_001N001_r0085_pha3.fits.gz", "2001-10-05T00:33:43.296", 39915.039),
        ("ciao/9774.pi", "2007-12-06T05:30:00.195", 78246.966),
        ("missions/swift-xrt/target_sr.pha", 57389.67584723638, 17804.862),
        ("missions/nicer/nicer_unbinned.pha", 58302.071847349, 13639.903),
        ("missions/nustar/nu90402339002A01_sr.pha", 58493.18066959699, 78661.476),
        # The spectrum of XMM has no times, its good time intervals have.
        ("missions/xmm-pn/PN.pha", "2012-05-14T04:27:43.389", 40068.755),
    ],
)
def test_times_of_each_telescope_are_terrestrial(
    shared_data: Path, file: str, start: str | float, stop: float
) -> None:
    times = read_pha(shared_data / file).times
    expected = start if isinstance(start, float) else Time(start, scale="tt").mjd
    assert times.mjd_start == pytest.approx(expected, abs=0.01 * SECOND, rel=0)
    assert times.mjd_start is not None
    assert times.mjd_stop is not None
    assert times.mjd_stop - times.mjd_start == pytest.approx(stop * SECOND, abs=0.01 * SECOND)


def test_dates_of_asca_are_utc(shared_data: Path) -> None:
    times = read_pha(shared_data / "missions/asca-sis/sis0.pha").times
    # MJD-OBS of the header is UTC; TT was 60.184 s ahead in February 1994.
    assert times.mjd_start == pytest.approx(49402.578631 + 60.184 * SECOND, abs=SECOND, rel=0)
    assert times.mjd_stop == pytest.approx(
        Time("1994-02-20T18:23:51", scale="utc").tt.mjd, abs=1e-9, rel=0
    )


def test_a_clock_with_its_reference_in_two_keywords_and_an_offset() -> None:
    header = {"MJDREFI": 51910, "MJDREFF": 7.5e-4, "TIMEZERO": -10.0, "TIMESYS": "TT"}
    header |= {"TSTART": "1.0E5", "TSTOP": 2e5}
    start, stop = observation_times([header])
    assert start == pytest.approx(51910.00075 + (1e5 - 10.0) * SECOND, abs=1e-9, rel=0)
    assert stop == pytest.approx(51910.00075 + (2e5 - 10.0) * SECOND, abs=1e-9, rel=0)


def test_days_count_where_the_unit_says_so() -> None:
    assert observation_times([CLOCK | {"TIMEUNIT": "d", "TSTART": 1.0, "TSTOP": 1.5}]) == (
        50815.0,
        50815.5,
    )
    assert observation_times([CLOCK | {"TIMEUNIT": "fortnight"}]) == UNKNOWN


@pytest.mark.parametrize("system", ["UTC", "TDB", "TAI", "TCG", None])
def test_other_time_systems_are_converted(system: str | None) -> None:
    header: dict[str, Any] = CLOCK | {"TIMESYS": system}
    start, _ = observation_times([header])
    scale = (system or "UTC").lower()
    reference = Time(50814.0, format="mjd", scale=scale)
    assert start == pytest.approx((reference + TimeDelta(1.0, format="jd")).tt.mjd, abs=1e-9, rel=0)
    assert (start == 50815.0) == (system == "TT")


def test_leap_seconds_of_a_clock_in_utc_are_counted() -> None:
    # Two leap seconds, after 1998 and after 2005, lie between the reference and the start.
    header = CLOCK | {"TIMESYS": "UTC", "TSTART": 3652 * 86400.0, "TSTOP": 3653 * 86400.0}
    start, _ = observation_times([header])
    at_reference = Time(50814.0, format="mjd", scale="utc").tt.mjd
    assert start == pytest.approx(at_reference + 3652.0, abs=1e-9, rel=0)


@pytest.mark.parametrize(
    "dates",
    [
        {"DATE-OBS": "2001-10-05T00:33:43", "DATE-END": "2001-10-05T11:38:58.0"},
        {"DATE-OBS": "2001-10-05", "TIME-OBS": "00:33:43", "DATE-END": "2001-10-05T11:38:58Z"},
    ],
)
def test_dates_take_the_place_of_a_missing_clock(dates: dict[str, str]) -> None:
    start, stop = observation_times([dates | {"TIMESYS": "TT", "EXPOSURE": 1000.0}])
    assert start == pytest.approx(Time("2001-10-05T00:33:43", scale="tt").mjd, abs=1e-9, rel=0)
    assert stop == pytest.approx(Time("2001-10-05T11:38:58", scale="tt").mjd, abs=1e-9, rel=0)


def test_an_unknown_end_is_not_made_from_the_exposure() -> None:
    header = {"DATE-OBS": "2001-10-05T00:33:43", "EXPOSURE": 1000.0}
    assert observation_times([header]).mjd_stop is None
    clock = {key: value for key, value in CLOCK.items() if key != "TSTOP"} | {"EXPOSURE": 10.0}
    assert observation_times([clock]) == (50815.0, None)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"TSTART": 1e8, "TSTOP": 2e8},
        {"DATE-OBS": "2001-10-05"},
        {"DATE-OBS": "31/02/99", "TIME-OBS": "00:00:00"},
        {"DATE-OBS": "2001-13-45T99:99:99"},
        {"DATE-OBS": 20011005, "TIME-OBS": True},
        CLOCK | {"TSTART": float("nan")},
        CLOCK | {"TSTART": "soon"},
        CLOCK | {"TSTART": 1e300},
        CLOCK | {"TSTOP": 0.0},
        CLOCK | {"MJDREF": 1.0},
        CLOCK | {"TIMESYS": "LOCAL"},
    ],
)
def test_what_the_header_does_not_say_is_unknown(header: dict[str, Any]) -> None:
    assert observation_times([header]) == UNKNOWN


def test_the_block_counts_before_primary_and_intervals() -> None:
    times = {"START": [0.0], "STOP": [1.0]}
    columns = [column(name, "D", np.array(values)) for name, values in times.items()]
    intervals = table(columns, HDUCLAS1="GTI", **(CLOCK | {"TSTART": 3 * 86400.0}))
    assert read_pha(to_bytes(pha_hdu(), intervals)).times == UNKNOWN  # it ends before it starts
    intervals.header["TSTOP"] = 4 * 86400.0
    assert read_pha(to_bytes(pha_hdu(), intervals)).times == (50817.0, 50818.0)
    clock = {"MJDREF": 50814.0, "TIMESYS": "TT"}
    read = read_pha(to_bytes(pha_hdu(TSTART=86400.0, TSTOP=172800.0), intervals, **clock))
    assert read.times == (50815.0, 50816.0)
    assert read_pha(pha_bytes()).times == UNKNOWN
