"""Effective areas and redistribution matrices in the forms that archives write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raypipe.ogip import OgipError, Rmf, notes, read_arf, read_rmf
from tests.unit.ogip_files import (
    N_CHANNELS,
    N_ENERGIES,
    arf_hdu,
    column,
    dense_matrix,
    energy_edges,
    pha_hdu,
    rmf_bytes,
    rmf_hdus,
    table,
    to_bytes,
)


def assert_is_the_matrix(rmf: Rmf, first: int = 1) -> None:
    np.testing.assert_array_equal(rmf.matrix.toarray(), dense_matrix())
    np.testing.assert_array_equal(rmf.channels, np.arange(first, first + N_CHANNELS))


class TestArf:
    def test_reads_area_and_energies(self) -> None:
        arf = read_arf(to_bytes(arf_hdu()))
        low, high = energy_edges()
        np.testing.assert_allclose(arf.energy_lo_kev, low, rtol=1e-6)
        np.testing.assert_allclose(arf.energy_hi_kev, high, rtol=1e-6)
        np.testing.assert_allclose(arf.area_cm2, np.linspace(100, 400, N_ENERGIES))

    def test_is_found_by_class_not_by_name(self) -> None:
        assert read_arf(to_bytes(pha_hdu(), arf_hdu(EXTNAME="AREA"))).area_cm2[0] == 100
        with pytest.raises(OgipError, match="no effective area"):
            read_arf(to_bytes(arf_hdu(HDUCLAS2="RSP_MATRIX")))

    @pytest.mark.parametrize(("bad", "said"), [(np.nan, "not finite"), (-1.0, "negative")])
    def test_bad_area_is_refused_by_row(self, bad: float, said: str) -> None:
        area = np.ones(N_ENERGIES)
        area[2:4] = bad
        with pytest.raises(OgipError, match=f"SPECRESP is {said} at row 3"):
            read_arf(to_bytes(arf_hdu(area=area)))

    def test_energies_that_do_not_ascend_are_refused_by_row(self) -> None:
        low, high = energy_edges()
        with pytest.raises(OgipError, match="do not ascend from bin to bin at row 2"):
            read_arf(to_bytes(arf_hdu(low[::-1], high[::-1])))
        with pytest.raises(OgipError, match="ENERG_HI does not exceed ENERG_LO at row 1"):
            read_arf(to_bytes(arf_hdu(high, low)))
        low[4] -= 0.2
        with pytest.raises(OgipError, match="do not ascend from bin to bin at row 5"):
            read_arf(to_bytes(arf_hdu(low, high)))

    def test_units(self) -> None:
        low, high = energy_edges()
        in_ev = read_arf(to_bytes(arf_hdu(low * 1000, high * 1000, energy_unit="eV")))
        np.testing.assert_allclose(in_ev.energy_hi_kev, high, rtol=1e-6)
        with pytest.raises(OgipError, match="ENERG_LO is in 'Angstrom', expected keV"):
            read_arf(to_bytes(arf_hdu(energy_unit="Angstrom")))
        with pytest.raises(OgipError, match=r"SPECRESP is in 'm\*\*2', expected cm\*\*2"):
            read_arf(to_bytes(arf_hdu(area_unit="m**2")))

    def test_bins_of_no_width_are_left_out(self) -> None:
        low, high = energy_edges()
        whole = read_arf(to_bytes(arf_hdu()))
        low, high = np.insert(low, 2, high[1]), np.insert(high, 2, high[1])
        area = np.insert(np.linspace(100.0, 400.0, N_ENERGIES), 2, 9999.0)
        arf = read_arf(to_bytes(arf_hdu(low, high, area)))
        np.testing.assert_array_equal(arf.area_cm2, whole.area_cm2)
        np.testing.assert_array_equal(arf.energy_lo_kev, whole.energy_lo_kev)
        with pytest.raises(OgipError, match="no energy bin has a width"):
            read_arf(to_bytes(arf_hdu(low, low, area)))
        with pytest.raises(OgipError, match="do not ascend from bin to bin at row 2"):
            read_arf(to_bytes(arf_hdu(np.ones(3), [1.000001, 1.000001, 1.0])))

    def test_part_of_the_band_without_area_is_said(self) -> None:
        edges = np.linspace(0.3, 8.0, 78)
        area = np.ones(77)
        assert read_arf(to_bytes(arf_hdu(edges[:-1], edges[1:], area))).warnings == ()
        area[edges[1:] <= 2.0] = 0.0
        (note,) = read_arf(to_bytes(arf_hdu(edges[:-1], edges[1:], area))).warnings
        assert note.code == notes.PARTIAL_RESPONSE
        assert "covers 5 of the 6.5 keV" in note
        assert "from 2 to 8 keV" in note
        (note,) = read_arf(to_bytes(arf_hdu(edges[:-1], edges[1:], 0 * area))).warnings
        assert (note, note.code) == ("the ARF is zero everywhere", notes.PARTIAL_RESPONSE)

    def test_area_on_another_grid_keeps_the_integral(self) -> None:
        arf = read_arf(to_bytes(arf_hdu()))
        edges = np.array([0.5, 0.6, 0.95, 1.3, 2.7, 3.5])
        area = arf.area_on(edges[:-1], edges[1:])
        widths = arf.energy_hi_kev - arf.energy_lo_kev
        assert (area * np.diff(edges)).sum() == pytest.approx((arf.area_cm2 * widths).sum())
        assert area[0] == pytest.approx(100.0)
        assert area[1] == pytest.approx(100.0)
        assert area[2] == pytest.approx((0.05 * 100 + 0.3 * 160) / 0.35)

    def test_area_is_zero_outside(self) -> None:
        area = read_arf(to_bytes(arf_hdu())).area_on(
            np.array([0.1, 0.4, 3.4, 4.0]), np.array([0.4, 0.6, 3.6, 5.0])
        )
        np.testing.assert_allclose(area, [0.0, 50.0, 200.0, 0.0], rtol=1e-5)


class TestRmf:
    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"descriptor": "Q"},
            {"pad_groups": 3},
            {"variable": False},
            {"EXTNAME": "RSP_MATRIX"},
            {"EXTNAME": "SPECRESP MATRIX"},
            {"NUMGRP": 3, "NUMELT": 1, "DETCHANS": 5},
        ],
    )
    def test_storage_makes_no_difference(self, form: dict[str, Any]) -> None:
        rmf = read_rmf(rmf_bytes(**form))
        assert_is_the_matrix(rmf)
        assert not rmf.includes_area
        np.testing.assert_allclose(rmf.energy_lo_kev, energy_edges()[0], rtol=1e-6)
        np.testing.assert_allclose(rmf.channel_energy_kev[0], [0.2, 0.45], rtol=1e-6)

    def test_scalar_group_columns(self) -> None:
        matrix = dense_matrix()
        matrix[:, 9:] = 0.0
        rmf = read_rmf(rmf_bytes(matrix, variable=False))
        np.testing.assert_array_equal(rmf.matrix.toarray(), matrix)

    def test_groups_count_from_their_own_tlmin(self) -> None:
        hdus = rmf_hdus(first=0, limit=0)
        hdus[1] = rmf_hdus(first=1)[1]
        assert_is_the_matrix(read_rmf(to_bytes(*hdus)))

    def test_groups_count_from_the_first_channel_without_tlmin(self) -> None:
        assert_is_the_matrix(read_rmf(rmf_bytes(first=0)), first=0)
        assert_is_the_matrix(read_rmf(rmf_bytes(first=3)), first=3)

    def test_tlmin_of_the_column_itself_not_of_a_fixed_number(self) -> None:
        main, bounds = rmf_hdus(first=0)
        order = [main.columns[name] for name in ("F_CHAN", "N_CHAN", "MATRIX", "N_GRP")]
        rest = [main.columns[name] for name in ("ENERG_LO", "ENERG_HI")]
        classes = {"HDUCLAS1": "RESPONSE", "HDUCLAS2": "RSP_MATRIX", "TLMIN1": 0, "TLMIN4": 1}
        moved = table([*order, *rest], **classes)
        assert_is_the_matrix(read_rmf(to_bytes(moved, bounds)), first=0)

    @pytest.mark.parametrize("limit", [0, 1])
    def test_channels_of_zeros_are_numbered_from_tlmin(self, limit: int) -> None:
        content = rmf_bytes(
            first=limit, limit=limit, bounds_channels=np.zeros(N_CHANNELS), bounds_limit=limit
        )
        assert_is_the_matrix(read_rmf(content), first=limit)

    def test_channels_that_jump_are_refused(self) -> None:
        with pytest.raises(OgipError, match="CHANNEL does not count up by one"):
            read_rmf(rmf_bytes(bounds_channels=np.arange(0, 2 * N_CHANNELS, 2)))

    def test_full_matrix_includes_the_area(self) -> None:
        assert read_rmf(rmf_bytes(HDUCLAS3="FULL")).includes_area

    @pytest.mark.parametrize(("rows_sum_to", "includes"), [(1.0, False), (1.2, False), (9.0, True)])
    @pytest.mark.parametrize("stated", ["", "REDIST"])
    def test_rows_tell_whether_the_area_is_included(
        self, rows_sum_to: float, includes: bool, stated: str
    ) -> None:
        rmf = read_rmf(rmf_bytes(dense_matrix() * np.float32(rows_sum_to), HDUCLAS3=stated))
        assert rmf.includes_area == includes

    @pytest.mark.parametrize(
        ("rows_sum_to", "includes"), [(1.0, False), (0.87, False), (0.2, True), (50.0, True)]
    )
    def test_a_name_alone_gives_way_to_probabilities(
        self, rows_sum_to: float, includes: bool
    ) -> None:
        matrix = dense_matrix() * np.float32(rows_sum_to)
        rmf = read_rmf(rmf_bytes(matrix, EXTNAME="SPECRESP MATRIX", HDUCLAS3=""))
        assert rmf.includes_area == includes

    def test_odd_class_words_are_overlooked_where_name_or_columns_tell(self) -> None:
        main, bounds = rmf_hdus()
        bounds.header["HDUCLAS2"] = "PI_EBOUNDS"
        assert_is_the_matrix(read_rmf(to_bytes(main, bounds)))
        bounds.header["EXTNAME"] = "CHANNELS"
        main.header["HDUCLAS2"] = "REDISTRIBUTION"
        main.header["EXTNAME"] = "RESPONSE"
        assert_is_the_matrix(read_rmf(to_bytes(bounds, arf_hdu(), main)))
        for hdu in (main, bounds):
            del hdu.header["HDUCLAS1"], hdu.header["HDUCLAS2"]
        assert_is_the_matrix(read_rmf(to_bytes(main, bounds)))

    def test_limits_written_as_text(self) -> None:
        assert_is_the_matrix(read_rmf(rmf_bytes(first=0, limit=0)), first=0)
        main, bounds = rmf_hdus(first=0)
        main.header["TLMIN4"] = "0"
        assert_is_the_matrix(read_rmf(to_bytes(main, bounds)), first=0)

    def test_bins_of_no_width_are_left_out(self) -> None:
        matrix = np.insert(dense_matrix(), 3, 0.25, axis=0)
        main, bounds = rmf_hdus(matrix)
        low, high = energy_edges()
        main.data["ENERG_LO"] = np.insert(low, 3, high[2])
        main.data["ENERG_HI"] = np.insert(high, 3, high[2])
        assert_is_the_matrix(read_rmf(to_bytes(main, bounds)))

    def test_is_found_by_class_not_by_name(self) -> None:
        assert_is_the_matrix(read_rmf(rmf_bytes(EXTNAME="ANYTHING")))
        with pytest.raises(OgipError, match="no response matrix"):
            read_rmf(rmf_bytes(HDUCLAS1="SPECTRUM"))
        with pytest.raises(OgipError, match="no channel energies"):
            read_rmf(to_bytes(rmf_hdus()[0]))
        with pytest.raises(OgipError, match="several responses in one file"):
            read_rmf(to_bytes(*rmf_hdus(), *rmf_hdus()))

    def test_groups_outside_the_channels_are_refused_by_row(self) -> None:
        with pytest.raises(OgipError, match=r"row 1: 4 channels from 2 on lie outside"):
            read_rmf(rmf_bytes(limit=3))
        with pytest.raises(OgipError, match=r"row 6: 2 channels from 14 on lie outside"):
            read_rmf(rmf_bytes(limit=-1))

    def test_too_few_elements_are_refused_by_row(self) -> None:
        main, bounds = rmf_hdus(variable=False)
        main.data["N_CHAN"][3, 0] = 5
        with pytest.raises(OgipError, match=r"MATRIX at row 4 has 6 elements, .* need 7"):
            read_rmf(to_bytes(main, bounds))

    def test_more_groups_than_columns_hold_are_refused(self) -> None:
        main, bounds = rmf_hdus(variable=False)
        main.data["N_GRP"][2] = 3
        with pytest.raises(OgipError, match="N_GRP is 3 at row 3"):
            read_rmf(to_bytes(main, bounds))

    def test_infinite_matrix_is_refused_by_row(self) -> None:
        main, bounds = rmf_hdus(variable=False)
        main.data["MATRIX"][1, 5] = np.inf
        with pytest.raises(OgipError, match="MATRIX is not finite at row 2"):
            read_rmf(to_bytes(main, bounds))

    def test_fold_of_many_spectra(self) -> None:
        rmf = read_rmf(rmf_bytes())
        photons = np.random.default_rng(0).uniform(size=(2, 3, N_ENERGIES))
        expected = photons @ dense_matrix().astype(float)
        np.testing.assert_allclose(rmf.fold(photons), expected, rtol=1e-12)
        np.testing.assert_allclose(rmf.fold(photons[0, 0]), expected[0, 0], rtol=1e-12)
        with pytest.raises(ValueError, match=r"expected \(\.\.\., 6\)"):
            rmf.fold(np.ones(5))

    def test_energies_without_ascent_are_refused(self) -> None:
        main, bounds = rmf_hdus()
        main.data["ENERG_LO"][2] = 0.1
        with pytest.raises(OgipError, match="do not ascend from bin to bin at row 3"):
            read_rmf(to_bytes(main, bounds))

    def test_a_missing_column_is_named(self) -> None:
        bare = table(
            [column("ENERG_LO", "E", [1.0]), column("ENERG_HI", "E", [2.0])],
            HDUCLAS1="RESPONSE",
            HDUCLAS2="RSP_MATRIX",
        )
        with pytest.raises(OgipError, match=r"F_CHAN is missing \(columns: ENERG_LO, ENERG_HI\)"):
            read_rmf(to_bytes(bare, rmf_hdus()[1]))


class TestSplitMatrix:
    def parts(self, finer: int = 1) -> list[Any]:
        """A matrix in two tables, the second of them on pairs of energy bins."""
        pairs = np.repeat(dense_matrix(3), 2, axis=0)
        first, bounds = rmf_hdus(np.repeat(dense_matrix(), finer, axis=0))
        second = rmf_hdus(dense_matrix(3))[0]
        self.whole = np.repeat(dense_matrix() + pairs, finer, axis=0)
        return [bounds, first, second]

    def test_is_the_sum_on_the_union_of_energies(self) -> None:
        rmf = read_rmf(to_bytes(*self.parts()))
        np.testing.assert_allclose(rmf.matrix.toarray(), self.whole, rtol=1e-6)
        np.testing.assert_allclose(rmf.energy_lo_kev, energy_edges()[0], rtol=1e-6)
        rmf.matrix.check_format(full_check=True)

    def test_parts_may_cover_energies_apart(self) -> None:
        main, bounds = rmf_hdus()
        halves = []
        for rows in (slice(0, 2), slice(4, 6)):
            half = main.copy()
            half.data = main.data[rows]
            halves.append(half)
        rmf = read_rmf(to_bytes(*halves, bounds))
        np.testing.assert_array_equal(rmf.matrix.toarray(), dense_matrix()[[0, 1, 4, 5]])
        np.testing.assert_allclose(rmf.energy_lo_kev, energy_edges()[0][[0, 1, 4, 5]], rtol=1e-6)

    def test_area_in_one_part_alone_is_refused(self) -> None:
        bounds, first, second = self.parts()
        second.header["HDUCLAS3"] = "FULL"
        with pytest.raises(OgipError, match="with the effective area beside one without"):
            read_rmf(to_bytes(bounds, first, second))

    def test_parts_that_multiply_each_other_are_refused(self) -> None:
        wide = np.full((1, N_CHANNELS), 0.05, dtype=np.float32)
        fine = np.zeros((4000, N_CHANNELS), dtype=np.float32)
        fine[:, 0] = 1.0
        bounds, first, second = self.parts()
        with pytest.raises(OgipError, match="on the union of their energy bins, more than 16"):
            read_rmf(to_bytes(bounds, rmf_hdus(wide)[0], rmf_hdus(fine)[0]))
        with pytest.raises(OgipError, match="20 matrices in one file, at most 16"):
            read_rmf(to_bytes(bounds, first, *[second] * 19))
