"""Kernels and benchmarks are found from a bare checkout, an editable install and a wheel, and shadow no package."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
FIND = (
    "import streamprune_triton, streamprune_triton.kernels.launch as launch; "
    "print(streamprune_triton.__file__); print(launch.__file__)"
)
FIND_BENCHMARKS = "import streamprune_triton.benchmarks.bench as bench; print(bench.__file__)"


def run(code: str, cwd: Path, *path: Path) -> list[str]:
    """What Python prints, started in `cwd` with `path` in front of the installed packages."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="builds a wheel, which needs hatchling")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_from_a_checkout():
    package, kernels = run(FIND, CHECKOUT)
    assert package == str(CHECKOUT / "streamprune_triton" / "__init__.py")
    assert kernels == str(CHECKOUT / "kernels" / "launch.py")
    assert run(FIND_BENCHMARKS, CHECKOUT) == [str(CHECKOUT / "benchmarks" / "bench.py")]


def test_from_a_path_entry_as_an_editable_install_makes_it(tmp_path):
    package, kernels = run(FIND, tmp_path, CHECKOUT)
    assert package == str(CHECKOUT / "streamprune_triton" / "__init__.py")
    assert kernels == str(CHECKOUT / "kernels" / "launch.py")


def test_from_a_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    package, kernels = run(FIND, tmp_path, tmp_path / "site")
    assert package == str(tmp_path / "site" / "streamprune_triton" / "__init__.py")
    assert kernels == str(tmp_path / "site" / "streamprune_triton" / "kernels" / "launch.py")
    benchmarks = tmp_path / "site" / "streamprune_triton" / "benchmarks"
    assert run(FIND_BENCHMARKS, tmp_path, tmp_path / "site") == [str(benchmarks / "bench.py")]


def test_a_wheel_holds_every_source_once_and_nothing_at_the_top_level(wheel):
    listed = zipfile.ZipFile(wheel).namelist()
    names = set(listed)
    assert len(listed) == len(names)
    folders = ("streamprune_triton", "kernels", "benchmarks")
    sources = [p for folder in folders for p in (CHECKOUT / folder).rglob("*.py")]
    assert sources
    for source in sources:
        inside = source.relative_to(CHECKOUT)
        expected = inside if inside.parts[0] == "streamprune_triton" else Path("streamprune_triton") / inside
        assert expected.as_posix() in names
    assert not [n for n in names if n.startswith(("kernels/", "benchmarks/"))]


def test_a_wheel_holds_the_trained_weights_and_their_card(wheel):
    folder = Path("streamprune_triton") / "shapes" / "weights"
    with zipfile.ZipFile(wheel) as inside:
        for name in ("model.safetensors", "plain.safetensors", "README.md"):
            assert inside.read((folder / name).as_posix()) == (CHECKOUT / folder / name).read_bytes()
    assert sum(path.stat().st_size for path in (CHECKOUT / folder).iterdir()) <= 8_000_000


def test_a_package_named_kernels_is_not_shadowed(tmp_path):
    """Hugging Face has one, which transformers imports."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("theirs = True\n")
    assert run("import kernels; print(kernels.theirs)", CHECKOUT, tmp_path) == ["True"]


def test_importing_does_nothing_else():
    code = (
        "import os, sys; before = dict(os.environ); import streamprune_triton, torch; "
        "assert dict(os.environ) == before; assert not torch.cuda.is_initialized(); "
        "print([m for m in ('transformers', 'triton', 'av', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    assert run(code, CHECKOUT) == ["[]"]
