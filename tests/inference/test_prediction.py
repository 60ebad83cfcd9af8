"""Prediction with test-time augmentation."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from deepnoise.errors import InputError
from deepnoise.fingerprint import fingerprint
from deepnoise.inference.compatibility import adabn_of, check_compatible, skewed_plates, tier_of_prediction
from deepnoise.inference.ensemble import average_members
from deepnoise.inference.pooling import best_calls, pool_wells, profiles_table
from deepnoise.inference.predict import predict_folds, predict_sites
from deepnoise.inference.selection import sites_to_predict
from deepnoise.inference.views import VIEWS
from deepnoise.ingestion.folds import make_folds
from deepnoise.ingestion.layouts import validation_labels
from deepnoise.network.batch_norm import reestimate_batch_norm
from deepnoise.network.device import choose_batch_size
from deepnoise.network.dihedral import dihedral_view
from deepnoise.network.network import Network
from deepnoise.network.trained_model import ModelCard, TrainedModel
from deepnoise.normalization.statistics import statistics_of_plates
from deepnoise.parameters import InferenceParameters
from deepnoise.plate_balancing.scores import log_softmax
from deepnoise.screen import Screen
from deepnoise.tables import EMBEDDING, SCORE, matrix, validate_table


@pytest.fixture(scope="module")
def folds(wells):
    return make_folds(wells, [], 3, [0], True)


@pytest.fixture(scope="module")
def model(screen, wells, folds):
    torch.manual_seed(0)
    spec = dict(backbone="resnet10t", channels=6, classes=11, head="arcface", scale=20.0, margin=0.1)
    train = folds[folds["role"] == "train"]
    training_plates = sorted(train["experiment"] + "/" + train["plate"])
    targets = [str(i) for i in range(8)]
    card = ModelCard.from_json(
        {
            "fold": 0, "network": spec, "channels": screen[0].channels, "image_size": [24, 24], "targets": targets,
            "classes": [*targets, "c1", "c2", "c3"], "normalization": {"strategy": "plate", "reference": "all"}, "tier": "T1",
            "parameters": {"unlabelled_source": "training", "sites": "all"}, "training_plates": training_plates,
            "fingerprints": {"statistics": fingerprint(statistics_of_plates(screen[2], training_plates))},
        }
    )  # fmt: skip
    return TrainedModel(Network(card.network).state_dict(), card)


PARAMETERS = InferenceParameters(
    only="", views="dihedral", pooling="logits", ensemble_weights="equal", adabn="none", seen_experiments=0, batch_size=16,
    device="cpu",
)  # fmt: skip


def predict(model, source, sites, statistics, adabn="none", **changes):
    """Logits and embeddings of some sites, with PARAMETERS but for the changes."""
    return predict_sites(model, source, sites, statistics, PARAMETERS.model_copy(update=changes), adabn)


def predict_screen(models, source, sites, wells, folds, statistics, ensemble_models=None, **changes):
    """Tables of a whole screen, with PARAMETERS but for the changes."""
    screen = Screen(source, sites, wells, folds, statistics)
    return predict_folds(models, screen, PARAMETERS.model_copy(update=changes), ensemble_models)


def average(members, names, labels, weights, pooling):
    parameters = PARAMETERS.model_copy(update={"ensemble_weights": weights, "pooling": pooling})
    return average_members(members, names, labels, parameters)


def test_logits_are_the_mean_over_eight_views(screen, wells, folds, model):
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds).head(5)
    logits, embeddings = predict(model, store, unseen_sites, statistics)
    network = Network(model.card.network)
    network.load_state_dict(model.weights)
    network.eval()
    for i, row in enumerate(unseen_sites.itertuples()):
        raw = torch.from_numpy(store.read(row.experiment, row.plate, np.array([row.store_row]))).float()
        own = (
            statistics[(statistics["experiment"] == row.experiment) & (statistics["plate"] == row.plate)]
            .set_index("channel")
            .loc[store.channels]
        )
        x = (raw - torch.tensor(own["location"].to_numpy(np.float32))[:, None, None]) / torch.tensor(
            own["scale"].to_numpy(np.float32)
        )[:, None, None]
        with torch.inference_mode():
            slow = torch.stack(
                [network(dihedral_view(x, v), torch.zeros(1, dtype=torch.long))[0, :8] for v in range(8)]
            ).mean(dim=0)
        np.testing.assert_allclose(logits[i], slow.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_each_image_is_read_once_and_a_symmetric_image_needs_no_views(screen, wells, folds, model):
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds).head(20)
    before = store.reads
    predict(model, store, unseen_sites, statistics)
    assert store.reads - before == 20

    class Flat:
        channels, shape = store.channels, store.shape

        def read(self, experiment, plate, store_rows=None):
            return np.full((len(store_rows), 6, 24, 24), 40, np.uint8)

    one = predict(model, Flat(), unseen_sites, statistics, views="none")[0]
    eight = predict(model, Flat(), unseen_sites, statistics)[0]
    np.testing.assert_allclose(one, eight, atol=1e-4)


def test_every_unseen_plate_is_predicted_and_pooled(screen, wells, folds, model):
    store, sites, statistics = screen
    site_logits, site_embeddings = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics)
    well_logits, well_embeddings = pool_wells(site_logits, site_embeddings)
    validate_table(site_logits, "site_logits", "x")
    validate_table(well_logits, "well_logits", "x")
    validate_table(well_embeddings, "well_embeddings", "x")
    assert set(well_logits["experiment"]) == {"ALPHA-01", "BETA-01", "ALPHA-04", "BETA-04"}
    assert well_logits.groupby("experiment")["role"].first().to_dict()["ALPHA-04"] == "heldout"
    np.testing.assert_allclose(np.linalg.norm(matrix(well_embeddings, EMBEDDING), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        matrix(well_logits.sort_values("id_code"), SCORE), matrix(site_logits.sort_values("id_code"), SCORE), atol=1e-6
    )  # one site a well


def test_some_seen_experiments_are_predicted_and_marked(screen, wells, folds, model):
    _, sites, _ = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds, seen_experiments=1)
    seen = unseen_sites[unseen_sites["plate_seen"]]
    assert set(seen["role"]) == {"train"} and seen["experiment"].nunique() == 2  # one a cell type, the first
    assert seen["experiment"].min() == "ALPHA-02" and len(unseen_sites) == len(
        sites_to_predict(model.card, sites, wells, folds)
    ) + len(seen)
    transductive = replace(model.card, parameters={"unlabelled_source": "heldout", "sites": "all"})
    assert sites_to_predict(transductive, sites, wells, folds).groupby("role")["plate_seen"].first().to_dict() == {
        "heldout": True,
        "validation": False,
    }
    second = pd.concat([sites, sites.assign(site=2)])
    other_sites = sites_to_predict(
        replace(model.card, parameters={"unlabelled_source": "none", "sites": [1]}), second, wells, folds, 9
    )
    assert set(other_sites.loc[other_sites["role"] == "train", "site"]) == {2}
    assert set(other_sites.loc[other_sites["role"] == "heldout", "site"]) == {1, 2}


def test_adabn_takes_the_statistics_of_the_experiment_itself(screen, wells, folds, model):
    """Every experiment by itself gives the same as all at once; the statistics are those of its own images."""
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds)
    options = {"views": "none", "batch_size": 10_000}
    together, _ = predict(model, store, unseen_sites, statistics, adabn="experiment", **options)
    first = unseen_sites["experiment"].iloc[0]
    own = (unseen_sites["experiment"] == first).to_numpy()
    alone, _ = predict(
        model, store, unseen_sites[own].reset_index(drop=True), statistics, adabn="experiment", **options
    )
    np.testing.assert_allclose(together[own], alone, atol=1e-4)
    assert np.abs(alone - predict(model, store, unseen_sites[own], statistics, **options)[0]).max() > 0.1
    with_seen = sites_to_predict(model.card, sites, wells, folds, seen_experiments=9)
    further, _ = predict(model, store, with_seen, statistics, adabn="experiment", **options)
    np.testing.assert_allclose(further[(with_seen["role"] != "train").to_numpy()], together, atol=1e-4)
    assert (
        tier_of_prediction("T0", "experiment") == "T1"
        and tier_of_prediction("T0", "none") == "T0"
        and tier_of_prediction("T3", "plate") == "T3"
    )
    network = Network(model.card.network)
    network.load_state_dict(model.weights)
    images = torch.randn(8, 6, 24, 24)
    reestimate_batch_norm(network, [images])
    seen = (
        network.backbone.conv1[0](images)
        if isinstance(network.backbone.conv1, torch.nn.Sequential)
        else network.backbone.conv1(images)
    )
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    np.testing.assert_allclose(norm.running_mean, seen.mean(dim=(0, 2, 3)).detach(), atol=1e-5)
    assert not network.training and norm.momentum is not None


def test_auto_adapts_by_what_made_the_batches_of_the_training(screen, wells, folds, model):
    store, sites, statistics = screen
    pure_card = replace(model.card, tier="T0", parameters=model.card.parameters | {"batches": "plate"})
    assert adabn_of(pure_card, "auto") == "plate" and adabn_of(pure_card, "none") == "none"
    mixed_card = replace(model.card, parameters={"batches": "mixed"})
    assert adabn_of(mixed_card, "auto") == adabn_of(replace(model.card, parameters={}), "auto") == "none"
    pure = TrainedModel(model.weights, pure_card)
    read = {
        a: predict_screen({"fold_0": pure}, store, sites, wells, folds, statistics, adabn=a)[0]
        for a in ("auto", "plate")
    }
    pd.testing.assert_frame_equal(read["auto"], read["plate"])
    assert set(read["auto"]["tier"]) == {"T1"}


def test_sites_are_averaged():
    sites = pd.DataFrame(
        {
            "fold": 0,
            "role": "heldout",
            "id_code": ["a", "a"],
            "experiment": "e",
            "plate": "1",
            "well": "B02",
            "tier": "T1",
            "site": [1, 2],
        }
    )
    logits, _ = pool_wells(
        sites.assign(score_x=[1.0, 3.0]), sites.assign(plate_seen=False, embedding_0=[1.0, 0.0], embedding_1=[0.0, 1.0])
    )
    assert logits.loc[0, ["n_sites", "score_x"]].tolist() == [2, 2.0]


def test_a_plate_that_no_fold_names_is_new_and_predicted(screen, wells, folds, model):
    _, sites, _ = screen
    new = sites.head(3).assign(experiment="ALPHA-99", id_code=["x", "y", "z"])
    unseen_sites = sites_to_predict(model.card, pd.concat([sites, new]), wells, folds)
    assert set(unseen_sites.loc[unseen_sites["experiment"] == "ALPHA-99", "role"]) == {"heldout"}


def test_folds_that_hold_out_a_training_plate_are_refused(screen, wells, folds, model):
    _, sites, _ = screen
    swapped = folds.assign(role=folds["role"].replace({"train": "heldout"}))
    with pytest.raises(InputError, match="says heldout of plate .* in fold 0, but the model was trained on it"):
        sites_to_predict(model.card, sites, wells, swapped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(channels=["a"]), "the channel list of the model is"),
        (dict(shape=(64, 64)), r"the image size of the model is \[24, 24\], of the screen \[64, 64\]"),
        (dict(strategy="site"), "the normalization strategy of the model is plate, of the screen site"),
        (dict(reference="controls"), "the normalization reference"),
        (
            dict(illumination="flat_field"),
            "the normalization illumination of the model is none, of the screen flat_field",
        ),
        (dict(location=1.0), "plate_statistics of the plates it was trained on are not those of its training"),
        (dict(perturbation="999"), "the class set of the model is 8 perturbations without 999"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(screen, wells, folds, model, change, message):
    store, sites, statistics = screen
    statistics = statistics.assign(**{k: v for k, v in change.items() if k in statistics})
    source = Turned(store, 0)
    source.channels = change.get("channels", store.channels)
    source.shape = (6, *change.get("shape", (24, 24)))
    if "perturbation" in change:
        wells = wells.copy()
        trains = folds.loc[folds["role"] == "train", "experiment"].iloc[0]
        wells.loc[(wells["target"] & (wells["experiment"] == trains)).idxmax(), "perturbation"] = "999"
    with pytest.raises(InputError, match=message):
        check_compatible(model.card, Screen(source, sites, wells, folds, statistics))


def test_a_perturbation_that_only_a_left_out_plate_carries_is_no_misfit(screen, wells, folds, model):
    store, sites, statistics = screen
    wells = wells.copy()
    validates = folds.loc[folds["role"] == "validation", "experiment"].iloc[0]
    wells.loc[(wells["target"] & (wells["experiment"] == validates)).idxmax(), "perturbation"] = "999"
    check_compatible(model.card, Screen(store, sites, wells, folds, statistics))


def test_a_class_that_a_fold_never_saw_is_its_least_likely_one(screen, wells, folds, model):
    store, sites, statistics = screen
    fewer = TrainedModel(model.weights, replace(model.card, fold=1, targets=model.card.targets[:7]))
    both = pd.concat([folds, folds.assign(fold=1)])
    hidden = wells.assign(perturbation=wells["perturbation"].where(wells["perturbation"] != "7"))
    logits, _ = predict_screen(
        {0: model, 1: fewer}, store, sites.groupby("experiment").head(9), hidden, both, statistics
    )
    second = logits[logits["fold"] == 1]
    np.testing.assert_allclose(second["score_7"], matrix(second, SCORE)[:, :7].min(axis=1))


def test_a_screen_of_new_plates_alone_brings_its_own_statistics(screen, wells, folds, model):
    store, sites, statistics = screen
    new = statistics.assign(experiment=statistics["experiment"] + "-new", location=1.0)
    check_compatible(model.card, Screen(store, sites, wells, folds, new))


def test_a_specialist_is_asked_about_its_own_cells_and_a_told_network_must_know_them(screen, wells, folds, model):
    store, sites, statistics = screen
    card = replace(model.card, cell_types=["ALPHA", "BETA"])
    own = sites_to_predict(replace(card, cell_type="BETA"), sites, wells, folds)
    assert set(own["experiment"].str[:4]) == {"BETA"} and set(own["cell_type"]) == {1}
    whole = sites_to_predict(card, sites, wells, folds)
    assert set(whole["cell_type"]) == {0, 1} and len(whole) > len(own)
    conditioned = replace(card, cell_types=["ALPHA"], network=replace(card.network, cell_types=1))
    with pytest.raises(
        InputError, match="the network is conditioned on the cell type and does not know 'BETA' of plate BETA-"
    ):
        sites_to_predict(conditioned, sites, wells, folds)


def test_a_network_conditioned_on_the_cell_type_uses_it(screen, wells, folds, model):
    store, sites, statistics = screen
    torch.manual_seed(0)
    spec = replace(model.card.network, cell_types=2)
    card = replace(model.card, cell_types=["ALPHA", "BETA"], network=spec)
    conditioned = TrainedModel(Network(spec).state_dict(), card)
    unseen_sites = sites_to_predict(card, sites, wells, folds).head(6)
    logits, _ = predict(conditioned, store, unseen_sites, statistics)
    other, _ = predict(conditioned, store, unseen_sites.assign(cell_type=1 - unseen_sites["cell_type"]), statistics)
    assert np.abs(logits - other).max() > 1e-3


def test_specialists_together_predict_every_cell_type(screen, wells, folds, model):
    store, sites, statistics = screen
    models = {
        f"fold_0_{name}": TrainedModel(model.weights, replace(model.card, cell_type=name, cell_types=["ALPHA", "BETA"]))
        for name in ("ALPHA", "BETA", "GAMMA")
    }
    logits, _ = predict_screen(models, store, sites, wells, folds, statistics)
    whole, _ = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics)
    assert sorted(logits["id_code"]) == sorted(whole["id_code"])
    only = {"fold_0_GAMMA": models["fold_0_GAMMA"]}
    with pytest.raises(InputError, match="none of the specialists was trained on the cell types of this screen"):
        predict_screen(only, store, sites, wells, folds, statistics)


# views, ensembles, single wells ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("views", "count"), [("none", 1), ("flips", 4), ("dihedral", 8), ("multicrop", 5)])
def test_views_are_those_of_their_name(views, count):
    images = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    seen = [view(images) for view in VIEWS[views]]
    assert len(seen) == count == len({s.numpy().tobytes() for s in seen})
    if views == "flips":
        expected = [images, images.flip(-1), images.flip(-2), images.flip(-1, -2)]
        assert {s.numpy().tobytes() for s in seen} == {e.contiguous().numpy().tobytes() for e in expected}
    if views == "multicrop":
        assert {s.shape[-2:] for s in seen} == {(14, 14)} and torch.equal(seen[4], images[..., 1:15, 1:15])


def test_probabilities_are_averaged_where_that_is_asked(screen, wells, folds, model):
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds).head(3)
    one = [predict(model, Turned(store, v), unseen_sites, statistics, views="none")[0] for v in range(8)]
    log_p, _ = predict(model, store, unseen_sites, statistics, pooling="probabilities")
    p = np.mean([np.exp(log_softmax(own)) for own in one], axis=0)
    np.testing.assert_allclose(np.exp(log_p), p, atol=1e-4)
    logits, _ = predict(model, store, unseen_sites, statistics)
    np.testing.assert_allclose(logits, np.mean(one, axis=0), atol=1e-4)


class Turned:
    """A store whose images are turned, for views that are made by hand."""

    def __init__(self, store, view):
        self.store, self.view, self.channels, self.shape = store, view, store.channels, store.shape

    def read(self, experiment, plate, store_rows=None):
        images = torch.from_numpy(self.store.read(experiment, plate, store_rows))
        return dihedral_view(images, self.view).contiguous().numpy()


def test_sites_of_a_well_are_averaged_as_probabilities():
    meta = {"fold": 0, "role": "heldout", "id_code": "a", "experiment": "e", "plate": "1", "well": "B02", "tier": "T1"}
    sites = pd.DataFrame([meta | {"site": 1}, meta | {"site": 2}]).assign(score_x=[0.0, 4.0], score_y=[1.0, 0.0])
    logits, _ = pool_wells(sites, sites[[*meta, "site"]].assign(plate_seen=False, embedding_0=1.0), "probabilities")
    p = np.exp(log_softmax(sites[["score_x", "score_y"]].to_numpy())).mean(axis=0)
    np.testing.assert_allclose(np.exp(matrix(logits, SCORE))[0], p)
    assert logits.loc[0, "entropy"] == pytest.approx(-(p * np.log(p)).sum())


def test_each_image_is_read_once_with_adabn_too_and_a_large_group_twice(screen, wells, folds, model, monkeypatch):
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds)
    before = store.reads
    once = predict(model, store, unseen_sites, statistics, adabn="plate")[0]
    assert store.reads - before == len(unseen_sites)
    monkeypatch.setattr("deepnoise.network.batch_norm.ADABN_CACHE_BYTES", 0)
    before = store.reads
    twice = predict(model, store, unseen_sites, statistics, adabn="plate")[0]
    assert store.reads - before == 2 * len(unseen_sites)
    np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("adabn", ["none", "plate", "experiment"])
def test_a_single_well_is_called_as_among_the_whole_screen(screen, wells, folds, model, adabn):
    store, sites, statistics = screen
    options = {"adabn": adabn}
    whole, _ = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics, **options)
    one = whole.iloc[3]
    name = f"{one['experiment']}/{one['plate']}/{one['well']}"
    alone, embedded = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics, only=name, **options)
    assert alone["id_code"].tolist() == [one["id_code"]] == embedded["id_code"].tolist()
    np.testing.assert_allclose(
        matrix(alone, SCORE)[0], one[[c for c in whole if c.startswith(SCORE)]].to_numpy(float), atol=1e-4
    )
    assert best_calls(alone)[0].startswith(name + ": ")


def test_a_name_that_is_not_there_or_was_trained_on_is_refused(screen, wells, folds, model):
    store, sites, statistics = screen
    for only, message in (
        ("ALPHA-99", "there is no experiment 'ALPHA-99'; there are ALPHA-01"),
        ("ALPHA-04/7", "there is no plate '7'"),
        ("ALPHA-04/1/Z99", "there is no well 'Z99'"),
        ("ALPHA-02", "whose images the model was trained on"),
    ):
        with pytest.raises(InputError, match=message):
            predict_screen({"fold_0": model}, store, sites, wells, folds, statistics, only=only)


def test_an_ensemble_averages_its_members_and_finds_who_is_right(screen, wells, folds, model):
    store, sites, statistics = screen
    torch.manual_seed(1)
    other = TrainedModel(Network(model.card.network).state_dict(), model.card)
    alone = [predict_screen({"fold_0": m}, store, sites, wells, folds, statistics)[0] for m in (model, other)]
    together, _ = predict_screen(
        {"fold_0": model}, store, sites, wells, folds, statistics, ensemble_models={"student": {"fold_0": other}}
    )
    np.testing.assert_allclose(matrix(together, SCORE), np.mean([matrix(a, SCORE) for a in alone], axis=0), atol=1e-5)
    columns = [c for c in alone[0] if c.startswith(SCORE)]
    label = alone[0]["id_code"].map(wells.set_index("id_code")["perturbation"])
    known = label.notna() & label.isin([c.removeprefix(SCORE) for c in columns])
    good = alone[1].copy()
    good[columns] = np.random.default_rng(0).normal(0, 1, (len(good), len(columns)))
    for i in np.flatnonzero(known):
        good.loc[good.index[i], SCORE + label.iloc[i]] += 3.0
    for pooling in ("logits", "probabilities"):
        found = average([alone[0], good], ["", "good"], validation_labels(wells, folds), "validation", pooling)
        validation = (found["role"] == "validation") & known
        called = np.array(columns)[matrix(found, SCORE).argmax(axis=1)]
        assert (called == SCORE + label.fillna("?"))[validation].mean() > 0.8
    with pytest.raises(InputError, match="student is of tier T3, the teacher of T1"):
        average(
            [alone[0], alone[1].assign(tier="T3")], ["", "student"], validation_labels(wells, folds), "equal", "logits"
        )
    with pytest.raises(InputError, match="student does not predict the same perturbations; different: 7"):
        average(
            [alone[0], alone[1].drop(columns="score_7")],
            ["", "student"],
            validation_labels(wells, folds),
            "equal",
            "logits",
        )


def test_partial_and_skewed_plates_are_reported_where_batchnorm_adapts_to_them(screen, wells, folds, model, caplog):
    store, sites, statistics = screen
    unseen = sites_to_predict(model.card, sites, wells, folds)
    plate = unseen.loc[0, ["experiment", "plate"]]
    on_it = (sites["experiment"] == plate["experiment"]) & (sites["plate"] == plate["plate"])
    few = sites[~on_it | (on_it & (on_it.cumsum() <= 2))]
    predict_screen({"fold_0": model}, store, few, wells, folds, statistics, adabn="plate")
    assert f"plate {plate['experiment']}/{plate['plate']} has 2 wells with images" in caplog.text
    logits = pd.DataFrame({"fold": 0, "id_code": [str(i) for i in range(12)], "experiment": "E", "plate": "1"})
    logits = logits.assign(score_a=1.0, score_b=[0.0] * 8 + [2.0] * 4)
    assert skewed_plates(logits, "plate") == [
        "plate E/1: 67% of 12 wells are called a; if one perturbation fills the plate, AdaBN removes its effect as noise: compare "
        "with inference.adabn none"
    ]
    assert skewed_plates(logits, "none") == [] and skewed_plates(logits.head(9), "plate") == []


def test_profiles_carry_the_names_that_other_tools_know(screen, wells, folds, model):
    store, sites, statistics = screen
    _, embeddings = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics)
    table = validate_table(profiles_table(embeddings, wells), "profiles", "x")
    assert len(table) == len(embeddings)
    held = table["Metadata_Experiment"].isin(["ALPHA-04", "BETA-04"]) & (table["Metadata_Control"] == "treatment")
    assert (
        table.loc[held, "Metadata_Perturbation"].isna().all()
        and table.loc[~held, "Metadata_Perturbation"].notna().all()
    )


def test_batches_are_sized_to_the_device(model):
    network = Network(model.card.network)
    cpu = torch.device("cpu")
    assert choose_batch_size(network, cpu, 6, (64, 64)) == 128 and choose_batch_size(network, cpu, 6, (512, 512)) == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_fit_a_gpu(model):
    network = Network(model.card.network).cuda()
    size = choose_batch_size(network, torch.device("cuda"), 6, (512, 512))
    assert 8 <= size <= 1024
    network.embed(torch.zeros(size, 6, 512, 512, device="cuda"))
