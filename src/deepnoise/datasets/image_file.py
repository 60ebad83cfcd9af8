"""PNG images that a run writes, can read again, and that kedro viz shows."""

from __future__ import annotations

import base64
import io
from typing import Any

from kedro.io.core import get_filepath_str
from kedro_datasets.pillow import ImageDataset
from PIL import Image

from deepnoise.datasets.atomic import save_bytes
from deepnoise.datasets.previews import ImagePreview


class ImageFileDataset(ImageDataset):
    """A PIL image. Takes the arguments of ``pillow.ImageDataset``.

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
        png = io.BytesIO()
        data.save(png, format="PNG", optimize=True)
        save_bytes(self, png.getvalue())

    def preview(self) -> ImagePreview:
        """The PNG in base64, for kedro viz."""
        path = get_filepath_str(self._get_load_path(), self._protocol)
        return ImagePreview(base64.b64encode(self._fs.cat_file(path)).decode())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "protocol": self._protocol, "version": self._version}
