"""Nodes of ``ingestion``: adapters of ``deepnoise.ingestion``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from deepnoise.errors import InputError
from deepnoise.ingestion import audit, chapter, findings, folds, packing, validation
from deepnoise.parameters import IngestionParameters

logger = logging.getLogger(__name__)


def validate_wells(
    raw_wells: pd.DataFrame, excluded_wells: pd.DataFrame, parameters: IngestionParameters
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Check the raw tables, bring well names into one form, drop the wells that a person has excluded."""
    wells, counts, found = validation.validate_wells(raw_wells, parameters.target_well_types, excluded_wells)
    logger.info(
        "tables: %s labelled, %s held-out and %s control wells on %s plates",
        *(f"{counts[k]:,}" for k in ("labelled_targets", "heldout_targets", "controls", "plates")),
    )
    table = findings.findings_table(found, parameters.findings.model_dump())
    findings.stop_on_errors(table)
    return wells, {"counts": counts, "findings": table}


def match_images(
    raw_images: packing.RawImages,
    wells: pd.DataFrame,
    table_findings: dict[str, Any],
    parameters: IngestionParameters,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find the images of every well."""
    known = table_findings["findings"]
    excluded = findings.excluded_sites(known[known["finding"] == "excluded"])
    matched, counts, found = validation.match_images(wells, raw_images, excluded)
    table = findings.findings_table(found, parameters.findings.model_dump())
    findings.stop_on_errors(table)  # what the listing shows is told before hours of packing
    return matched, {"counts": counts, "findings": pd.concat([known, table], ignore_index=True)}


def pack_images(
    raw_images: packing.RawImages, matched_images: pd.DataFrame, parameters: IngestionParameters
) -> packing.PackingPlan:
    """Hand the plates to the store, which reads what it lacks."""
    return packing.plan_packing(matched_images, raw_images, parameters.checksum)


def report_findings(
    image_store: Any, table_findings: dict[str, Any], image_findings: dict[str, Any], parameters: IngestionParameters
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Everything that is wrong with the screen: a row each, and summed up."""
    found = packing.pixel_findings(image_store.records(), image_store.channels)
    pixels = findings.findings_table(found, parameters.findings.model_dump())
    table = pd.concat([image_findings["findings"], pixels], ignore_index=True)
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
    summary = findings.summarize(table)
    return table, {
        "tables": table_findings["counts"],
        "images": image_findings["counts"],
        "store": store,
        "findings": summary,
    }


def list_sites(image_store: Any, wells: pd.DataFrame, ingestion_findings: pd.DataFrame) -> pd.DataFrame:
    """The usable sites: packed, and not left out by a finding."""
    findings.stop_on_errors(ingestion_findings)
    sites = image_store.rows()
    out = findings.excluded_sites(ingestion_findings)
    keep = [
        (e, p, w, s) not in out and (e, p, w, findings.WHOLE_WELL) not in out
        for e, p, w, s in sites[findings.PLACE].itertuples(index=False)
    ]
    packed = len(sites)
    sites = sites[np.array(keep, bool) & sites["id_code"].isin(wells["id_code"]).to_numpy()]
    if sites.empty:
        kinds = ingestion_findings.loc[ingestion_findings["policy"] == "exclude", "finding"].value_counts()
        told = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        raise InputError(
            f"no usable site is left of {packed} packed ones; left out: {told or 'none'}. See ingestion_findings"
        )
    return sites.sort_values(["experiment", "plate", "store_row"], ignore_index=True)


def audit_design(wells: pd.DataFrame) -> dict[str, Any]:
    """What the design alone gives away."""
    found = audit.audit_design(wells)
    logger.info(
        "design: %s duplicate layouts, %s plate groups, class from well position alone %.1f %% (chance %.1f %%)",
        len(found["duplicate_layouts"]), len(found["plate_groups"]),
        100 * found["class_from_well_position"]["accuracy"], 100 * found["class_from_well_position"]["chance"],
    )  # fmt: skip
    return found


def make_folds(wells: pd.DataFrame, design_audit: dict[str, Any], parameters: IngestionParameters) -> pd.DataFrame:
    """Split the screen; duplicates of a layout stay together."""
    split = parameters.folds
    return folds.make_folds(
        wells, design_audit["duplicate_layouts"], split.n_folds, split.run, split.validation, split.split
    )


def write_chapter(
    wells: pd.DataFrame,
    image_store: Any,
    ingestion_report: dict[str, Any],
    ingestion_findings: pd.DataFrame,
    design_audit: dict[str, Any],
) -> dict[str, Any]:
    """What the report shows of ingestion."""
    return chapter.write_chapter(
        wells, image_store.plates, ingestion_report, ingestion_findings, design_audit
    ).as_json()
