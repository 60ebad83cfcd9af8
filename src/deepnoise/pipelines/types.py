"""Types in the signatures of nodes. At run time they are placeholders: Kedro reads these signatures when pipelines are registered, long
before anything needs pandas, plotly or Pillow. Nodes import the library when they run, for the same reason.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing
    from pandas import DataFrame
    from PIL.Image import Image
    from plotly.graph_objects import Figure

    from deepnoise.datasets.image_store import ImageStore
    from deepnoise.datasets.model import TrainingState
    from deepnoise.ingestion.packing import PackingPlan, RawImages
    from deepnoise.simulation.redealt import RedealtImages
else:
    DataFrame = Figure = Drawing = Image = ImageStore = PackingPlan = RawImages = RedealtImages = TrainingState = Any

__all__ = [
    "DataFrame",
    "Drawing",
    "Figure",
    "Image",
    "ImageStore",
    "PackingPlan",
    "RawImages",
    "RedealtImages",
    "TrainingState",
]
