"""Images as PNG: a Kedro dataset that can be read again and that kedro viz shows."""

from __future__ import annotations

import base64
import io
from typing import Any

from kedro.io.core import get_filepath_str
from kedro_datasets._typing import ImagePreview
from kedro_datasets.pillow import ImageDataset
from PIL import Image

from deepnoise.datasets.atomic import write_atomically


class ImageFileDataset(ImageDataset):
    """An image, loaded and saved as a PIL image; versioned like any Kedro dataset.

    Catalog::

        contact_sheet:
          type: deepnoise.datasets.image_file.ImageFileDataset
          filepath: data/08_reporting/demo/contact_sheet.png
          versioned: true
    """

    def load(self) -> Image.Image:
        path = get_filepath_str(self._get_load_path(), self._protocol)
        with self._fs.open(path, "rb") as file:
            image = Image.open(io.BytesIO(file.read()))
        image.load()
        return image

    def save(self, data: Image.Image) -> None:
        written = io.BytesIO()
        data.save(written, format="PNG", optimize=True)
        write_atomically(self, written.getvalue())

    def preview(self) -> ImagePreview:
        """The file as base64, for kedro viz."""
        path = get_filepath_str(self._get_load_path(), self._protocol)
        return ImagePreview(base64.b64encode(self._fs.cat_file(path)).decode())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "protocol": self._protocol, "version": self._version}
