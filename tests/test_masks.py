"""The semantic-aware mask against the sentence that defines it, dense against FlexAttention's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from streamprune_triton import semantic_mask

# Text, frame 0 with two tokens and its carrier, text, frame 1 without a kept token, frame 2, text.
FRAMES = [-1, -1, 0, 0, 0, -1, 1, 2, 2, 2, 2, -1, -1]
CARRIERS = [0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0]


def sentence(frames: list[int], carriers: list[int], recent: int) -> torch.Tensor:
    """(L, L) bool, from the words: all text and all carriers before, and the tokens of the own or a recent frame."""
    rows = []
    for q, own in enumerate(frames):
        begun = max([f for f in frames[: q + 1] if f >= 0], default=-1)
        row = []
        for k, other in enumerate(frames):
            lasting = other == -1 or carriers[k] == 1
            oldest = begun + 1 - recent if own == -1 else own - recent  # text is read behind all frames so far
            near = other >= oldest
            row.append(k <= q and (lasting or near))
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("recent", [0, 1, 2, 5])
def test_it_is_what_the_sentence_says(recent: int):
    mask = semantic_mask(torch.tensor(FRAMES), torch.tensor(CARRIERS).bool(), recent_frames=recent)
    assert mask.shape == (1, 1, 13, 13)
    assert torch.equal(mask[0, 0], sentence(FRAMES, CARRIERS, recent))


def test_a_row_by_hand():
    mask = semantic_mask(torch.tensor(FRAMES), torch.tensor(CARRIERS).bool())[0, 0]
    assert mask[8].nonzero().flatten().tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert mask[12].nonzero().flatten().tolist() == [0, 1, 4, 5, 6, 10, 11, 12]


def test_sequences_of_a_batch_are_their_own():
    other = [0, 0, 0, 1, 1, -1, -1, 2, 3, 3, 3, 3, 4]
    carried = [0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
    both = semantic_mask(torch.tensor([FRAMES, other]), torch.tensor([CARRIERS, carried]).bool())
    assert torch.equal(both[0, 0], sentence(FRAMES, CARRIERS, 0))
    assert torch.equal(both[1, 0], sentence(other, carried, 0))


@pytest.mark.parametrize(("shape", "batch"), [((0,), 1), ((2, 0), 2)])
def test_no_tokens(shape: tuple[int, ...], batch: int):
    mask = semantic_mask(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool))
    assert mask.shape == (batch, 1, 0, 0)


def test_it_compiles_whole():
    """The look at the numbers is not part of the graph."""
    torch._dynamo.reset()
    whole = torch.compile(semantic_mask, backend="eager", fullgraph=True)
    frames, carriers = torch.tensor(FRAMES), torch.tensor(CARRIERS).bool()
    assert torch.equal(whole(frames, carriers), semantic_mask(frames, carriers))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # slower, the same numbers
@pytest.mark.parametrize("recent", [0, 2])
def test_the_block_mask_is_the_dense_one(recent: int):
    """Through attention itself, over several blocks of 128, and in the blocks that are left out."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (12,), generator=generator)
    frames = torch.cat([torch.full((int(n),), number if number % 4 else -1) for number, n in enumerate(lengths)])
    carriers = torch.rand(len(frames), generator=generator) < 0.1
    carriers &= frames >= 0
    q, k, v = torch.randn(3, 1, 2, len(frames), 16, generator=generator)
    dense = semantic_mask(frames, carriers, recent_frames=recent)
    block = semantic_mask(frames, carriers, recent_frames=recent, block=True)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=dense)
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=block), expected, atol=1e-5, rtol=1e-5)
    size = -(-len(frames) // 128)
    padded = torch.zeros(size * 128, size * 128, dtype=torch.bool)
    padded[: len(frames), : len(frames)] = dense[0, 0]
    blocks = padded.view(size, 128, size, 128).any(3).any(1)
    assert size > 2
    assert torch.equal(block.to_dense()[0, 0].bool(), blocks)


@pytest.mark.parametrize(
    ("frames", "carriers", "recent", "error", "name"),
    [
        ([0, 1], torch.zeros(2).bool(), 0, TypeError, "frames"),
        (torch.zeros(2), torch.zeros(2).bool(), 0, TypeError, "frames"),
        (torch.zeros(1, 1, 2, dtype=torch.int64), torch.zeros(1, 1, 2).bool(), 0, ValueError, "frames"),
        (torch.tensor([0, -2]), torch.zeros(2).bool(), 0, ValueError, "frames must be at least 0, or -1"),
        (torch.tensor([0, 1, 0]), torch.zeros(3).bool(), 0, ValueError, "frames must never fall, got 0 behind 1"),
        (torch.tensor([[0, 1], [3, 2]]), torch.zeros(2, 2).bool(), 0, ValueError, "got 2 behind 3 in sequence 1"),
        (torch.tensor([4, -1, 3]), torch.zeros(3).bool(), 0, ValueError, "got 3 behind 4"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2), 0, TypeError, "carriers"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(3).bool(), 0, ValueError, "carriers"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2).bool(), -1, ValueError, "recent_frames"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2).bool(), True, ValueError, "recent_frames"),
    ],
)
def test_bad_arguments(frames, carriers, recent, error: type[Exception], name: str):
    with pytest.raises(error, match=name):
        semantic_mask(frames, carriers, recent_frames=recent)
