"""One screen as training and inference see it: its images and the tables that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from deepnoise.normalization.illumination import corrected_store

if TYPE_CHECKING:
    from deepnoise.network.site_images import ImageSource


@dataclass(frozen=True)
class Screen:
    """Images and tables of a screen.

    Args:
        images: Images of the sites, already corrected for illumination where the screen is.
        sites: The table ``sites``.
        wells: The table ``wells``.
        folds: The table ``folds``.
        statistics: The table ``plate_statistics``.
    """

    images: ImageSource
    sites: pd.DataFrame
    wells: pd.DataFrame
    folds: pd.DataFrame
    statistics: pd.DataFrame

    @classmethod
    def from_store(
        cls,
        image_store: ImageSource,
        illumination_fields: pd.DataFrame,
        sites: pd.DataFrame,
        wells: pd.DataFrame,
        folds: pd.DataFrame,
        statistics: pd.DataFrame,
    ) -> Screen:
        """The screen of an image store, with its images divided by their illumination fields where there are any."""
        return cls(corrected_store(image_store, illumination_fields), sites, wells, folds, statistics)

    @property
    def fold_numbers(self) -> list[int]:
        """Folds of the table ``folds``, ascending."""
        return sorted(int(fold) for fold in self.folds["fold"].unique())

    def with_statistics(self, statistics: pd.DataFrame) -> Screen:
        """The same screen under another normalization."""
        return replace(self, statistics=statistics)
