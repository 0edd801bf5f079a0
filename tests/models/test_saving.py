"""Saved, loaded and forked sessions go on as the ones they come from."""

from __future__ import annotations

import copy
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from safetensors.torch import save_file
from streams import GREEDY, KINDS, SOME, STREAMED, WHAT, Heard, answer, counts_of, fed, same_past

from streamprune_triton import Memory, PruneConfig, StreamingSession

MEMORIES = [
    Memory("tokens", max_tokens=30),
    Memory("carriers", max_carriers=3),
    Memory("hybrid", max_carriers=3, recent_frames=2, positions="compact"),
]


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


def same_bits(a: StreamingSession, b: StreamingSession) -> bool:
    """Also in the order of the rows, on which sums of attention depend."""
    pairs = zip(a._past.cache.layers, b._past.cache.layers, strict=True)
    return same_past(a, b, 0.0) and all(
        torch.equal(one.keys, two.keys) and torch.equal(one.values, two.values) for one, two in pairs
    )


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
@pytest.mark.parametrize("seen", [0, 1, 9])
@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_a_loaded_session_goes_on_with_the_same_bits(family, heard: Heard, tmp_path: Path, memory: Memory, seen: int):
    frames = unmodified.film(20)
    session = fed(family, frames[:seen], 1, SOME, memory, system="You see.")
    if seen:
        session.ask(WHAT, remember=True, **GREEDY)
    session.save(tmp_path / "stream.safetensors")
    loaded = StreamingSession(*family, SOME, memory, system="You see.")
    loaded.append(frames[3:5])  # forgotten when it loads
    loaded.load(tmp_path / "stream.safetensors")
    assert same_bits(session, loaded)
    assert session.stats == loaded.stats
    for one in (session, loaded):
        one.append(frames[seen : seen + 3])
        one.append(frames[seen + 3 :])
    assert same_bits(session, loaded)
    assert counts_of(session) == counts_of(loaded)
    assert torch.equal(answer(session, heard), answer(loaded, heard))


def test_what_is_saved_is_as_large_as_what_is_held(family, tmp_path: Path):
    sizes = []
    session = StreamingSession(*family, SOME, Memory("carriers", max_carriers=3))
    for n in range(8):
        session.append(unmodified.film(2, seed=n))
        session.save(tmp_path / "stream.safetensors")
        sizes.append(os.path.getsize(tmp_path / "stream.safetensors"))
        assert list(tmp_path.iterdir()) == [tmp_path / "stream.safetensors"]
    assert max(sizes[5:]) - min(sizes[5:]) < 2000  # digits of counters and of the frames' times


def test_a_failed_save_leaves_the_file_as_it_was(family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "stream.safetensors"
    session = fed(family, unmodified.film(4), 2, SOME)
    session.save(path)
    before = path.read_bytes()
    session.append(unmodified.film(4))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        session.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="nowhere"):
        session.save(tmp_path / "nowhere" / "stream.safetensors")


def test_sessions_save_to_one_path_at_once(family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file is the whole of one of them."""
    path, sessions = tmp_path / "stream.safetensors", [fed(family, unmodified.film(n), 2, SOME) for n in (4, 8)]
    both, replace, names = threading.Barrier(2), os.replace, []

    def late(partial: Path, path: Path) -> None:
        names.append(partial)
        both.wait(30)
        replace(partial, path)

    monkeypatch.setattr(os, "replace", late)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda session: session.save(path), sessions)) == [None, None]
    assert len(set(names)) == 2
    assert list(tmp_path.iterdir()) == [path]
    loaded = StreamingSession(*family, SOME)
    loaded.load(path)
    assert any(same_bits(loaded, session) for session in sessions)


def test_a_file_of_another_session_is_refused(family, tmp_path: Path):
    path = tmp_path / "stream.safetensors"
    fed(family, unmodified.film(4), 2, SOME, Memory("carriers")).save(path)
    mask = torch.ones(3, 4, dtype=torch.bool)
    others = [
        (StreamingSession(*family, SOME), "memory"),
        (StreamingSession(*family, PruneConfig(), Memory("carriers")), "config"),
        (StreamingSession(*family, PruneConfig(0.9, 0.6, mask=mask), Memory("carriers")), "config"),
        (StreamingSession(*family, SOME, Memory("carriers"), fps=2.0), "fps"),
        (StreamingSession(*family, SOME, Memory("carriers"), system="You see."), "system"),
    ]
    for other, name in others:
        untouched = other.fork()
        with pytest.raises(ValueError, match=rf"path must hold a session of {name}"):
            other.load(path)
        assert same_bits(other, untouched)
    session = StreamingSession(*family, SOME, Memory("carriers"))
    (tmp_path / "text").write_text("not a file of tensors, but long enough for a header")
    with pytest.raises(ValueError, match="path must be a session's file"):
        session.load(tmp_path / "text")
    save_file({"x": torch.zeros(1)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="path must be a session's file"):
        session.load(tmp_path / "tensors")
    with pytest.raises(OSError, match="nowhere"):
        session.load(tmp_path / "nowhere")


def test_a_file_of_a_model_of_other_heads_is_refused(family, tmp_path: Path):
    path = tmp_path / "stream.safetensors"
    fed(family, unmodified.film(4), 2, SOME).save(path)
    model, processor = family
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.num_key_value_heads = text.num_attention_heads
    session = StreamingSession(type(model)(config).eval(), processor, SOME)
    with pytest.raises(ValueError, match=r"^path must hold a session of model\.num_key_value_heads = \d, got "):
        session.load(path)


def test_only_what_differs_is_named(family, tmp_path: Path):
    path = tmp_path / "stream.safetensors"
    fed(family, unmodified.film(4), 2, SOME, Memory("carriers")).save(path)
    session = StreamingSession(*family, PruneConfig(0.9, 0.5), Memory("carriers"))
    with pytest.raises(ValueError, match="path must hold") as caught:
        session.load(path)
    own, saved = "config.spatial_threshold = 0.5", "config.spatial_threshold = 0.6"
    assert str(caught.value) == f"path must hold a session of {own}, got {saved}"


def test_paths_that_are_no_files(family, tmp_path: Path):
    session = fed(family, unmodified.film(4), 2, SOME)
    folder, nowhere = tmp_path / "folder", tmp_path / "none" / "file"
    folder.mkdir()
    for call, path, error, message in (
        (session.load, folder, IsADirectoryError, f"path must be of a file, got the folder {str(folder)!r}"),
        (session.save, folder, IsADirectoryError, f"path must be of a file, got the folder {str(folder)!r}"),
        (session.load, nowhere, FileNotFoundError, f"path must be of a file that is there, got {str(nowhere)!r}"),
        (session.save, nowhere, FileNotFoundError, f"path must be in a folder that is there, got {str(nowhere)!r}"),
        (session.load, None, TypeError, "path must be a str or a path, of a file, got NoneType"),
        (session.save, None, TypeError, "path must be a str or a path, of a file, got NoneType"),
    ):
        with pytest.raises(error) as caught:
            call(path)
        assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_a_pipe_stays_one(family, tmp_path: Path):
    session, pipe = StreamingSession(*family), tmp_path / "pipe"
    os.mkfifo(pipe)
    for act in (session.save, session.load):
        with pytest.raises(OSError, match=r"^path must be of a file, got .*pipe', which is a device or a pipe"):
            act(pipe)
    assert pipe.is_fifo()


def test_a_damaged_file_changes_nothing(family, tmp_path: Path):
    path = tmp_path / "stream.safetensors"
    fed(family, unmodified.film(4), 2, SOME, Memory("carriers")).save(path)
    session = fed(family, unmodified.film(2), 2, SOME, Memory("carriers"))
    whole, untouched = path.read_bytes(), session.fork()
    body = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    flips = [draw.randrange(8 * 8) for _ in range(8)]
    flips += [draw.randrange(8 * 8, 8 * body) for _ in range(150)]
    flips += [draw.randrange(8 * body, 8 * len(whole)) for _ in range(50)]
    damaged = [whole[:-7], whole[:body], whole[: body // 2], b""]
    for flip in flips:
        changed = bytearray(whole)
        changed[flip // 8] ^= 1 << flip % 8
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^path must be a session's file"):
            session.load(path)
        assert same_bits(session, untouched)
    path.write_bytes(whole)
    session.load(path)


def test_a_file_of_another_format_is_refused(family, tmp_path: Path):
    """Before anything else of it is looked at."""
    path = tmp_path / "stream.safetensors"
    session = fed(family, unmodified.film(4), 2, SOME)
    untouched = session.fork()
    session.save(path)
    for header, cure in (
        ({"format": "streamprune-session-2"}, "load it with the release of streamprune-triton that saved it, or "),
        ({"format": "pt"}, "of format 'pt'"),
        (None, "of format None"),
    ):
        save_file({"x": torch.zeros(1)}, path, header)
        with pytest.raises(ValueError, match="path must be a session's file of format streamprune-session-1") as caught:
            session.load(path)
        assert cure in str(caught.value)
        assert repr(str(path)) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert same_bits(session, untouched)


def test_a_mask_of_ones_own_is_saved(family, tmp_path: Path):
    mask = torch.zeros(*fed(family, unmodified.film(2), 2)._past.grid, dtype=torch.bool)
    mask[0, 1] = True
    config = PruneConfig(0.9, 0.6, mask=mask)
    session = fed(family, unmodified.film(4), 2, config)
    session.save(tmp_path / "stream.safetensors")
    loaded = StreamingSession(*family, PruneConfig(0.9, 0.6, mask=mask.clone()))
    loaded.load(tmp_path / "stream.safetensors")
    assert same_bits(session, loaded)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_forks_go_their_own_ways(family, heard: Heard, memory: Memory):
    """Each as a session that saw only what it saw, whoever writes first."""
    frames, others = unmodified.film(20), unmodified.film(20, seed=3)
    for first in (True, False):
        session = fed(family, frames[:8], 2, SOME, memory)
        fork = session.fork()
        assert fork._past.cache.layers[0].keys.data_ptr() == session._past.cache.layers[0].keys.data_ptr()
        for one, more in ((session, frames), (fork, others)) if first else ((fork, others), (session, frames)):
            one.append(more[8:12])
            one.ask(WHAT, **GREEDY)
            one.append(more[12:])
        alone = fed(family, frames, 2, SOME, memory)
        beside = fed(family, np.concatenate([frames[:8], others[8:]]), 2, SOME, memory)
        assert same_past(session, alone)
        assert same_past(fork, beside)
        assert counts_of(session) == counts_of(alone)
        torch.testing.assert_close(answer(fork, heard), answer(beside, heard), atol=1e-4, rtol=0)


def test_a_fork_that_only_answers_copies_nothing(family):
    session = fed(family, unmodified.film(8), 2, SOME, Memory("carriers"))
    storage = session._past.cache.layers[0].keys.data_ptr()
    fork = session.fork()
    assert fork.ask(WHAT, **GREEDY) == session.ask(WHAT, **GREEDY)
    assert fork._past.cache.layers[0].keys.data_ptr() == storage
    del fork
    session.append(unmodified.film(8))
    assert session._past.cache.layers[0].keys.data_ptr() == storage
