"""Carriers in packed sequences against real sessions, and what their training is taught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from staged import Actor, stage
from test_model import STEPS as NINE
from test_model import releases_rule

import streamprune_triton as sp
from benchmarks.accuracy import batch as batches
from benchmarks.accuracy.carriers import lives, sequences
from benchmarks.accuracy.carriers.knowledge import facts
from benchmarks.accuracy.carriers.modes import Mode, hybrid
from benchmarks.accuracy.carriers.network import CarrierNetwork
from benchmarks.accuracy.methods.ours import pruned
from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions, world
from streamprune_triton.shapes.truth import TOKEN

STEPS, AREA = 14, batches.AREA
NOTHING = sp.PruneConfig(temporal_threshold=None, spatial_threshold=None)
SOME = sp.PruneConfig(temporal_threshold=0.9, spatial_threshold=0.9)
MEMORIES = {
    "carriers": sp.Memory("carriers"),
    "few carriers": sp.Memory("carriers", max_carriers=5),
    "hybrid": sp.Memory("hybrid", recent_frames=2),
    "hybrid, few carriers": sp.Memory("hybrid", recent_frames=3, max_carriers=5),
    "hybrid, few tokens": sp.Memory("hybrid", recent_frames=4, max_carriers=6, max_tokens=80),
    "tokens": sp.Memory("tokens", max_tokens=100),
}


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    return small.load()


@pytest.fixture(scope="module")
def net(built: tuple[Any, Any]) -> CarrierNetwork:
    return CarrierNetwork(*built).eval()


@pytest.fixture(scope="module")
def clips() -> batches.Clips:
    return batches.make(3, 2, STEPS)


@pytest.fixture(scope="module")
def batch(net: CarrierNetwork, clips: batches.Clips) -> batches.Batch:
    with torch.no_grad():
        x = net.features(clips.frames)
    return batches.asked(np.random.default_rng(0), x, clips.labels, clips.known, 7)


def heard(built: tuple[Any, Any], session: sp.StreamingSession, text: str) -> torch.Tensor:
    """(V,) the logits that a session chooses the first token of its answer from."""
    logits: list[torch.Tensor] = []
    hook = built[0].lm_head.register_forward_hook(lambda module, given, out: logits.append(out.detach()))
    try:
        session.ask(text, max_new_tokens=1)
    finally:
        hook.remove()
    return logits[0].reshape(-1, logits[0].shape[-1])[-1]


def told(net: CarrierNetwork, batch: batches.Batch, config: sp.PruneConfig, memory: sp.Memory, behind: torch.Tensor):
    """(B, Q, V) packed logits."""
    keep = pruned(config)(batch)
    packed, hidden = net.asked(batch, keep, Mode(memory).dies(batch, keep), behind.expand(batch.size))
    return net.answer(hidden[-1], packed.asks)


@torch.no_grad()
@pytest.mark.parametrize("config", [NOTHING, SOME], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", MEMORIES)
def test_packed_questions_get_the_logits_of_a_session(name, config, built, net, batch, clips):
    """Carriers, their positions, the steps' tokens and all evictions: a session asked at any time during the clip."""
    nine = batches.Clips(clips.frames[:, : NINE * world.STEP], {}, clips.known)
    logits = told(net, batch, config, MEMORIES[name], releases_rule(built, net, nine))
    for clip in range(2):
        session = sp.StreamingSession(*built, config, MEMORIES[name], fps=world.FPS)
        for step in range(STEPS):
            session.append(clips.frames[clip, 2 * step : 2 * step + 2].numpy())
            for slot in (batch.step[clip] == step).nonzero()[:, 0].tolist():
                alone = heard(built, session, questions.TEXTS[batch.text[clip, slot]])
                torch.testing.assert_close(logits[clip, slot], alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_without_eviction_it_is_one_forward_under_the_semantic_mask(net, batch):
    keep = pruned(SOME)(batch)
    rows = sequences.entries(keep, STEPS)
    first = len(net.words.before)
    for recent in (0, 2):
        packed, _ = net.asked(batch, keep, hybrid(recent).dies(batch, keep), torch.tensor([False, False]))
        for clip, row in enumerate(rows):
            there = row[row >= 0]
            frames = torch.cat([torch.full((first,), -1), there // sequences.SLOTS])
            carriers = torch.cat([torch.zeros(first, dtype=torch.bool), there % sequences.SLOTS == sequences.CARRIER])
            mask = sp.semantic_mask(frames, carriers, recent_frames=recent)[0, 0]
            assert torch.equal(packed.mask[clip, 0, : len(mask), : len(mask)], mask)


def test_padding_is_not_seen(net, batch):
    """The clip that keeps fewer tokens than its neighbour gets what it gets alone."""
    keep = pruned(SOME)(batch)
    short = int((keep >= 0).sum(1).argmin())
    assert (keep[short] < 0).any()
    one = batches.Batch(batch.x[[short]], {}, *(each[[short]] for each in (batch.text, batch.step, batch.answer)))
    memory, behind = sp.Memory("hybrid", recent_frames=2), torch.tensor([False])
    with torch.no_grad():
        both = told(net, batch, SOME, memory, behind)[short]
        torch.testing.assert_close(told(net, one, SOME, memory, behind)[0], both, atol=1e-4, rtol=0)


def gone(memory: sp.Memory, rule: str, carriers: np.ndarray) -> list[int]:
    """Steps whose carriers have gone, in the order of their going."""
    dies = lives.lives(memory, np.zeros(len(carriers), int), carriers, lives.RULES[rule])[:, 1]
    return [int(step) for step in dies.argsort(kind="stable") if dies[step] < lives.FOREVER]


def test_which_carriers_go():
    """Of embeddings that turn, by the angles between neighbours and by the gaps between steps."""
    memory = sp.Memory("carriers", max_carriers=4)
    turning = np.stack([np.array([np.cos(a), np.sin(a)]) for a in (0, 1, 1.1, 2, 2.95, 4, 5.1)])
    assert gone(memory, "most alike", turning) == [1, 2, 3]
    assert gone(memory, "oldest", turning) == [0, 1, 2]
    assert gone(memory, "even", turning) == [1, 3, 5]
    recent = sp.Memory("hybrid", max_carriers=4, recent_frames=3)
    assert gone(recent, "oldest", turning) == [0, 1, 2]
    assert gone(recent, "even", turning) == [1, 2, 3]


def test_when_a_step_dies():
    """Step n is read at 2 n, asked about at 2 n + 1."""
    carriers, counts = np.eye(4), np.full(4, 9)
    forever = [lives.FOREVER] * 4
    assert lives.lives(sp.Memory("carriers"), counts, carriers).T.tolist() == [[1, 3, 5, 7], forever]
    kept = lives.lives(sp.Memory("hybrid", recent_frames=2), counts, carriers)
    assert kept.T.tolist() == [[5, 7, lives.FOREVER, lives.FOREVER], forever]
    plain = lives.lives(sp.Memory("tokens", max_tokens=20), counts, carriers)
    assert plain.T.tolist() == [[4, 6, lives.FOREVER, lives.FOREVER], [0, 2, 4, 6]]


def test_what_a_carrier_is_taught():
    """Red stands at the left and leaves; blue comes and goes right."""
    red, blue = list(world.COLOURS).index("red"), list(world.COLOURS).index("blue")
    staged = stage(
        Actor("red", "circle", [(11, 27), (11, 27), None, None]),
        Actor("blue", "cross", [None, (20, 35), (24, 35), (28, 35)], way=2),
    )
    known = facts(batches.of_world(staged).labels, 4)
    assert known["there"][0, :, red].tolist() == [True, True, False, False]
    assert known["seen"][0, :, blue].tolist() == [False, True, True, True]
    assert known["gone"][0, :, red].tolist() == [False, False, True, True]
    assert known["onset"][0, 3, [red, blue]].tolist() == [0, 1]
    assert known["kind"][0, 1, [red, blue]].tolist() == [1, 3]
    assert known["way"][0, 1, [red, blue]].tolist() == [0, 2]
    centre = known["was at"][0, 3, red] * TOKEN + (TOKEN - 1) / 2
    torch.testing.assert_close(centre, torch.tensor([11.0, 27.0]))
