"""Pictures as PNG: a Kedro dataset that can be read again and that kedro viz shows."""

from __future__ import annotations

import base64
import io
from typing import Any

from kedro.io.core import get_filepath_str
from kedro_datasets._typing import ImagePreview
from kedro_datasets.pillow import ImageDataset
from PIL import Image


class PictureDataset(ImageDataset):
    """A picture, loaded and saved as a PIL image; versioned like any Kedro dataset.

    Catalog::

        contact_sheet:
          type: deepnoise.datasets.picture.PictureDataset
          filepath: data/08_reporting/demo/contact_sheet.png
          versioned: true
    """

    def load(self) -> Image.Image:
        path = get_filepath_str(self._get_load_path(), self._protocol)
        with self._fs.open(path, "rb") as file:
            picture = Image.open(io.BytesIO(file.read()))
        picture.load()
        return picture

    def save(self, data: Image.Image) -> None:
        path = get_filepath_str(self._get_save_path(), self._protocol)
        staged = f"{path}.part"  # whole or not at all
        with self._fs.open(staged, "wb") as file:
            data.save(file, format="PNG", optimize=True)
        self._fs.mv(staged, path)
        self._invalidate_cache()

    def preview(self) -> ImagePreview:
        """The file as base64, for kedro viz."""
        path = get_filepath_str(self._get_load_path(), self._protocol)
        return ImagePreview(base64.b64encode(self._fs.cat_file(path)).decode())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "protocol": self._protocol, "version": self._version}
