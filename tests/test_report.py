"""Who dropped a token, what the pictures show, and files that are whole or absent."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import streamprune_triton as sp

pytest.importorskip("PIL", reason="needs Pillow")
pytest.importorskip("matplotlib", reason="needs matplotlib")

from PIL import Image

from streamprune_triton import report
from streamprune_triton.attribution import BY_SPACE, BY_TIME, KEPT, NOT_FINITE, attribute
from streamprune_triton.report import Collector, chart, files, pictures

CONFIG = sp.PruneConfig(temporal_threshold=0.3, spatial_threshold=0.35)


def features(t: int = 3, h: int = 4, w: int = 5, d: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(t, h, w, d, generator=torch.Generator().manual_seed(seed))


def followed(steps: int, config: sp.PruneConfig = CONFIG, size: tuple[int, int] = (48, 60), **kwargs) -> Collector:
    pruner, collector = sp.StreamPruner(config, backend="torch"), Collector(config, **kwargs)
    for n in range(steps):
        frame = np.full((*size, 3), n % 256, np.uint8)
        collector.add(float(n + 1), frame, pruner(features(1, seed=n)))
    return collector


def test_thresholds_attribute_to_the_stage_that_dropped() -> None:
    result = sp.prune(features(), CONFIG, backend="torch")
    fate = attribute(result, CONFIG)
    for (n, i, j), code in np.ndenumerate(fate):
        time = bool(result.temporal[n, i, j] > 0.3)
        space = (i + j) % 2 == 1 and bool(result.spatial[n, i, j] > 0.35)
        assert code == (BY_TIME if time else BY_SPACE if space else KEPT)
    assert set(np.unique(fate)) == {KEPT, BY_TIME, BY_SPACE}


@pytest.mark.parametrize("budget", [{"keep_tokens": 6}, {"max_tokens": 3}])
def test_budgets_attribute_to_the_larger_similarity(budget: dict) -> None:
    config = sp.PruneConfig(temporal_threshold=0.9, spatial_threshold=0.9, **budget)
    result = sp.prune(features(), config, backend="torch")
    fate = attribute(result, config)
    assert ((fate == KEPT) == result.keep.numpy()).all()
    for n, i, j in zip(*np.nonzero(fate), strict=True):
        s_t = result.temporal[n, i, j].nan_to_num(nan=-1.0)
        s_s = result.spatial[n, i, j] if (i + j) % 2 == 1 else torch.tensor(-1.0)
        assert fate[n, i, j] == (BY_SPACE if s_s > s_t else BY_TIME)


def test_what_a_budget_drops_at_the_thresholds_goes_to_time() -> None:
    """Both similarities are 1, neither is above its threshold."""
    x = torch.zeros(2, 2, 2, 4)
    x[..., 0] = 1
    config = sp.PruneConfig(1.0, 1.0, max_tokens=1)
    fate = attribute(sp.prune(x, config, backend="torch"), config)
    assert sorted(fate[1].ravel()) == [KEPT, BY_TIME, BY_TIME, BY_TIME]


def test_alternating_mask_counts_the_frames_of_the_stream() -> None:
    config = sp.PruneConfig(temporal_threshold=None, spatial_threshold=None, mask="alternate", keep_tokens=5)
    pruner = sp.StreamPruner(config, backend="torch")
    x = features(4)
    whole = attribute(sp.prune(x, config, backend="torch"), config)
    assert np.array_equal(whole, np.concatenate([attribute(pruner(part), config) for part in x.split(1)]))


def test_non_finite_tokens_are_named() -> None:
    x = features()
    x[1, 2, 3, 0] = torch.nan
    fate = attribute(sp.prune(x, CONFIG, backend="torch"), CONFIG)
    assert np.argwhere(fate == NOT_FINITE).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(("size", "grid"), [((10, 10), (2, 5)), ((48, 65), (3, 4)), ((7, 9), (7, 9)), ((5, 5), (7, 3))])
def test_cells_span_the_whole_frame(size: tuple[int, int], grid: tuple[int, int]) -> None:
    for pixels, tokens, index in zip(size, grid, pictures.cells(size, grid), strict=True):
        assert index.tolist() == [p * tokens // pixels for p in range(pixels)]
        widths = np.bincount(index, minlength=tokens)
        assert widths.max() - widths.min() <= 1


def test_kept_pixels_stay_and_dropped_ones_are_dimmed() -> None:
    image = np.random.default_rng(0).integers(120, 255, (40, 60, 3), dtype=np.uint8)
    fate = np.array([[KEPT, BY_TIME, BY_SPACE], [KEPT, BY_SPACE, BY_TIME]], np.uint8)
    out = pictures.tinted(image, fate)
    assert np.array_equal(out[:, :19], image[:, :19])
    assert out[:, 20:].mean() < 0.8 * image[:, 20:].mean()
    time, space = out[:20, 20:40].mean((0, 1)), out[:20, 40:].mean((0, 1))
    assert time[2] > time[0]
    assert space[0] > space[2]


def test_nothing_dropped_leaves_the_frame_alone() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    assert np.array_equal(pictures.tinted(image, np.zeros((2, 3), np.uint8)), image)


@pytest.mark.parametrize("steps", [0, 1, 5, 8, 9, 16, 17, 100, 333])
def test_samples_are_few_and_evenly_spread(steps: int) -> None:
    collector = followed(steps, samples=8)
    places = [each.step for each in collector.samples()]
    assert len(places) == min(steps, 8)
    assert len(collector._samples) <= 16
    if steps > 1:
        assert places[0] == 0
        assert places[-1] >= steps * 0.75 - 1
        assert max(np.diff(places)) <= 2 * max(min(np.diff(places)), steps / 8)


def test_memory_does_not_grow_with_the_video() -> None:
    """A frame is scaled down when it is remembered, and few are."""

    def held(steps: int) -> int:
        return sum(each.image.nbytes + each.fate.nbytes for each in followed(steps, size=(900, 1200))._samples)

    assert held(60) <= 16 * (640 * 480 * 3 + 20)
    for each in followed(3, size=(900, 1200)).samples():
        assert each.image.shape == (480, 640, 3)
        assert each.image.base is None or each.image.base.nbytes == each.image.nbytes
        assert each.fate.base is None


def test_counts_add_up() -> None:
    collector = followed(20)
    totals = np.array([collector.kept, collector.by_time, collector.by_space]).sum(0)
    assert (totals == 20).all()


@pytest.mark.parametrize("steps", [0, 1, 30, 601, 3001])
def test_shares(steps: int) -> None:
    collector = Collector(CONFIG)
    for n in range(steps):
        collector.seconds.append(n + 1.0)
        for counts, value in ((collector.kept, 2), (collector.by_time, 5), (collector.by_space, 3)):
            counts.append(value)
    times, parts = chart.shares(collector)
    assert len(times) == parts.shape[1] <= chart.MOST_STEPS
    assert np.allclose(parts, np.array([0.5, 0.3, 0.2])[:, None] if steps else 0)
    assert chart.chart(collector).startswith(b"\x89PNG")


def written(tmp_path: Path, steps: int = 12, **kwargs) -> str:
    rows = [("visual tokens in", "1,234"), ("<b>", "&")]
    path = report.write(tmp_path / "a" / "b", followed(steps), title="<clip>.mp4", rows=rows, **kwargs)
    assert sorted(each.name for each in path.parent.iterdir()) == ["frames.png", "report.html", "shares.png"]
    return path.read_text()


def test_one_file_that_needs_no_network(tmp_path: Path) -> None:
    html = written(tmp_path, answers=[("who?", "<script>alert(1)</script>")], notes=["a note"])
    assert not re.search(r"https?:|//\w|<script|<link|@import|url\(", re.sub(r"base64,[^\"]*", "", html))
    for text in ("&lt;clip&gt;.mp4", "1,234", "&lt;b&gt;", "who?", "&lt;script&gt;", "a note", "dropped by time"):
        assert text in html
    sources = re.findall(r'<img[^>]*src="data:image/(\w+);base64,([^"]*)"', html)
    assert len(sources) == html.count("<img") == 1 + 2 * 8
    for kind, data in sources:
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        image.load()
        assert image.format.lower() == kind


@pytest.mark.parametrize(("steps", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (12, 4, 2)])
def test_sheet_has_all_frames(tmp_path: Path, steps: int, columns: int, rows: int) -> None:
    written(tmp_path, steps)
    with Image.open(tmp_path / "a" / "b" / "frames.png") as sheet:
        sheet.load()
        down = 480 * 48 // 60 + pictures.CAPTION + pictures.MARGIN
        assert sheet.height == 2 * pictures.MARGIN + pictures.CAPTION + rows * down
        assert sheet.width == max(560, pictures.MARGIN + columns * (480 + pictures.MARGIN))
    with Image.open(tmp_path / "a" / "b" / "shares.png") as shares:
        shares.load()
        assert shares.size == (1200, 432)


def test_an_empty_stream_has_a_report(tmp_path: Path) -> None:
    assert "Frames" not in written(tmp_path, 0)


@pytest.mark.parametrize("budget", [{}, {"max_tokens": 3}, {"keep_tokens": 3}], ids=str)
def test_budget_is_explained_where_there_is_one(tmp_path: Path, budget: dict) -> None:
    collector = followed(2, sp.PruneConfig(**budget))
    html = report.write(tmp_path, collector, title="t", rows=[]).read_text()
    assert ("larger of its two similarities" in html) == bool(budget)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    files.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file or lies under one: give a directory"):
            report.make_directory(path)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib.* pip install matplotlib pillow"):
        report.write(tmp_path, Collector(CONFIG), title="t", rows=[])
