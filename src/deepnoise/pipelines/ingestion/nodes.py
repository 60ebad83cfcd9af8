"""Nodes of ``ingestion``: adapters of ``deepnoise.ingestion``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pandas as pd

from deepnoise.ingestion import design, packing, validation
from deepnoise.parameters import IngestionParameters

logger = logging.getLogger(__name__)


def validate_wells(raw_wells: pd.DataFrame, parameters: IngestionParameters) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Check the raw tables and bring well names into one form."""
    wells, findings = validation.validate_wells(raw_wells, parameters.target_well_types)
    logger.info(
        "tables: %s labelled, %s held-out and %s control wells on %s plates",
        *(f"{findings[k]:,}" for k in ("labelled_targets", "heldout_targets", "controls", "plates")),
    )
    return wells, findings


def match_images(
    raw_images: Any, wells: pd.DataFrame, parameters: IngestionParameters
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find the pictures of every well."""
    return validation.match_images(wells, raw_images.found, raw_images.channels, parameters.missing_images)


def pack_images(
    raw_images: Any, matched_images: pd.DataFrame, parameters: IngestionParameters
) -> Iterator[packing.PlateImages | packing.PackingComplete]:
    """Hand plate after plate to the store, which reads what it lacks."""
    yield from packing.plan_packing(
        matched_images, raw_images.channels, raw_images.stamp, raw_images.read, parameters.unreadable_images
    )


def list_sites(
    image_store: Any, wells: pd.DataFrame, table_findings: dict[str, Any], image_findings: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The usable sites, and all findings in one report."""
    sites = image_store.rows()
    sites = sites[sites["id_code"].isin(wells["id_code"])].sort_values(
        ["experiment", "plate", "store_row"], ignore_index=True
    )
    first = next(iter(image_store.plates.values()))
    packed = {
        "sites": len(sites),
        "channels": image_store.channels,
        "image_size": first["shape"][2:],
        "dtype": first["dtype"],
        "unreadable": image_store.unreadable,
    }
    lists = ("incomplete_sites", "images_without_well")
    faults = len(packed["unreadable"]) + sum(len(image_findings[name]) for name in lists)
    faults += sum(image_findings["wells_without_images_by_plate"].values())
    every = [
        *packed["unreadable"],
        *(text for name in (*lists, "wells_without_images") for text in image_findings[name]),
    ]
    named = [f" (first: {text})" for text in every[:1]]
    logger.info(
        "packed %s sites of %s plates (%s channels, %s px, %s); %s",
        f"{len(sites):,}", len(image_store.plates), len(image_store.channels), "x".join(map(str, packed["image_size"])), packed["dtype"],
        f"{faults} findings{named[0] if named else ''}, see ingestion_report" if faults else "no findings",
    )  # fmt: skip
    return sites, {"tables": table_findings, "images": image_findings, "store": packed}


def audit_design(wells: pd.DataFrame) -> dict[str, Any]:
    """What the design alone gives away."""
    audit = design.audit_design(wells)
    logger.info(
        "design: %s duplicate layouts, %s plate groups, class from well position alone %.1f %% (chance %.1f %%)",
        len(audit["duplicate_layouts"]), len(audit["plate_groups"]),
        100 * audit["class_from_well_position"]["accuracy"], 100 * audit["class_from_well_position"]["chance"],
    )  # fmt: skip
    return audit


def make_folds(wells: pd.DataFrame, design_audit: dict[str, Any], parameters: IngestionParameters) -> pd.DataFrame:
    """Split the screen; duplicates of a layout stay together."""
    folds = parameters.folds
    return design.make_folds(wells, design_audit["duplicate_layouts"], folds.n_folds, folds.run, folds.validation)
