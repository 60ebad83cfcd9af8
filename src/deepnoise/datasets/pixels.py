"""Image files to grey levels: the values of the file and no others, or an error that says why not.

No value is rescaled, looked up in a palette or rounded; planes of other files, other z planes, time points and
positions are never taken for channels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from deepnoise.datasets.folder import Folder
from deepnoise.errors import ImageError, InputError

PROJECTIONS = ("max", "middle")
"""What may be made of several z planes: the highest value of each pixel, or the plane in the middle."""
CHANNEL_AXES = "CSQI"
"""Axes that hold channels: channels, samples of a pixel, and the unnamed pages of a stack."""


def read_image(folder: Folder, name: str, z: str | None = None) -> np.ndarray:
    """Read one image file (.png, .tif, .npy, .jpg) without changing its values.

    Args:
        folder: Folder of the image.
        name: Name of the file in it.
        z: See :func:`read_planes`.

    Returns:
        (H, W), or (C, H, W) where the file has several channels. A .npy or colour .png is stored as (H, W,
        C); a .tif declares its own axes.

    Raises:
        ImageError: See :func:`read_planes`.
    """
    return read_planes(folder, name, z)[0]


def read_planes(folder: Folder, name: str, z: str | None = None) -> tuple[np.ndarray, list[str]]:
    """Read one image file with the names that it gives to its channels.

    Args:
        folder: Folder of the image.
        name: Name of the file in it.
        z: Projection of several z planes, of ``PROJECTIONS``; without it several z planes are an error.

    Returns:
        (H, W) or (C, H, W), uint8 or uint16, and C channel names; no names if the file has none.

    Raises:
        ImageError: The file does not exist or is damaged (unreadable_image); its values are not 8 or 16-bit counts, or
            cannot be read unchanged (wrong_dtype); it has several z planes, time points or positions (wrong_shape).
    """
    path = folder.join(name)
    try:
        with folder.fs.open(path, "rb") as file:
            content = file.read()
        image, labels = _decode(content, path, z)
    except FileNotFoundError as error:
        raise ImageError("missing_image", path, "no such file") from error
    except IsADirectoryError as error:
        raise ImageError("unreadable_image", path, "is a folder, expected an image") from error
    except ImageError:
        raise
    except Exception as error:  # decoders raise zlib, struct, index and memory errors, among others
        reason = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error)).strip() or type(error).__name__
        raise ImageError("unreadable_image", path, f"cannot be read as an image ({reason})") from error
    image = raw_counts(image, path)
    if image.ndim not in (2, 3):
        raise ImageError("wrong_shape", path, f"shape {image.shape}, expected (H, W), or (H, W) with channels")
    return image, labels


def raw_counts(image: np.ndarray, name: str) -> np.ndarray:
    """The same values in the machine's byte order.

    Args:
        image: An image of any shape.
        name: The name of its file, for the error.

    Raises:
        ImageError: The dtype is neither uint8 nor uint16.
    """
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError("wrong_dtype", name, f"{image.dtype}, expected uint8 or uint16")
    return image


def known_projection(z: str | None) -> str | None:
    """The projection of z planes that a catalog entry asks for.

    Raises:
        InputError: There is no such projection.
    """
    if z not in (None, *PROJECTIONS):
        raise InputError(f"catalog: z is {z!r}; allowed: {', '.join(PROJECTIONS)}")
    return z


def project(planes: np.ndarray, z: str | None, name: str) -> np.ndarray:
    """One plane of (Z, ...) z planes: the only one, or their projection.

    Raises:
        ImageError: There are several planes and no projection (wrong_shape).
    """
    if len(planes) == 1:
        return planes[0]
    if z is None:
        raise ImageError(
            "wrong_shape", name, f"has {len(planes)} z planes, expected one; add 'z: max' or 'z: middle' to the catalog"
        )
    return planes.max(axis=0) if z == "max" else planes[len(planes) // 2]


def in_order(image: np.ndarray, labels: Sequence[str], channels: Sequence[str], name: str) -> np.ndarray:
    """The (C, H, W) channels in the order of the screen, by the names that the file gives to them.

    Names are compared without regard to case. A file whose names say nothing of the screen's channels keeps its order;
    channels of other names are left out where the file names all channels of the screen.

    Args:
        image: (C', H, W).
        labels: C' names, or none.
        channels: Names of the C channels of the screen.
        name: Name of the file, for the error.

    Raises:
        ImageError: The names contradict those of the screen (unequal_channels).
    """
    given = [label.strip().casefold() for label in labels]
    wanted = [channel.strip().casefold() for channel in channels]
    common = set(given) & set(wanted)
    if len(given) != len(image) or not common or given == wanted:
        return image
    if common == set(wanted) and all(given.count(channel) == 1 for channel in wanted):
        return image[[given.index(channel) for channel in wanted]]
    raise ImageError(
        "unequal_channels",
        name,
        f"its channels are called {', '.join(labels)}, those of the screen {', '.join(channels)}",
    )


def _decode(content: bytes, path: str, z: str | None) -> tuple[np.ndarray, list[str]]:
    suffix = path.lower().rsplit(".", 1)[-1]
    if suffix == "npy":
        image = np.load(io.BytesIO(content), allow_pickle=False)
        return (image.transpose(2, 0, 1) if image.ndim == 3 else image), []
    if suffix in ("tif", "tiff"):
        with tifffile.TiffFile(io.BytesIO(content), is_ome=False) as tiff:
            description: str = tiff.pages.first.description
            if "<OME" in description[:2000] and description.rstrip("\0 \r\n").endswith("OME>"):
                return _ome_planes(tiff, description, path, z)
            return _tiff_planes(tiff, path, z), []
    return _picture(content, path), []


def _picture(content: bytes, path: str) -> np.ndarray:
    """A PNG or JPEG. Of these, Pillow changes the values of palettes, of 1, 2 and 4 bits, and of 16-bit colours."""
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise ImageError("wrong_shape", path, f"is an animation of {frames} frames, expected one")
        if picture.format == "PNG":
            bits, colour = content[24], content[25]  # of the header (PNG specification, IHDR)
            if colour == 3:
                raise ImageError("wrong_dtype", path, "has a palette, so its values are no counts; save grey levels")
            if bits < 8:
                raise ImageError("wrong_dtype", path, f"{bits} bits per pixel, expected 8 or 16")
            if bits == 16 and colour:
                import imagecodecs  # Pillow would reduce it to 8 bits

                return np.moveaxis(imagecodecs.png_decode(content), -1, 0)
        elif picture.mode not in ("L", "RGB"):
            raise ImageError("wrong_dtype", path, f"a JPEG of mode {picture.mode}, expected grey levels or RGB")
        image = np.asarray(picture)
    return np.moveaxis(image, -1, 0) if image.ndim == 3 else image


def _tiff_planes(tiff: tifffile.TiffFile, path: str, z: str | None) -> np.ndarray:
    """The (H, W) or (C, H, W) image of a tif that is not OME-TIFF."""
    if (
        tiff.pages.first.photometric == tifffile.PHOTOMETRIC.PALETTE and not tiff.is_imagej
    ):  # that of ImageJ is for display
        raise ImageError("wrong_dtype", path, "has a palette, so its values are no counts; save grey levels")
    images = [series for series in tiff.series if not series.keyframe.is_reduced]
    if len(images) > 1:
        shapes = " and ".join(str(series.shape) for series in images[:2])
        raise ImageError("wrong_shape", path, f"holds {len(images)} images, of shapes {shapes}; expected one")
    image, axes = images[0].asarray(), images[0].axes
    long = [axis for axis, n in zip(axes, image.shape, strict=True) if n > 1 or axis in "YX"]
    image = image.reshape([n for axis, n in zip(axes, image.shape, strict=True) if axis in long])
    if "Z" in long:
        image = project(np.moveaxis(image, long.index("Z"), 0), z, path)
        long.remove("Z")
    others = [axis for axis in long if axis not in "YX" + CHANNEL_AXES]
    if others:
        name = {"T": "time points", "P": "positions"}.get(others[0], f"planes of axis {others[0]}")
        raise ImageError("wrong_shape", path, f"has {image.shape[long.index(others[0])]} {name}, expected one")
    if len(long) == 3:  # channels, or unnamed pages of a stack; samples (S) may come last
        channel_axis = next(axis for axis in long if axis not in "YX")
        image = np.moveaxis(image, long.index(channel_axis), 0)
    return image


def _ome_planes(tiff: tifffile.TiffFile, description: str, path: str, z: str | None) -> tuple[np.ndarray, list[str]]:
    """The planes of an OME-TIFF that are in this very file, whatever other files its metadata names.

    A set of OME-TIFFs repeats the metadata of all positions in each of its files (OME-TIFF specification, "multi-file
    OME-TIFF filesets"); ``TiffData`` says which plane is in which file.
    """
    root = ElementTree.fromstring(description.rstrip("\0"))
    own_name, own_id = path.rsplit("/", 1)[-1], root.get("UUID")
    images = root.findall("{*}Image")
    planes: dict[tuple[int, int, int, int], int] = {}  # image, c, z, t -> page
    elsewhere = 0
    for number, element in enumerate(images):
        pixels = element.find("{*}Pixels")
        for data in [] if pixels is None else pixels.findall("{*}TiffData"):
            file = data.find("{*}UUID")
            if file is not None and file.get("FileName") != own_name and file.text != own_id:
                elsewhere += 1
                continue
            page = int(data.get("IFD", 0))
            listed = data.get("PlaneCount") or (1 if "IFD" in data.attrib else None)
            start = tuple(int(data.get(f"First{axis}", 0)) for axis in "CZT")
            order = _plane_order(pixels, start)
            for plane in order[: int(listed) if listed else len(order)]:
                planes[(number, *plane)] = page
                page += 1
    if not planes or max(planes.values()) >= len(tiff.pages):  # renamed, or described in another file
        if len(tiff.pages) > 1 and elsewhere:
            raise ImageError(
                "wrong_shape",
                path,
                f"its OME metadata describe other files, not its own {len(tiff.pages)} pages; was it renamed?",
            )
        return _tiff_planes(tiff, path, z), []
    for what, position in (("positions", 0), ("time points", 3)):
        numbers = {plane[position] for plane in planes}
        if len(numbers) > 1:
            raise ImageError("wrong_shape", path, f"has {len(numbers)} {what}, expected one")
    image_number = next(iter(planes))[0]
    names = [channel.get("Name", "") for channel in images[image_number].findall("{*}Pixels/{*}Channel")]
    stacks, labels = [], []
    for c in sorted({plane[1] for plane in planes}):
        pages = [planes[plane] for plane in sorted(planes) if plane[1] == c]
        stacks.append(project(np.stack([tiff.pages[page].asarray() for page in pages]), z, path))
        labels.append(names[c] if c < len(names) else "")
    if stacks[0].ndim == 3:  # samples of a pixel, in the order of the page
        axis = tiff.pages[0].axes.index("S")
        return np.concatenate([np.moveaxis(stack, axis, 0) for stack in stacks]), []
    image = np.stack(stacks)
    return (image if len(image) > 1 else image[0]), labels if all(labels) else []


def _plane_order(pixels: ElementTree.Element | None, start: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The (c, z, t) of the planes from ``start`` on, in the order in which they are stored."""
    if pixels is None:
        return []
    order = pixels.get("DimensionOrder", "XYZCT")[2:]  # the first axis changes fastest
    samples = max((int(c.get("SamplesPerPixel", 1)) for c in pixels.findall("{*}Channel")), default=1)
    size = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "CZT"}
    size["C"] //= samples
    slowest, middle, fastest = (range(size[axis]) for axis in reversed(order))
    listed = [
        tuple(dict(zip(reversed(order), (a, b, c), strict=True))[axis] for axis in "CZT")
        for a in slowest for b in middle for c in fastest
    ]  # fmt: skip
    return listed[listed.index(start) :] if start in listed else []  # type: ignore[return-value]
