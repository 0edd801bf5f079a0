"""The model layer's benchmark: what it runs, what it checks, its rows, tables, plot and command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.end_to_end import __main__ as command
from benchmarks.end_to_end import answering, bench, checks, clips, long, models, report, rows, stages, streams
from streamprune_triton import compat
from streamprune_triton.cache import moves
from streamprune_triton.streaming.keeping import Keeping

CHECKOUT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
PROVIDERS = ["unmodified", "ours, tokens", "ours, carriers", "pruned", "dtd", "evs"]
STREAMED = ["ours, tokens, streamed", "ours, carriers, streamed", "ours, carriers, streamed, graphs"]

ROW = rows.Row(
    "clip", "unmodified", "whole answer", "ms", 90.0, 100.0, 110.5, 7, "tiny Qwen2.5-VL", "float32", "84x84", 9, 1, 64,
    2.5e-7, "a CPU, 2 threads", "", "3.10.0", "2.11.0", "3.6.0", "5.0.0", "abc", "python3 -m benchmarks.end_to_end",
)  # fmt: skip
RATE = replace(ROW, scenario="one stream", provider="ours, carriers", quantity="frames a second", unit="1/s", frames=9)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def dry(said: list[str]) -> bench.Bench:
    return bench.Bench.on(CPU, bench.DRY, float("inf"), said.append)


@pytest.fixture(scope="module")
def found(dry: bench.Bench, tmp_path_factory: pytest.TempPathFactory) -> list[rows.Row]:
    """All scenarios, once, through the file."""
    out = tmp_path_factory.mktemp("rows") / "new" / "rows.csv"
    measured = command.written(dry, command.SCENARIOS, out)
    assert len(rows.read(out)) == len(measured)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return measured


def of(found: list[rows.Row], scenario: str) -> dict[tuple[str, str, int], rows.Row]:
    return {(row.provider, row.quantity, row.frames): row for row in found if row.scenario == scenario}


def test_every_row_says_what_was_measured(found):
    for row in found:
        assert row.p20 <= row.p50 <= row.p80
        assert (row.frame, row.tokens, row.kept, row.dtype) == ("84x84", 9, 1, "float32")
        assert 0 <= row.error < checks.TOLERANCE
        assert row.command.startswith("python3 -m benchmarks.end_to_end")
        assert row.transformers
        assert row.torch == torch.__version__
    assert all(row.p50 > 0 for row in found if row.quantity not in ("rest", "cache upkeep"))


@pytest.mark.parametrize(("scenario", "modes"), [("one stream", ("carriers", "tokens")), ("3 streams", ("carriers",))])
def test_streams_have_a_rate_and_stages(found, scenario, modes):
    measured = of(found, scenario)
    graphs = {"ours, carriers, graphs"} if scenario == "one stream" else set()
    assert {provider for provider, *_ in measured} == graphs | {f"ours, {mode}" for mode in modes}
    assert {quantity for provider, quantity, _ in measured if provider in graphs} <= {"frames a second"}
    names = {"frames a second", "preprocess", "vision", "prune", "prefill", "cache upkeep", "pruning and upkeep"}
    for mode in modes:
        assert names <= {quantity for provider, quantity, _ in measured if provider == f"ours, {mode}"}


def test_the_clip_is_answered_by_all(found):
    measured = of(found, "clip")
    assert list(dict.fromkeys(provider for provider, *_ in measured)) == [*PROVIDERS, *STREAMED]
    for provider in [*PROVIDERS, *STREAMED]:
        quantities = {quantity for name, quantity, _ in measured if name == provider}
        if provider in STREAMED:
            assert quantities == {"time to first token", "whole answer"}
            continue
        assert {"time to first token", "whole answer", "preprocess", "vision", "prefill", "answer"} <= quantities
        assert ("prune" in quantities) == (provider not in ("unmodified", "pruned"))


def test_the_long_stream_is_looked_at_where_it_should_be(found):
    measured = of(found, "long stream")
    assert {frames for _, quantity, frames in measured if quantity == "time to first token"} == set(bench.DRY.marks)
    wanted = set(bench.DRY.marks[1:]) if long.STATM.exists() else set()  # the first is before the memory is full
    assert {frames for _, quantity, frames in measured if quantity == "memory"} == wanted


def test_stages_of_a_call_are_the_whole_of_it(dry):
    feed = streams.Feed(dry, dry.memory("carriers"), 2)
    feed.read()
    start = time.perf_counter()
    spent = feed.apart()
    whole = time.perf_counter() - start
    assert set(spent) <= set(stages.STAGES)
    assert min(seconds for stage, seconds in spent.items() if stage != "rest") > 0
    assert 0.5 * whole < sum(spent.values()) <= whole


def test_the_large_model_is_qwen2_5_vl_7b():
    """As many weights as the published checkpoint; without memory for them."""
    model, _ = models.build("7b", torch.device("meta"), torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 8_292_166_656
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "sdpa"


def test_the_gpu_sizes_are_those_of_the_text():
    assert (bench.GPU.side, bench.GPU.streams, bench.GPU.clip) == (448, 16, 64)
    assert {500, 10_000, 120, 7200} <= set(bench.GPU.marks)
    large = bench.Bench(models.build("7b", torch.device("meta"), torch.bfloat16)[0], None, "", bench.GPU, 0.0, print)
    assert (large.tokens, large.kept) == (256, 20)
    for sizes in (bench.GPU, bench.CPU, bench.DRY):
        assert sizes.clip <= sizes.film
        assert sizes.clip // 2 <= sizes.carriers


def test_a_check_in_float32_leaves_the_weights_as_they_were():
    model, _ = models.build("tiny", CPU, torch.bfloat16)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with checks.exact(model):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for name, weight in model.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])


def test_bfloat16_is_timed_too(said):
    model, processor = models.build("tiny", CPU, torch.bfloat16)
    low = bench.Bench(model, processor, "tiny", replace(bench.DRY, marks=(8,)), float("inf"), said.append)
    assert {row.dtype for row in streams.streams(low, "carriers", 1)} == {"bfloat16"}
    assert {row.dtype for row in long.long_stream(low, "carriers")} == {"bfloat16"}


def no_rows(said: list[str], run) -> str:
    """What is said in place of rows."""
    said.clear()
    assert list(run) == []
    (line,) = [line for line in said if line.startswith("NO ROW")]
    return line


def test_a_session_that_evicts_too_late_gets_no_row(dry, said, monkeypatch):
    monkeypatch.setattr(Keeping, "_recent", 1)
    assert "must hold 6 rows" in no_rows(said, streams.streams(dry, "carriers", 1))


def test_a_session_that_forgets_the_wrong_rows_gets_no_row(dry, said, monkeypatch):
    monkeypatch.setattr(moves, "move", lambda kv, sources, holes: None)
    assert "of their RMS" in no_rows(said, streams.streams(dry, "carriers", 1))
    assert "of their RMS" in no_rows(said, long.long_stream(dry, "carriers"))


def test_a_cache_that_grows_gets_no_row(dry, said, monkeypatch):
    honest = Keeping._add_carrier
    monkeypatch.setattr(Keeping, "_add_carrier", lambda self, *step: list(honest(self, *step))[:0])
    assert "must hold 12 rows" in no_rows(said, streams.streams(dry, "carriers", 1))


def test_streams_that_see_each_other_get_no_row(dry, said, monkeypatch):
    honest = torch.block_diag
    monkeypatch.setattr(torch, "block_diag", lambda *masks: torch.ones_like(honest(*masks)))
    assert "of their RMS" in no_rows(said, streams.streams(dry, "carriers", 3))


def test_a_stream_that_forgets_the_wrong_rows_is_not_asked(dry, said, monkeypatch):
    dry = replace(dry, sizes=replace(bench.DRY, carriers=4))
    monkeypatch.setattr(moves, "move", lambda kv, sources, holes: None)
    assert "of their RMS" in no_rows(said, clips.question(dry, "carriers"))


@pytest.mark.parametrize("name", ["dtd", "evs", "ours, tokens"])
def test_another_budget_gets_no_row(dry, said, name, monkeypatch):
    honest, config = compat.compute_retention_mask, bench.Bench.config.fget
    monkeypatch.setattr(compat, "compute_retention_mask", lambda x, size, merge, q: honest(x, size, merge, q - 0.1))
    monkeypatch.setattr(compat, "dtd", lambda x, tau: torch.ones(x.shape[:3], dtype=torch.bool))
    monkeypatch.setattr(bench.Bench, "config", property(lambda self: replace(config(self), keep_tokens=2)))
    provider = next(each for each in answering.providers(dry) if each.name == name)
    with pytest.raises(AssertionError, match="must keep 12 tokens"):
        provider.check(dry)


@pytest.mark.parametrize("name", ["unmodified", "ours, tokens", "pruned", "evs"])
def test_an_answer_from_other_tokens_fails_its_check(dry, name, monkeypatch):
    """The reference is told of a mask that differs from the provider's in one token."""

    def told(dry: bench.Bench, keep: torch.Tensor | None) -> torch.Tensor:
        wrong = torch.ones(12, 3, 3, dtype=torch.bool) if keep is None else keep.clone()
        wrong[5, 1, 1] ^= True
        return honest(dry, wrong)

    honest = answering.logits_of
    monkeypatch.setattr(answering, "logits_of", told)
    provider = next(each for each in answering.providers(dry) if each.name == name)
    with pytest.raises(AssertionError, match="of their RMS"):
        provider.check(dry)


def test_out_of_time_is_said_with_what_was_reached(said, dry):
    late = replace(dry, until=0.0)
    said.clear()
    assert command.written(late, command.SCENARIOS, None) == []
    assert {row.frames for row in long.long_stream(late, "carriers")} == {4}
    assert said[-1] == "out of time after 4 frames of 48"


def test_the_readme_is_what_the_rows_give():
    assert report.main(["--check"]) == 0, "run python3 -m benchmarks.end_to_end.report"


def test_the_committed_plots_are_those_of_the_rows():
    wanted = {f"{path.stem}-breakdown.png" for path in report.RESULTS.glob("*.csv")}
    assert {path.name for path in report.RESULTS.glob("*.png")} == wanted


def test_report_writes_readme_and_plot_once_and_for_all(found, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    image = pytest.importorskip("PIL.Image", reason="opens the plot with Pillow")
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nb\n", encoding="utf-8")
    rows.write(tmp_path / "card.csv", found)
    options = ["--results", str(tmp_path), "--readme", str(readme)]
    assert report.main([*options, "--check"]) == 1
    assert "not what the rows give" in capsys.readouterr().err
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("a\n<!--")
    assert text.endswith("-->\nb\n")
    assert "card-breakdown.png" in text
    with image.open(io.BytesIO((tmp_path / "card-breakdown.png").read_bytes())) as picture:
        picture.verify()
    readme.write_text("nothing", encoding="utf-8")
    assert report.main(options) == 2


def test_tables_keep_losing_rows_and_say_their_conditions():
    slower = replace(ROW, provider="ours, tokens", p50=400.0)
    grown = [replace(RATE, quantity="memory", unit="MiB", frames=n, p50=float(n)) for n in (500, 1000)]
    text = report.block({"cpu": [ROW, slower, RATE, *grown]})
    assert "| unmodified |  | 100 ms |\n" in text
    assert "| ours, tokens |  | 400 ms (0.25x) |\n" in text
    assert "| one stream, carriers | frames a second | 100 1/s | 90.0 1/s to 110 1/s | 9 |\n" in text
    assert "| one stream, carriers | memory | 1000 MiB (2x) |" in text
    for condition in (
        ROW.model,
        ROW.device,
        ROW.torch,
        ROW.transformers,
        ROW.commit,
        f"`{ROW.command}`",
        "1 of 9 tokens",
    ):
        assert condition in text
    assert report.NO_GPU in text
    assert report.NO_GPU not in report.block({"gpu": [replace(ROW, model="Qwen2.5-VL-7B")]})


def test_the_text_says_where_the_time_goes():
    parts = {"vision": 60.0, "prefill": 39.0, "prune": 1.0}
    text = report.block({"cpu": [replace(RATE, quantity=name, unit="ms", p50=ms) for name, ms in parts.items()]})
    assert "- one stream, carriers (a raw frame of a stream, 100 ms): vision 60%, prefill 39%\n" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.5, "ms", "0.500 ms"), (99.96, "ms", "100 ms"), (1234.0, "ms", "1.23 s"), (1234.4, "MiB", "1234 MiB")],
)
def test_amounts(value, unit, text):
    assert report.amount(value, unit) == text


def test_rows_of_another_schema_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("provider,mode\nours,call\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must have the columns"):
        rows.read(tmp_path / "rows.csv")


def test_the_command(tmp_path):
    options = ["--dry", "--only", "one stream, tokens", "--out", str(tmp_path)]
    words = [sys.executable, "-m", "benchmarks.end_to_end", *options]
    done = subprocess.run(
        words, cwd=CHECKOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = rows.read(tmp_path / "end_to_end.csv")
    assert done.stdout.endswith(f"{len(measured)} rows in {tmp_path / 'end_to_end.csv'}\n")
    assert {row.provider for row in measured} == {"ours, tokens"}
    assert measured[0].command.startswith("python3 -m benchmarks.end_to_end --dry ")


def test_the_command_refuses_a_scenario_that_is_none(capsys):
    assert command.main(["--only", "nothing"]) == 2
    assert "names none of one stream, carriers" in capsys.readouterr().err
