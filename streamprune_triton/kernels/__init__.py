"""The Triton kernels. Their sources lie in the top-level folder `kernels/`, which a wheel carries as this package."""

from pathlib import Path

# A top-level package `kernels` would shadow Hugging Face's of that name in a checkout, so the folder is no package:
# in a checkout (known by its pyproject.toml) it is appended to this package's path instead.
_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "kernels" / "similarity.py").is_file():
    __path__.append(str(_checkout / "kernels"))
