from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import DataError
from runtime.evaluate.rd.curves import read_curves

ANCHORS = Path(__file__).resolve().parents[4].parent / "shared" / "anchors"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_codecs_of_a_file_are_curves(tmp_path: Path) -> None:
    """Means at fixed bits per pixel; MS-SSIM is turned into decibels, points are put in order."""
    header = "codec,mode,target_bpp,bpp,psnr_db,ms_ssim,n_ok\n"
    text = header + "b,x,99,2,40,0.999,24\nb,x,0.1,0.1,30,0.9,24\na,x,0.1,0.1,25,,24\n"
    b, a = read_curves(write(tmp_path, "some.csv", text))
    assert (b.label, b.fixed_bpp, a.label) == ("b", True, "a")
    assert b.bpp == pytest.approx([0.1, 2.0])
    assert b.psnr_db == pytest.approx([30.0, 40.0])
    assert b.ms_ssim_db == pytest.approx([10.0, 30.0])
    assert np.isnan(a.ms_ssim_db).all()


def test_a_file_without_codecs_is_one_curve_of_its_name(tmp_path: Path) -> None:
    """Blank values are not known; without a target it is not known to be averaged at fixed bits per pixel."""
    (curve,) = read_curves(write(tmp_path, "kodak_x.csv", "bpp,psnr_db,ms_ssim_db\n0.1,,5.5\n0.4,31.5,12.5\n"))
    assert (curve.label, curve.fixed_bpp, curve.has_psnr) == ("kodak_x", False, True)
    assert curve.psnr_db == pytest.approx([np.nan, 31.5], nan_ok=True)
    assert curve.ms_ssim_db == pytest.approx([5.5, 12.5])


def test_means_at_quality_settings_are_not_at_fixed_bpp(tmp_path: Path) -> None:
    (curve,) = read_curves(
        write(tmp_path, "q.csv", "codec,target_bpp,bpp,psnr_db\njpeg,q=5,0.1,24\njpeg,q=10,0.3,27\n")
    )
    assert not curve.fixed_bpp


def test_own_results_are_averaged(tmp_path: Path) -> None:
    text = (
        "codec,image,target_bpp,bytes,bpp,psnr_db,ms_ssim\n"
        "dpict-edge,a,0.1,10,0.1,30,0.9\ndpict-edge,a,full,50,0.5,35,0.99\n"
        "dpict-edge,b,0.1,10,0.1,20,0.7\ndpict-edge,b,full,30,0.3,25,0.97\n"
    )
    (curve,) = read_curves(write(tmp_path, "rd.csv", text))
    assert curve.fixed_bpp
    assert curve.bpp == pytest.approx([0.1, 0.4])
    assert curve.psnr_db == pytest.approx([25.0, 30.0])
    assert curve.ms_ssim_db == pytest.approx([10 * np.log10(5), 10 * np.log10(50)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bpp,psnr_db\n",
        "rate,psnr_db\n1,2\n",
        "bpp,psnr_db\nmuch,30\n",
        "bpp,psnr_db\n0.5\n0.6,high\n",
        "codec,image,target_bpp,bytes,bpp,psnr_db,ms_ssim\na,b,some,1,1,1,1\n",
        "image,bpp\na,1\n",
    ],
)
def test_not_a_file_of_curves(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"some\.csv: not a file of curves"):
        read_curves(write(tmp_path, "some.csv", text))


def test_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a file of curves"):
        read_curves(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(DataError, match="not a file of curves"):
        read_curves(tmp_path / "binary.csv")


@pytest.mark.skipif(not ANCHORS.exists(), reason="needs the published Kodak curves in ../shared/anchors")
def test_published_files_are_read() -> None:
    """Both published forms are read, every file of them."""
    truncation = {curve.label: curve for curve in read_curves(ANCHORS / "kodak_truncation.csv")}
    layers = truncation["j2k-lrcp38-layersnap"]
    assert layers.fixed_bpp
    assert np.interp(0.3, layers.bpp, layers.psnr_db) == pytest.approx(29.775, abs=0.01)
    (dpict,) = read_curves(ANCHORS / "kodak_dpict.csv")
    assert (dpict.label, dpict.fixed_bpp, dpict.has_psnr) == ("kodak_dpict", False, True)
    single = read_curves(ANCHORS / "kodak_single_rate.csv")
    assert not any(curve.fixed_bpp for curve in single)
