"""What the README shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_snippets():
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["pruner", "session"])
def test_snippet(snippet, capsys):
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    if "pruner" in names:
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 4
        assert all("100% dropped" in line for line in printed[1:])
    else:
        assert isinstance(names["answer"], str)


def test_files_it_names_exist():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (CHECKOUT / target).is_file(), target
