"""The KV cache that a session's memories share: rows in memory allocated once, dropped and rotated in place.

The caches are transformers caches, so they are imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .carrier_cache import CarrierCache
    from .fixed import FixedCache
    from .packed import PackedCache
    from .rotary import Rotary

__all__ = ["CarrierCache", "FixedCache", "PackedCache", "Rotary"]


def __getattr__(name: str) -> Any:
    if name == "CarrierCache":
        from .carrier_cache import CarrierCache

        return CarrierCache
    if name == "FixedCache":
        from .fixed import FixedCache

        return FixedCache
    if name == "PackedCache":
        from .packed import PackedCache

        return PackedCache
    if name == "Rotary":
        from .rotary import Rotary

        return Rotary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
