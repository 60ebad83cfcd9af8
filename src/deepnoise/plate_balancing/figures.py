"""Where on its plate each call is sure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from deepnoise.drawing.figures import say
from deepnoise.drawing.plate_maps import draw_plate_maps, spread


def draw_calls(calls: pd.DataFrame) -> go.Figure:
    """Maps of the confidence of the calls, with the plate design and without, and of where the design changed them.

    Args:
        calls: The table of that name.
    """
    if calls.empty:
        return say("no well is called")
    placed = calls.set_index(["experiment", "plate", "well"])
    layers = {
        "confidence with the plate design": placed["design_confidence"],
        "confidence without it": placed["plain_confidence"],
        "changed by the design": placed["changed"].astype(float),
    }
    plates = list(dict.fromkeys(zip(calls["experiment"], calls["plate"], strict=True)))
    return draw_plate_maps(layers, spread(plates), (0.0, 1.0))
