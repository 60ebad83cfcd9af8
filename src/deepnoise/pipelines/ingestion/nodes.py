"""Nodes of ``ingestion``: adapters of ``deepnoise.ingestion``."""

from __future__ import annotations

import logging
from typing import Any

from deepnoise.parameters import IngestionParameters
from deepnoise.pipelines.types import DataFrame, ImageStore, PackingPlan, RawImages

logger = logging.getLogger(__name__)


def validate_wells(
    raw_wells: DataFrame, excluded_wells: DataFrame, parameters: IngestionParameters
) -> tuple[DataFrame, dict[str, Any]]:
    """Check the raw tables, normalize well names, drop the wells that a person has excluded."""
    from deepnoise.ingestion import findings, validation

    wells, counts, rows = validation.validate_wells(raw_wells, parameters.target_well_types, excluded_wells)
    logger.info(
        "tables: %s labelled, %s held-out and %s control wells on %s plates",
        *(f"{counts[k]:,}" for k in ("labelled_targets", "heldout_targets", "controls", "plates")),
    )
    table = findings.findings_table(rows, parameters.findings.model_dump())
    findings.stop_on_errors(table)
    return wells, {"counts": counts, "findings": table}


def match_images(
    raw_images: RawImages, wells: DataFrame, table_findings: dict[str, Any], parameters: IngestionParameters
) -> tuple[DataFrame, dict[str, Any]]:
    """Find the images of every well."""
    import pandas as pd

    from deepnoise.ingestion import findings, validation

    earlier = table_findings["findings"]
    excluded = findings.excluded_sites(earlier[earlier["finding"] == "excluded"])
    matched, counts, rows = validation.match_images(wells, raw_images, excluded)
    table = findings.findings_table(rows, parameters.findings.model_dump())
    findings.stop_on_errors(table)  # faults visible in the file listing are reported before hours of packing
    return matched, {"counts": counts, "findings": pd.concat([earlier, table], ignore_index=True)}


def pack_images(raw_images: RawImages, matched_images: DataFrame, parameters: IngestionParameters) -> PackingPlan:
    """Hand the plates to the image store, which reads those it lacks."""
    from deepnoise.ingestion import packing

    return packing.plan_packing(matched_images, raw_images, parameters.checksum, parameters.verify)


def report_findings(
    image_store: ImageStore,
    table_findings: dict[str, Any],
    image_findings: dict[str, Any],
    parameters: IngestionParameters,
) -> tuple[DataFrame, dict[str, Any]]:
    """Everything that is wrong with the screen: one row each, and a summary."""
    import pandas as pd

    from deepnoise.ingestion import findings, packing

    pixel_rows = packing.pixel_findings(image_store.records(), image_store.channels)
    of_pixels = findings.findings_table(pixel_rows, parameters.findings.model_dump())
    table = pd.concat([image_findings["findings"], of_pixels], ignore_index=True)
    store = {
        "plates": len(image_store.plates),
        "sites": sum(plate["sites"] for plate in image_store.plates.values()),
        "channels": image_store.channels,
        "image_size": list(image_store.shape[1:]),
        "dtype": image_store.dtype,
    }
    size = "x".join(map(str, store["image_size"]))
    logger.info(
        "packed %s sites of %s plates (%s channels, %s px, %s)",
        f"{store['sites']:,}", store["plates"], len(store["channels"]), size, store["dtype"],
    )  # fmt: skip
    for row in table.drop_duplicates("finding").itertuples():
        count = int((table["finding"] == row.finding).sum())
        logger.warning("%s findings, policy %s; the first: %s", f"{count:,}", row.policy, findings.name_of(row))
    return table, {
        "tables": table_findings["counts"],
        "images": image_findings["counts"],
        "store": store,
        "findings": findings.summarize(table),
    }


def list_sites(image_store: ImageStore, wells: DataFrame, ingestion_findings: DataFrame) -> DataFrame:
    """The usable sites: packed, and not excluded by a finding."""
    from deepnoise.ingestion.findings import usable_sites

    return usable_sites(image_store.rows(), wells, ingestion_findings)


def audit_design(wells: DataFrame) -> dict[str, Any]:
    """What the plate layout alone reveals."""
    from deepnoise.ingestion import audit

    result = audit.audit_design(wells)
    position = result["class_from_well_position"]
    logger.info(
        "design: %s duplicate layouts, %s plate groups, class from well position alone %.1f %% (chance %.1f %%)",
        len(result["duplicate_layouts"]), len(result["plate_groups"]), 100 * position["accuracy"], 100 * position["chance"],
    )  # fmt: skip
    return result


def make_folds(wells: DataFrame, design_audit: dict[str, Any], parameters: IngestionParameters) -> DataFrame:
    """Split the screen; experiments with the same layout stay together."""
    from deepnoise.ingestion import folds

    split = parameters.folds
    return folds.make_folds(
        wells, design_audit["duplicate_layouts"], split.n_folds, split.run, split.validation, split.split
    )


def write_chapter(
    wells: DataFrame,
    image_store: ImageStore,
    ingestion_report: dict[str, Any],
    ingestion_findings: DataFrame,
    design_audit: dict[str, Any],
) -> dict[str, Any]:
    """What the report shows of ingestion."""
    from deepnoise.ingestion import chapter

    return chapter.write_chapter(
        wells, image_store.plates, ingestion_report, ingestion_findings, design_audit
    ).as_json()
