"""Maps of call confidence on the plates."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import say
from deepnoise.drawing.plate_maps import draw_plate_maps, spread


def draw_calls(calls: pd.DataFrame) -> go.Figure:
    """Plate maps of call confidence, with and without the plate layout, and of the calls that it changed.

    Args:
        calls: The table ``calls``.
    """
    if calls.empty:
        return say("there are no calls")
    by_well = calls.set_index(["experiment", "plate", "well"])
    layers = {
        "confidence with the plate layout": by_well["design_confidence"],
        "confidence without it": by_well["plain_confidence"],
        "changed by the layout": by_well["changed"].astype(float),
    }
    plates = list(dict.fromkeys(zip(calls["experiment"], calls["plate"], strict=True)))
    return draw_plate_maps(layers, spread(plates), (0.0, 1.0))
