"""DeepNoise: distinguishes biology from technical noise in high-content microscopy screens.

Four functions work on tables alone, without Kedro: :func:`balance_plates`, :func:`probe_leaks`, :func:`find_suspect_wells` and
:func:`replicate_map`. They are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepnoise.api import balance_plates, find_suspect_wells, probe_leaks, replicate_map

__version__ = "0.1.0"
__all__ = ["balance_plates", "find_suspect_wells", "probe_leaks", "replicate_map"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deepnoise import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
