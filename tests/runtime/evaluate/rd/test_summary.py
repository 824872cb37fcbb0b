from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.summary import Curve, curves_from_points, delta_rate, summarise


def cut(image: str, target: float | None, bpp: float, psnr: float | None, similarity: float | None = 0.9) -> Cut:
    return Cut("dpict-edge", image, target, int(1000 * bpp), bpp, psnr, None if psnr is None else similarity)


def curve(label: str, bpp: list[float], psnr: list[float], fixed_bpp: bool = True) -> Curve:
    return Curve(label, fixed_bpp, np.array(bpp), np.array(psnr), np.full(len(bpp), math.nan))


def test_means_are_over_pictures_at_the_same_target() -> None:
    cuts = [
        cut("a", 0.1, 0.1, 30.0, 0.8),
        cut("a", None, 0.5, 34.0),
        cut("b", 0.1, 0.08, 20.0, 0.6),
        cut("b", None, 0.08, 20.0),
    ]
    first, full = summarise(cuts)
    assert (first.target_bpp, first.n, first.nothing_to_show) == (0.1, 2, 0)
    assert (first.bpp, first.psnr_db, first.ms_ssim) == pytest.approx((0.09, 25.0, 0.7))
    assert (full.target_bpp, full.psnr_db) == (None, 27.0)
    assert first.short and not full.short


def test_a_mean_within_a_hundredth_of_its_cut_is_at_it() -> None:
    """Files that have to fit below a cut come close to it; streams that end before it do not."""
    close, ended = summarise([cut("a", 0.5, 0.4951, 30.0), cut("a", 0.6, 0.5939, 31.0)])
    assert not close.short and ended.short


def test_pictures_with_nothing_to_show_are_counted_not_averaged() -> None:
    (point,) = summarise([cut("a", 0.1, 0.1, 30.0), cut("b", 0.1, 0.02, None)])
    assert (point.bpp, point.psnr_db, point.n, point.nothing_to_show) == (0.1, 30.0, 1, 1)
    (point,) = summarise([cut("b", 0.1, 0.02, None)])
    assert (point.bpp, point.psnr_db, point.ms_ssim, point.n, point.nothing_to_show) == (None, None, None, 0, 1)


def test_ms_ssim_is_averaged_over_the_pictures_that_have_it() -> None:
    (point,) = summarise([cut("a", 0.1, 0.1, 30.0, 0.8), cut("b", 0.1, 0.1, 32.0, None)])
    assert (point.psnr_db, point.ms_ssim, point.n) == (31.0, 0.8, 2)


def test_targets_rise_and_full_streams_come_last() -> None:
    cuts = [cut("a", target, 0.1, 30.0) for target in (None, 0.5, 0.1)]
    assert [point.target_bpp for point in summarise(cuts)] == [0.1, 0.5, None]


def test_curves_leave_out_means_over_fewer_pictures() -> None:
    cuts = [cut("a", 0.1, 0.1, 30.0), cut("b", 0.1, 0.1, None), cut("a", 0.2, 0.2, 33.0), cut("b", 0.2, 0.2, 31.0)]
    (result,) = curves_from_points(summarise(cuts))
    assert result.fixed_bpp
    assert result.bpp == pytest.approx([0.2])
    assert result.psnr_db == pytest.approx([32.0])
    assert result.ms_ssim_db == pytest.approx([10.0])


def test_a_codec_with_nothing_to_show_has_an_empty_curve() -> None:
    (result,) = curves_from_points(summarise([cut("a", 0.1, 0.1, None)]))
    assert (result.label, len(result.bpp), result.has_psnr) == ("dpict-edge", 0, False)


def test_delta_rate_states_the_rates_that_both_curves_reach() -> None:
    """0.1 to 1.0 bpp, or up to the full stream where that is shorter."""
    rates, psnr = [0.05, 0.2, 0.8, 2.0], [24.0, 28.0, 33.0, 38.0]
    wide = curve("wide", rates, psnr)
    delta = delta_rate(curve("short", [0.9 * rate for rate in rates[:3]], psnr[:3]), wide)
    assert delta.bpp_range == pytest.approx((0.1, 0.72))
    assert delta.psnr_range is not None and 24 < delta.psnr_range[0] < delta.psnr_range[1] < 33
    assert delta_rate(wide, wide).bpp_range == (0.1, 1.0)
    assert delta_rate(wide, wide).percent == pytest.approx(0.0, abs=1e-9)


def test_delta_rate_says_how_the_reference_was_averaged() -> None:
    one = curve("one", [0.1, 1.0], [25, 35])
    assert delta_rate(one, one).fixed_bpp
    assert not delta_rate(one, curve("published", [0.1, 1.0], [25, 35], fixed_bpp=False)).fixed_bpp


@pytest.mark.parametrize(
    "other", [curve("far", [0.1, 1.0], [60, 70]), curve("short", [0.01, 0.05], [20, 22]), curve("empty", [], [])]
)
def test_delta_rate_of_curves_that_do_not_meet_is_none(other: Curve) -> None:
    delta = delta_rate(curve("one", [0.1, 1.0], [25, 35]), other)
    assert delta.percent is None
    assert delta.psnr_range is None
