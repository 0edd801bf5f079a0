"""What the tests of this folder are given. The tiny models and films are those of tests/models."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
