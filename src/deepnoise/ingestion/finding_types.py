"""Types of findings: what can be wrong with a screen's images and tables, and the allowed policies.

Pure Python, because ``deepnoise.parameters`` reads it whenever a command starts.
"""

from __future__ import annotations

FINDINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "missing_well": ("a well that most plates have is not listed for this plate", ("error", "report")),
    "metadata_without_images": ("a listed well has no image", ("error", "report")),
    "well_without_metadata": ("a well has images but is in no table", ("error", "exclude")),
    "orphan_image": ("an image whose name identifies no well", ("error", "exclude")),
    "missing_image": ("a channel, or a whole site that most wells have, has no image", ("error", "exclude")),
    "duplicate_image": ("a second image of the same site, or the same pixels twice", ("error", "exclude", "report")),
    "unreadable_image": ("a damaged image, or a folder in its place", ("error", "exclude")),
    "wrong_shape": ("an image whose size differs from the screen's", ("error", "exclude")),
    "wrong_dtype": ("an image whose dtype differs from the screen's", ("error", "exclude")),
    "unequal_channels": ("a file with more or fewer channels than the screen", ("error", "exclude")),
    "black_image": ("every pixel has the same value", ("error", "exclude", "report")),
    "saturated_image": ("at least 5 % of the pixels have the highest value", ("error", "exclude", "report")),
    "similar_names": ("two names that differ only in case or white space", ("error", "report")),
    "unknown_perturbation": (
        "a perturbation on unlabelled plates that no labelled plate has",
        ("error", "exclude", "report"),
    ),
    "excluded": ("on the list of excluded wells", ("exclude",)),
}
"""Finding -> (description, allowed policies). An unusable image can only stop the run or be excluded."""
