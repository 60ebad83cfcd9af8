"""Validation of wells, matching of images, design audit, plate groups, folds and visible labels."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from deepnoise.errors import InputError
from deepnoise.ingestion.audit import audit_design
from deepnoise.ingestion.findings import excluded_sites, findings_table
from deepnoise.ingestion.folds import make_folds
from deepnoise.ingestion.layouts import discover_groups, layouts_in_use, visible_labels
from deepnoise.ingestion.validation import match_images, validate_wells


def raw_row(**changes):
    row = dict(
        experiment="E-01",
        plate="1",
        well="B2",
        cell_type="E",
        well_type="treatment",
        perturbation="5",
        split="labelled",
        source="train.csv line 2",
    )
    return row | changes


def raw(*rows):
    return pd.DataFrame(list(rows))


def test_wells_get_canonical_names_and_an_id():
    table, counts, findings = validate_wells(raw(raw_row()), ["treatment"])
    assert table.loc[0, ["id_code", "well"]].tolist() == ["E-01_1_B02", "B02"]
    assert counts["labelled_targets"] == 1 and findings == []


def test_labels_of_heldout_targets_are_dropped():
    rows = [raw_row(), raw_row(experiment="E-02", split="heldout", perturbation="7")]
    table, _, _ = validate_wells(raw(*rows), ["treatment"])
    assert table.loc[table["experiment"] == "E-02", "perturbation"].isna().all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([raw_row(well="Z99")], "train.csv line 2: well name 'Z99'"),
        (
            [raw_row(), raw_row(well="B02", source="train.csv line 9")],
            "E-01/1/B02 is listed more than once: train.csv line 2, train.csv line 9",
        ),
        ([raw_row(perturbation=None)], "train.csv line 2: a labelled well has no perturbation"),
        ([raw_row(well_type="blank")], "well_type 'blank'; allowed: treatment"),
        (
            [raw_row(), raw_row(well="B3", well_type="positive_control", source="c line 3")],
            "perturbation '5' is positive_control and treatment",
        ),
    ],
)
def test_invalid_tables_are_refused_with_the_row(rows, message):
    with pytest.raises(InputError, match=message):
        validate_wells(raw(*rows), ["treatment"])


def images(*rows, channels=("n", "er"), strays=(), numbered_sites=True):
    """Raw images as a dataset of raw images gives them."""
    columns = ["experiment", "plate", "well", "site", "files", "missing"]
    sites = pd.DataFrame([("E-01", "1", *row) for row in rows], columns=columns)
    return SimpleNamespace(channels=list(channels), found=sites, strays=list(strays), numbered_sites=numbered_sites)


def locations(findings):
    return {(f["finding"], f.get("well", ""), f.get("site", -1), f.get("file", "")) for f in findings}


def test_images_are_matched_and_every_gap_is_a_finding():
    wells, _, _ = validate_wells(
        raw(raw_row(), raw_row(well="B3"), raw_row(well="B4"), raw_row(experiment="E-02")), ["treatment"]
    )
    rows = [
        ("B02", 1, ("a", "b"), ()),
        ("B2", 1, ("c", "d"), ()),
        ("B03", 1, ("e", "f"), ("f",)),
        ("H12", 1, ("g", "h"), ()),
    ]
    matched, counts, findings = match_images(wells, images(*rows, strays=["overview.png"]))
    assert matched["id_code"].tolist() == ["E-01_1_B02"] and matched["files"].tolist() == [("a", "b")]
    assert counts == {"plates_with_images": 1, "sites_found": 4, "sites_complete": 1}
    assert locations(findings) == {
        ("orphan_image", "", -1, "overview.png"),
        ("well_without_metadata", "H12", 1, "g"),
        ("duplicate_image", "B02", 1, "c"),
        ("missing_image", "B03", 1, "f"),
        ("metadata_without_images", "B04", -1, ""),
        ("metadata_without_images", "B02", -1, ""),  # of E-02
    }
    assert next(f["channel"] for f in findings if f["finding"] == "missing_image") == "er"
    with pytest.raises(InputError, match="no complete image was found for any of the 4 wells .1 sites lack channels"):
        match_images(wells, images(rows[2]))


def test_names_that_differ_between_images_and_tables_are_shown_by_example():
    wells, _, _ = validate_wells(raw(raw_row(plate="Plate1")), ["treatment"])
    with pytest.raises(InputError, match="there are images of E-01/1/B02, the tables list E-01/Plate1/B02"):
        match_images(wells, images(("B02", 1, ("a", "b"), ())))


def test_a_site_that_most_wells_have_is_missing_where_sites_are_numbered():
    wells, _, _ = validate_wells(raw(*(raw_row(well=f"B{i}") for i in range(2, 5))), ["treatment"])
    rows = [(f"B0{i}", s, ("a", "b"), ()) for i in range(2, 5) for s in (1, 2) if (i, s) != (4, 2)]
    _, _, findings = match_images(wells, images(*rows))
    assert locations(findings) == {("missing_image", "B04", 2, "")}
    assert match_images(wells, images(*rows, numbered_sites=False))[2] == []


def test_a_file_whose_name_identifies_no_well_is_an_orphan():
    wells, _, _ = validate_wells(raw(raw_row()), ["treatment"])
    rows = [("B02", 1, ("a", "b"), ()), ("overview", 1, ("overview_s1_w1.png",), ())]
    _, _, findings = match_images(wells, images(*rows))
    assert locations(findings) == {("orphan_image", "", 1, "overview_s1_w1.png")}


def excluded(*rows):
    columns = ["experiment", "plate", "well", "site", "reason"]
    return pd.DataFrame(rows, columns=columns, dtype="str").assign(source="excluded.csv line 2")


def test_excluded_plates_wells_and_sites():
    rows = [raw_row(well=w, plate=p, source=f"{p} {w}") for p in "12" for w in ("B2", "B3", "B4")]
    listed = excluded(
        ("E-01", "2", None, None, "dropped"), ("E-01", "1", "B3", None, "bubble"), ("E-01", "1", "B4", "2", None)
    )
    table, _, findings = validate_wells(raw(*rows), ["treatment"], listed)
    assert table["id_code"].tolist() == ["E-01_1_B02", "E-01_1_B04"]
    assert [(f["well"], f["site"], f["detail"]) for f in findings] == [
        ("B02", -1, "dropped"), ("B03", -1, "dropped"), ("B04", -1, "dropped"), ("B03", -1, "bubble"), ("B04", 2, ""),
    ]  # fmt: skip
    excluded_keys = excluded_sites(findings_table(findings, {}))
    raw_images = images(
        ("B03", 1, ("a", "b"), ()), ("B04", 1, ("c", "d"), ()), ("B02", 1, ("e", "f"), ()), ("B04", 2, ("g", "h"), ())
    )
    matched, _, findings = match_images(table, raw_images, excluded_keys)
    assert findings == [] and matched[["well", "site"]].to_numpy().tolist() == [["B02", 1], ["B04", 1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("E-1", "1", "B2", None, None),
            "excluded.csv line 2: 'E-1' is no experiment; there is E-01. Did you mean 'E-01'",
        ),
        (
            ("E-01", "9", None, None, None),
            "excluded.csv line 2: '9' is no plate of experiment E-01; there is 1",
        ),
        (("E-01", "1", "Z99", None, None), "excluded.csv line 2: well name 'Z99'"),
        (("E-01", "1", "B2", "first", None), "excluded.csv line 2: .*first"),
    ],
)
def test_excluding_a_plate_or_well_that_does_not_exist_is_an_error(row, message):
    with pytest.raises(InputError, match=message):
        validate_wells(raw(raw_row()), ["treatment"], excluded(row))


def test_groups_are_discovered_from_the_labelled_experiments(wells, design):
    groups = discover_groups(wells)
    treated = design[(design["well_type"] == "treatment") & (design["experiment"] == "ALPHA-01")]
    true = treated.set_index(treated["sirna"].astype(str))["plate"]
    pairs = set(zip(groups["group"], groups["perturbation"].map(true), strict=True))
    assert len(pairs) == 4 and groups["group"].nunique() == 4


def test_perturbations_that_do_not_share_plates_have_no_groups(wells):
    rng = np.random.default_rng(0)
    mixed = wells.copy()
    mixed["plate"] = rng.integers(1, 5, len(mixed)).astype(str)
    assert discover_groups(mixed)["group"].nunique() == 1


def test_the_audit_counts_groups_controls_and_chance(wells):
    audit = audit_design(wells)
    assert audit["plate_groups"] == [2, 2, 2, 2]
    assert audit["negative_control"] == {
        "well": "B02",
        "plates_with_it_there": 32,
        "plates_with_more": 32,
        "plates": 32,
    }
    assert audit["class_from_well_position"]["chance"] == pytest.approx(1 / 8)


def test_position_predicts_the_perturbation_in_a_fixed_layout(wells):
    fixed = wells.copy()
    targets = fixed["target"] & fixed["perturbation"].notna()
    fixed.loc[targets, "well"] = "C0" + fixed.loc[targets, "perturbation"]
    assert audit_design(fixed)["class_from_well_position"]["accuracy"] == 1.0


def roles(folds, fold):
    return folds[folds["fold"] == fold].groupby("experiment")["role"].first().to_dict()


def test_folds_hold_out_experiments_by_cell_type(wells):
    folds = make_folds(wells, [], 3, [0, 1, 2], True)
    for fold in range(3):
        role_of = roles(folds, fold)
        assert {e for e, r in role_of.items() if r == "heldout"} == {"ALPHA-04", "BETA-04"}
        validation = [e for e, r in role_of.items() if r == "validation"]
        assert sorted(e.split("-")[0] for e in validation) == ["ALPHA", "BETA"]
    assert len({e for f in range(3) for e, r in roles(folds, f).items() if r == "validation"}) == 6


def test_experiments_with_duplicate_layouts_stay_in_one_fold(wells):
    folds = make_folds(wells, [{"experiments": ["ALPHA-01", "BETA-02"], "wells": 8}], 3, [0, 1, 2], True)
    for fold in range(3):
        role_of = roles(folds, fold)
        assert role_of["ALPHA-01"] == role_of["BETA-02"]


def test_a_fully_labelled_screen_is_cross_validated(wells):
    labelled = wells[wells["split"] == "labelled"]
    folds = make_folds(labelled, [], 3, "all", False)
    pd.testing.assert_frame_equal(folds, make_folds(labelled, [], 3, [0, 1, 2], False))
    held = [{e for e, r in roles(folds, f).items() if r == "heldout"} for f in range(3)]
    assert set.union(*held) == set(labelled["experiment"]) and sum(map(len, held)) == 6
    with_validation = roles(make_folds(labelled, [], 3, [0], True), 0)
    assert sorted(with_validation.values()) == ["heldout"] * 2 + ["train"] * 2 + ["validation"] * 2


def test_one_experiment_is_split_by_plates_and_plates_of_one_perturbation_only_train(wells):
    single = wells[wells["experiment"] == "ALPHA-01"].copy()
    single.loc[(single["plate"] == "4") & single["target"], "perturbation"] = "0"
    folds = make_folds(single, [], 3, [0, 1, 2], False)
    held = folds[folds["role"] == "heldout"]
    assert (folds["unit"] == "plate").all() and sorted(held["plate"]) == ["1", "2", "3"]


def labelled_screen(experiments, plates=2, perturbations="abc"):
    """Plate 1 has the given perturbations, every other plate only perturbation D."""
    rows = [
        raw_row(experiment=e, plate=str(p), well=f"B{w + 2}", cell_type=e.split("-")[0], perturbation=name)
        for e in experiments
        for p in range(1, plates + 1)
        for w, name in enumerate(perturbations if p == 1 else "D")
    ]
    return validate_wells(raw(*rows), ["treatment"])[0]


def test_every_plate_of_a_held_out_experiment_is_held_out():
    folds = make_folds(labelled_screen([f"E-{i}" for i in range(4)]), [], 4, "all", False)
    assert (folds.groupby(["fold", "experiment"])["role"].nunique() == 1).all()
    assert (folds[folds["role"] == "heldout"].groupby("fold").size() == 2).all()


@pytest.mark.parametrize("experiments", [[f"T{i}-1" for i in range(5)], [f"{t}-{i}" for t in "AB" for i in range(3)]])
def test_no_fold_is_empty_whatever_the_cell_types(experiments):
    folds = make_folds(labelled_screen(experiments), [], 5, "all", False)
    assert set(folds.loc[folds["role"] == "heldout", "fold"]) == set(range(5))


def pairs_of(experiments):
    return [{"experiments": [a, b], "wells": 3} for a, b in zip(experiments, experiments[1:], strict=False)]


def test_duplicate_layouts_are_never_split_silently(caplog):
    experiments = [f"E-{i}" for i in range(6)]
    two_layouts = pairs_of(experiments[::2]) + pairs_of(experiments[1::2])
    with pytest.raises(
        InputError, match=r"have only 2 different plate layouts.*set ingestion.folds.n_folds to 2 \(it is 5\)"
    ):
        make_folds(labelled_screen(experiments), two_layouts, 5, "all", False)
    make_folds(labelled_screen(experiments), pairs_of(experiments), 3, "all", False)
    assert "all experiments share one plate layout" in caplog.text


def test_duplicates_of_an_experiment_that_only_trains_do_not_matter():
    wells = labelled_screen(["E-0", "E-1", "E-2"])
    wells.loc[wells["experiment"] == "E-0", "perturbation"] = "a"
    folds = make_folds(wells, [{"experiments": ["E-0", "E-1"], "wells": 3}], 2, "all", False)
    assert set(folds.loc[folds["experiment"] == "E-0", "role"]) == {"train"}


def test_a_plate_layout_has_the_wells_per_plate_of_each_perturbation_and_the_group_of_each_plate():
    even = labelled_screen(["E-0", "E-1"])
    assert set(discover_groups(even)["per_plate"]) == {1}
    uneven = labelled_screen(["E-0"], perturbations="aaab")
    layout = discover_groups(uneven)
    assert layout.set_index("perturbation")["per_plate"].to_dict().items() >= {"a": 3, "b": 1}.items()
    assert set(layouts_in_use(uneven, layout)["group"]) == {0}
    unlabelled = even.assign(perturbation=None)
    no_layout = discover_groups(unlabelled)
    assert no_layout.empty and layouts_in_use(unlabelled, no_layout).empty


def test_one_fold_of_a_fully_labelled_screen_is_refused():
    with pytest.raises(InputError, match="n_folds is 1; a fully labelled screen"):
        make_folds(labelled_screen(["E-0", "E-1"]), [], 1, [0], False)


def test_folds_with_nothing_to_train_on_are_refused(wells):
    labelled = wells[wells["split"] == "labelled"]
    with pytest.raises(
        InputError, match="fold 0 has no experiment left to train on: ingestion.folds.n_folds is 2, validation True"
    ):
        make_folds(labelled, [], 2, [0], True)
    with pytest.raises(InputError, match="n_folds is 1, validation True; raise n_folds or set validation to false"):
        make_folds(wells, [], 1, [0], True)


def test_heldout_labels_do_not_change_the_plate_groups(wells):
    labelled = wells[wells["split"] == "labelled"].reset_index(drop=True)
    folds = make_folds(labelled, [], 3, [0], False)
    scrambled = labelled.copy()
    hidden = scrambled["experiment"].isin(folds.loc[folds["role"] == "heldout", "experiment"]) & scrambled["target"]
    answers = scrambled.loc[hidden, "perturbation"].to_numpy()
    scrambled.loc[hidden, "perturbation"] = np.random.default_rng(0).permutation(answers)
    groups, blind = (discover_groups(visible_labels(table, folds, "design")) for table in (labelled, scrambled))
    pd.testing.assert_frame_equal(groups, blind)
    assert groups["group"].nunique() == 4
    assert not discover_groups(scrambled).equals(groups)


@pytest.fixture
def cross_validated(wells):
    """The labelled half of the screen, dealt to three folds that each train, validate and hold out."""
    labelled = wells[wells["split"] == "labelled"].reset_index(drop=True)
    return labelled, make_folds(labelled, [], 3, "all", True)


def plates_with_labels(wells):
    labelled = wells[wells["target"] & wells["perturbation"].notna()]
    return set(labelled["experiment"] + "/" + labelled["plate"])


def plates_of_role(folds, *roles):
    plates = folds[folds["role"].isin(roles)]
    return set(plates["experiment"] + "/" + plates["plate"])


@pytest.mark.parametrize(("role", "visible_roles"), [("training", ["train"]), ("validation", ["train", "validation"])])
def test_within_a_fold_only_the_labels_of_the_allowed_plates_are_visible(cross_validated, role, visible_roles):
    labelled, folds = cross_validated
    before = labelled.copy()
    for fold in range(3):
        one = folds[folds["fold"] == fold]
        visible = visible_labels(labelled, one, role)
        assert plates_with_labels(visible) == plates_of_role(one, *visible_roles)
        still_visible = visible["perturbation"].notna()
        pd.testing.assert_frame_equal(visible[still_visible], labelled[still_visible])
        pd.testing.assert_frame_equal(visible.drop(columns="perturbation"), labelled.drop(columns="perturbation"))
    pd.testing.assert_frame_equal(labelled, before)


def test_the_design_sees_the_plates_that_no_fold_holds_out(wells, cross_validated):
    labelled, folds = cross_validated
    two = folds[folds["fold"] < 2]
    held_out = plates_of_role(two, "heldout")
    assert held_out and plates_with_labels(visible_labels(labelled, two, "design")) == (
        plates_with_labels(labelled) - held_out
    )
    assert plates_with_labels(visible_labels(labelled, folds, "design")) == set()
    no_folds = folds.iloc[:0]
    pd.testing.assert_frame_equal(visible_labels(labelled, no_folds, "design"), labelled)


@pytest.mark.parametrize("role", ["training", "validation", "design"])
def test_a_consumer_that_reads_a_hidden_label_is_caught(cross_validated, role):
    """A violating example: the labels themselves change with the hidden answers, what the role may see does not."""
    labelled, folds = cross_validated
    one = folds[folds["fold"] == 0]
    scrambled = labelled.copy()
    hidden = labelled["target"] & (labelled["experiment"] + "/" + labelled["plate"]).isin(
        plates_of_role(one, "heldout")
    )
    answers = labelled.loc[hidden, "perturbation"].to_numpy()
    scrambled.loc[hidden, "perturbation"] = np.random.default_rng(0).permutation(answers)
    assert not scrambled.equals(labelled)
    pd.testing.assert_frame_equal(visible_labels(labelled, one, role), visible_labels(scrambled, one, role))
    assert visible_labels(labelled, one, role)["perturbation"].notna().any()


def test_validation_labels_are_hidden_from_training_but_not_from_validation(cross_validated):
    labelled, folds = cross_validated
    one = folds[folds["fold"] == 0]
    plates = plates_of_role(one, "validation")
    assert plates and not plates & plates_with_labels(visible_labels(labelled, one, "training"))
    assert plates <= plates_with_labels(visible_labels(labelled, one, "validation"))


def test_controls_keep_their_perturbation_on_every_plate(wells):
    folds = make_folds(wells, [], 3, [0], True)
    for role in ("training", "validation", "design"):
        visible = visible_labels(wells, folds, role)
        controls = ~wells["target"]
        assert controls.any()
        pd.testing.assert_frame_equal(visible[controls], wells[controls])


def test_a_plate_that_the_fold_does_not_list_is_hidden_from_training_and_validation(cross_validated):
    labelled, folds = cross_validated
    one = folds[(folds["fold"] == 0) & (folds["experiment"] != "ALPHA-01")]
    for role in ("training", "validation"):
        visible = visible_labels(labelled, one, role)
        assert not (visible["target"] & visible["perturbation"].notna() & (visible["experiment"] == "ALPHA-01")).any()


@pytest.mark.parametrize("role", ["training", "validation"])
def test_labels_within_a_fold_need_exactly_one_fold(cross_validated, role):
    labelled, folds = cross_validated
    with pytest.raises(ValueError, match=rf"folds \[0, 1, 2\], but role '{role}' expects those of exactly one"):
        visible_labels(labelled, folds, role)
    with pytest.raises(ValueError, match=rf"folds \[\], but role '{role}' expects those of exactly one"):
        visible_labels(labelled, folds.iloc[:0], role)


def test_an_unknown_role_of_a_consumer_is_refused(cross_validated):
    with pytest.raises(ValueError, match="unknown role 'train'; allowed: training, validation, design"):
        visible_labels(*cross_validated, "train")


@pytest.mark.parametrize(
    ("n", "run", "message"),
    [
        (3, [3], r"folds.run is \[3\]; expected .* between 0 and 2"),
        (3, [], r"folds.run is \[\]; expected at least one fold"),
        (
            9,
            [0],
            r"only 6 labelled experiments have several perturbations; set ingestion.folds.n_folds to 6 \(it is 9\)",
        ),
    ],
)
def test_impossible_folds_are_refused_with_the_reason(wells, n, run, message):
    with pytest.raises(InputError, match=message):
        make_folds(wells, [], n, run, True)


def test_a_stratified_split_has_every_experiment_on_both_sides(wells):
    labelled = wells.assign(split="labelled")
    folds = make_folds(labelled, [], 4, "all", True, "stratified")
    for _, fold in folds.groupby("fold"):
        sides = fold.groupby("experiment")["role"].agg(lambda r: sorted(r))
        assert all(side == ["heldout", "train", "train", "validation"] for side in sides)
    held = folds[folds["role"] == "heldout"]
    assert (
        len(held)
        == len(held.drop_duplicates(["experiment", "plate"]))
        == labelled.groupby(["experiment", "plate"]).ngroups
    )
    assert held[held["fold"] == 0]["plate"].nunique() > 1  # not the same plate, which often carries the same group


def test_an_impossible_stratified_split_is_refused_with_the_reason(wells):
    with pytest.raises(InputError, match="split is stratified, but experiment ALPHA-04 is unlabelled"):
        make_folds(wells, [], 4, [0], False, "stratified")
    labelled = wells.assign(split="labelled")
    with pytest.raises(InputError, match="n_folds is 5; .* with 4 plates .* allows 2 to 4"):
        make_folds(labelled, [], 5, [0], False, "stratified")
    with pytest.raises(
        InputError, match="validation lists experiments .'ALPHA-01'., but a stratified split holds out plates"
    ):
        make_folds(labelled, [], 4, [0], ["ALPHA-01"], "stratified")


def test_named_experiments_validate_every_fold(wells):
    folds = make_folds(wells, [], 1, [0], ["ALPHA-02", "BETA-03"])
    roles = folds.drop_duplicates("experiment").set_index("experiment")["role"]
    assert set(roles.index[roles == "validation"]) == {"ALPHA-02", "BETA-03"}
    assert set(roles.index[roles == "heldout"]) == {"ALPHA-04", "BETA-04"} and (roles == "train").sum() == 4
    with pytest.raises(InputError, match="validation: 'ALPHA-4' is no labelled experiment; .*Did you mean"):
        make_folds(wells, [], 1, [0], ["ALPHA-4"])


def test_an_incomplete_layout_is_a_row_of_the_audit(wells):
    first = wells["experiment"].iloc[0]
    for lost in (
        wells[(wells["experiment"] == first) & (wells["plate"] == "1")].index,  # excluded or lost
        wells[(wells["experiment"] == first) & (wells["plate"] != "1")].index,
    ):
        layouts = audit_design(wells.drop(lost))["layouts_in_use"]
        incomplete = [layout for layout in layouts if "none" in layout.split("-")]
        assert (
            len(incomplete) == 1 and sum(layouts.values()) == wells.query("split == 'labelled'")["experiment"].nunique()
        )
