"""The benchmarks of the pruning step. Their sources lie in the top-level folder `benchmarks/`, which a wheel carries
as this package."""

from pathlib import Path

# In a checkout (known by its pyproject.toml) that folder is appended to this package's path. In a wheel this file is
# the folder's own `__init__.py`, which has nothing but a docstring.
_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "benchmarks" / "bench.py").is_file():
    __path__.append(str(_checkout / "benchmarks"))
