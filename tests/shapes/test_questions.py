"""Answers, against scenes whose answers can be told by looking."""

from __future__ import annotations

import numpy as np
import pytest
from staged import Actor, stage

from streamprune_triton.shapes import questions, render, rules, truth, world


def known(happens: world.World) -> np.ndarray:
    return questions.answers(truth.truth(happens, render.owners(happens)))


def answer(happens: world.World, text: str, step: int) -> str | None:
    """The answer's word, None where the question is not asked."""
    found = known(happens)[0, step, questions.TEXTS.index(text)]
    return None if found < 0 else questions.ANSWERS[found]


LEFT, RIGHT, MIDDLE = (8, 23), (40, 23), (23, 24)
PLAY = stage(  # red is there all along; blue comes in step 1 and goes in step 3; green comes in step 2, moving down
    Actor("red", "square", [LEFT] * 5),
    Actor("blue", "circle", [None, RIGHT, RIGHT, None, None]),
    Actor("green", "cross", [None, None, (24, 20), (24, 26), (24, 32)], way=4),
)


@pytest.mark.parametrize(
    ("text", "by_step"),
    [
        ("what shape is red ?", ["square"] * 5),
        ("what shape is blue ?", [None, "circle", "circle", None, None]),
        ("where is red ?", ["left"] * 5),
        ("where is blue ?", [None, "right", "right", None, None]),
        ("where is red from blue ?", [None, "left", "left", None, None]),
        ("where is blue from red ?", [None, "right", "right", None, None]),
        ("where is red from red ?", [None] * 5),
        ("what is right of red ?", [None, "blue", None, "green", "green"]),
        ("what is left of red ?", [None, "nothing", "nothing", "nothing", "nothing"]),
        ("how many shapes ?", ["one", "two", "three", "two", "two"]),
        ("where does green go ?", [None, None, None, "down", "down"]),
        ("where does red go ?", [None, "nowhere", "nowhere", "nowhere", "nowhere"]),
        ("what does red do ?", [None, "stands", "stands", "stands", "stands"]),
        ("what does green do ?", ["unseen", "unseen", None, "moves", "moves"]),
        ("what does blue do ?", ["unseen", None, "stands", "gone", "gone"]),
        ("what does cyan do ?", ["unseen"] * 5),
        ("what came first ?", [None, "red", "red", "red", "red"]),
        ("what came last ?", [None, "blue", "green", "green", "green"]),
        ("what came first green or blue ?", [None, None, "blue", "blue", "blue"]),
        ("what came first blue or green ?", [None, None, "blue", "blue", "blue"]),
        ("what came first blue or cyan ?", [None] * 5),
        ("what has left ?", [None, "nothing", "nothing", "blue", "blue"]),
        ("where was blue ?", [None, None, None, "right", "right"]),
        ("where was red ?", [None] * 5),
    ],
)
def test_a_play(text: str, by_step: list[str | None]):
    assert [answer(PLAY, text, step) for step in range(5)] == by_step


def test_up_is_where_rows_are_small():
    happens = stage(Actor("red", "square", [(23, 8)] * 2, way=3), Actor("blue", "square", [(24, 40)] * 2, way=4))
    expected = {
        "where is red ?": "top",
        "where is blue ?": "bottom",
        "where is red from blue ?": "above",
        "where is blue from red ?": "below",
        "what is above blue ?": "red",
        "what is below blue ?": "nothing",
        "where does red go ?": "up",
        "where does blue go ?": "down",
    }
    assert {text: answer(happens, text, 1) for text in expected} == expected


def test_what_is_half_hidden_is_not_asked_about():
    happens = stage(Actor("red", "square", [MIDDLE]), Actor("blue", "square", [(23, 30)]))
    assert answer(happens, "how many shapes ?", 0) is None
    assert answer(happens, "what shape is red ?", 0) is None
    assert answer(happens, "what shape is blue ?", 0) == "square"


def test_what_is_hidden_has_not_left():
    happens = stage(
        Actor("red", "square", [(8, 8), (23, 23)]),
        Actor("blue", "square", [(23, 23)] * 2),
        Actor("cyan", "circle", [(40, 8)] * 2),
    )
    assert answer(happens, "what does red do ?", 1) is None
    assert answer(happens, "what has left ?", 1) is None
    assert answer(happens, "what has left ?", 0) == "nothing"


def test_two_that_came_together_have_no_order():
    happens = stage(Actor("red", "square", [LEFT] * 2), Actor("blue", "square", [RIGHT] * 2))
    for text in ("what came first ?", "what came last ?", "what came first red or blue ?"):
        assert answer(happens, text, 1) is None


def test_a_diagonal_is_no_side():
    happens = stage(Actor("red", "square", [(8, 8)]), Actor("blue", "square", [(40, 40)]))
    assert answer(happens, "where is red from blue ?", 0) is None
    assert answer(happens, "what is left of blue ?", 0) is None
    assert answer(happens, "where is red ?", 0) is None


def test_opposites_agree():
    """Over many clips: relations are antisymmetric, order does not depend on how it is asked, counts add up."""
    found = known(world.simulate(1, 50, 8))
    opposite = dict(zip(rules.RELATIONS, ("right", "left", "below", "above"), strict=True))
    colours = list(world.COLOURS)
    for a in colours:
        for b in colours:
            there, back = (found[:, :, questions.TEXTS.index(f"where is {x} from {y} ?")] for x, y in ((a, b), (b, a)))
            assert [opposite[questions.ANSWERS[n]] for n in there[there >= 0]] == [
                questions.ANSWERS[n] for n in back[there >= 0]
            ]
            first, second = (
                found[:, :, questions.TEXTS.index(f"what came first {x} or {y} ?")] for x, y in ((a, b), (b, a))
            )
            assert np.array_equal(first, second)


def test_a_clip_does_not_know_its_future():
    """The answers of a step are those of the clip that ends there."""
    happens = world.simulate(2, 20, 10)
    whole, frames = known(happens), 6 * world.STEP
    cut = {"centre": happens.centre[:, :frames], "alive": happens.alive[:, :frames], "way": happens.way[:, :6]}
    assert np.array_equal(known(world.World(**{**happens.__dict__, **cut})), whole[:, :6])


def test_drawn_questions_are_among_the_known_and_none_comes_twice():
    found = known(world.simulate(3, 30, 6))
    drawn = questions.draw(np.random.default_rng(0), found, 12)
    clip = np.arange(30)[:, None]
    assert np.array_equal(drawn.answer, found[clip, drawn.step, drawn.text])
    assert (drawn.answer >= 0).all()
    assert (np.diff(drawn.step, axis=1) >= 0).all()
    assert all(
        len(set(zip(s, t, strict=True))) == 12 for s, t in zip(drawn.step.tolist(), drawn.text.tolist(), strict=True)
    )


def test_a_clip_with_few_questions_has_empty_places():
    found = np.full((1, 2, len(questions.TEXTS)), -1, np.int16)
    found[0, 1, 3] = 7
    drawn = questions.draw(np.random.default_rng(0), found, 4)
    assert drawn.answer[drawn.answer >= 0].tolist() == [7]


def test_no_type_and_no_answer_is_frequent_enough_to_be_guessed():
    found = known(world.simulate(4, 300, 16))
    drawn = questions.draw(np.random.default_rng(0), found, 12)
    kinds = questions.TYPE_OF[drawn.text]
    for n, name in enumerate(questions.TYPES):
        given = drawn.answer[kinds == n]
        assert 0.04 < (kinds == n).mean() < 0.16, name
        assert np.bincount(given).max() / len(given) < 0.4, name


def test_a_type_of_weight_zero_is_not_asked():
    found = known(world.simulate(5, 20, 6))
    weight = questions.balance(found)
    weight[questions.TYPES.index("shape")] = 0
    drawn = questions.draw(np.random.default_rng(0), found, 12, weight)
    assert questions.TYPES.index("shape") not in questions.TYPE_OF[drawn.text][drawn.answer >= 0]


def test_token_labels_say_what_is_in_a_token():
    labels = truth.token_labels(PLAY, render.owners(PLAY))
    red, green = 1 + list(world.COLOURS).index("red"), 1 + list(world.COLOURS).index("green")
    colour = labels["colour"][0]
    assert colour[0, 2, 0] == colour[0, 2, 1] == red  # rows 16-23, columns 0-15
    assert set(np.unique(colour[0])) == {0, red}
    assert (colour[4] == green).any()
    assert set(labels["way"][0][colour == green]) == {1 + 4}
    assert set(labels["kind"][0][colour == red]) == {1 + world.KINDS.index("square")}
    x, y = labels["offset"][0, 0, 2, 0]
    assert (x, y) == ((8 - 3.5) / 8, (23 - 19.5) / 8)


def test_a_clip_to_watch_is_the_world_that_is_asked_about():
    from streamprune_triton.shapes.clip import ShapesClip

    clip, happens = ShapesClip(seed=6, steps=5), world.simulate(6, 1, 5)
    frames = list(clip)
    assert [seconds for seconds, _ in frames] == [n / 2 for n in range(10)]
    assert clip.duration == 5.0
    assert np.array_equal(np.stack([frame for _, frame in frames]), render.paint(happens, render.owners(happens))[0])
    asked = clip.ask(3)
    assert asked == {text: word for text in questions.TEXTS if (word := answer(happens, text, 3)) is not None}
    assert len(asked) > 5
