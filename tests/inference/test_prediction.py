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
    """Logits and embeddings of some sites, with PARAMETERS and some changes to them."""
    return predict_sites(model, source, sites, statistics, PARAMETERS.model_copy(update=changes), adabn)


def predict_screen(models, source, sites, wells, folds, statistics, ensemble_models=None, **changes):
    """Tables of a whole screen, with PARAMETERS and some changes to them."""
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
        plate_statistics = (
            statistics[(statistics["experiment"] == row.experiment) & (statistics["plate"] == row.plate)]
            .set_index("channel")
            .loc[store.channels]
        )
        x = (raw - torch.tensor(plate_statistics["location"].to_numpy(np.float32))[:, None, None]) / torch.tensor(
            plate_statistics["scale"].to_numpy(np.float32)
        )[:, None, None]
        with torch.inference_mode():
            slow = torch.stack([network(dihedral_view(x, v))[0, :8] for v in range(8)]).mean(dim=0)
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
    # this screen has one site per well
    np.testing.assert_allclose(
        matrix(well_logits.sort_values("id_code"), SCORE), matrix(site_logits.sort_values("id_code"), SCORE), atol=1e-6
    )


def test_some_seen_experiments_are_predicted_and_flagged(screen, wells, folds, model):
    _, sites, _ = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds, seen_experiments=1)
    seen = unseen_sites[unseen_sites["plate_seen"]]
    assert set(seen["role"]) == {"train"} and seen["experiment"].nunique() == 2  # the first one of each cell type
    assert seen["experiment"].min() == "ALPHA-02" and len(unseen_sites) == len(
        sites_to_predict(model.card, sites, wells, folds)
    ) + len(seen)
    transductive = replace(model.card, parameters={"unlabelled_source": "heldout", "sites": "all"})
    assert sites_to_predict(transductive, sites, wells, folds).groupby("role")["plate_seen"].first().to_dict() == {
        "heldout": True,
        "validation": False,
    }
    two_sites = pd.concat([sites, sites.assign(site=2)])
    other_sites = sites_to_predict(
        replace(model.card, parameters={"unlabelled_source": "none", "sites": [1]}), two_sites, wells, folds, 9
    )
    assert set(other_sites.loc[other_sites["role"] == "train", "site"]) == {2}
    assert set(other_sites.loc[other_sites["role"] == "heldout", "site"]) == {1, 2}


def test_adabn_uses_the_statistics_of_the_experiment_alone(screen, wells, folds, model):
    """Predicting one experiment gives the same logits as predicting all; the statistics are those of its images."""
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds)
    options = {"views": "none", "batch_size": 10_000}
    together, _ = predict(model, store, unseen_sites, statistics, adabn="experiment", **options)
    first = unseen_sites["experiment"].iloc[0]
    of_first_experiment = (unseen_sites["experiment"] == first).to_numpy()
    alone, _ = predict(
        model,
        store,
        unseen_sites[of_first_experiment].reset_index(drop=True),
        statistics,
        adabn="experiment",
        **options,
    )
    np.testing.assert_allclose(together[of_first_experiment], alone, atol=1e-4)
    assert (
        np.abs(alone - predict(model, store, unseen_sites[of_first_experiment], statistics, **options)[0]).max() > 0.1
    )
    with_seen = sites_to_predict(model.card, sites, wells, folds, seen_experiments=9)
    logits_with_seen, _ = predict(model, store, with_seen, statistics, adabn="experiment", **options)
    np.testing.assert_allclose(logits_with_seen[(with_seen["role"] != "train").to_numpy()], together, atol=1e-4)

    def tier(of_model, adabn):
        card = replace(model.card, tier=of_model, normalization=model.card.normalization | {"strategy": "global"})
        return tier_of_prediction(card, adabn, wells)

    assert (
        tier("T0", "experiment") == "T1"
        and tier("T0", "none") == "T0"
        and tier("T3", "plate") == "T3, plate design not excluded"
    )
    network = Network(model.card.network)
    network.load_state_dict(model.weights)
    images = torch.randn(8, 6, 24, 24)
    reestimate_batch_norm(network, [images])
    activations = (
        network.backbone.conv1[0](images)
        if isinstance(network.backbone.conv1, torch.nn.Sequential)
        else network.backbone.conv1(images)
    )
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    np.testing.assert_allclose(norm.running_mean, activations.mean(dim=(0, 2, 3)).detach(), atol=1e-5)
    assert not network.training and norm.momentum is not None


def test_auto_adapts_to_the_group_of_the_training_batches(screen, wells, folds, model):
    store, sites, statistics = screen
    pure_card = replace(model.card, tier="T0", parameters=model.card.parameters | {"batches": "plate"})
    assert adabn_of(pure_card, "auto") == "plate" and adabn_of(pure_card, "none") == "none"
    mixed_card = replace(model.card, parameters={"batches": "mixed"})
    assert adabn_of(mixed_card, "auto") == adabn_of(replace(model.card, parameters={}), "auto") == "none"
    pure = TrainedModel(model.weights, pure_card)
    logits = {
        a: predict_screen({"fold_0": pure}, store, sites, wells, folds, statistics, adabn=a)[0]
        for a in ("auto", "plate")
    }
    pd.testing.assert_frame_equal(logits["auto"], logits["plate"])
    assert set(logits["auto"]["tier"]) == {"T1, plate design not excluded"}  # plates repeat their contents


def test_logits_of_a_wells_sites_are_averaged():
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


def test_a_plate_missing_from_the_folds_counts_as_new_and_is_predicted(screen, wells, folds, model):
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
def test_an_incompatible_screen_is_refused_with_the_difference(screen, wells, folds, model, change, message):
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


def test_a_perturbation_on_validation_plates_alone_does_not_make_a_screen_incompatible(screen, wells, folds, model):
    store, sites, statistics = screen
    wells = wells.copy()
    validates = folds.loc[folds["role"] == "validation", "experiment"].iloc[0]
    wells.loc[(wells["target"] & (wells["experiment"] == validates)).idxmax(), "perturbation"] = "999"
    check_compatible(model.card, Screen(store, sites, wells, folds, statistics))


def test_a_class_that_a_fold_never_saw_is_its_least_likely(screen, wells, folds, model):
    store, sites, statistics = screen
    with_seven_targets = TrainedModel(model.weights, replace(model.card, fold=1, targets=model.card.targets[:7]))
    two_folds = pd.concat([folds, folds.assign(fold=1)])
    hidden = wells.assign(perturbation=wells["perturbation"].where(wells["perturbation"] != "7"))
    logits, _ = predict_screen(
        {0: model, 1: with_seven_targets}, store, sites.groupby("experiment").head(9), hidden, two_folds, statistics
    )
    second_fold = logits[logits["fold"] == 1]
    np.testing.assert_allclose(second_fold["score_7"], matrix(second_fold, SCORE)[:, :7].min(axis=1))


def test_a_screen_of_new_plates_may_have_statistics_of_its_own(screen, wells, folds, model):
    store, sites, statistics = screen
    new = statistics.assign(experiment=statistics["experiment"] + "-new", location=1.0)
    check_compatible(model.card, Screen(store, sites, wells, folds, new))


def test_a_specialist_predicts_its_cell_type(screen, wells, folds, model):
    store, sites, statistics = screen
    specialist_sites = sites_to_predict(replace(model.card, cell_type="BETA"), sites, wells, folds)
    assert set(specialist_sites["experiment"].str[:4]) == {"BETA"}
    assert len(sites_to_predict(model.card, sites, wells, folds)) > len(specialist_sites)


def test_specialists_together_predict_every_cell_type(screen, wells, folds, model):
    store, sites, statistics = screen
    models = {
        f"fold_0_{name}": TrainedModel(model.weights, replace(model.card, cell_type=name))
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
def test_each_set_of_views_has_its_transformations(views, count):
    images = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    viewed = [view(images) for view in VIEWS[views]]
    assert len(viewed) == count == len({s.numpy().tobytes() for s in viewed})
    if views == "flips":
        expected = [images, images.flip(-1), images.flip(-2), images.flip(-1, -2)]
        assert {s.numpy().tobytes() for s in viewed} == {e.contiguous().numpy().tobytes() for e in expected}
    if views == "multicrop":
        assert {s.shape[-2:] for s in viewed} == {(14, 14)} and torch.equal(viewed[4], images[..., 1:15, 1:15])


def test_probabilities_are_averaged_if_the_pooling_is_probabilities(screen, wells, folds, model):
    store, sites, statistics = screen
    unseen_sites = sites_to_predict(model.card, sites, wells, folds).head(3)
    logits_by_view = [predict(model, Turned(store, v), unseen_sites, statistics, views="none")[0] for v in range(8)]
    log_p, _ = predict(model, store, unseen_sites, statistics, pooling="probabilities")
    p = np.mean([np.exp(log_softmax(view_logits)) for view_logits in logits_by_view], axis=0)
    np.testing.assert_allclose(np.exp(log_p), p, atol=1e-4)
    logits, _ = predict(model, store, unseen_sites, statistics)
    np.testing.assert_allclose(logits, np.mean(logits_by_view, axis=0), atol=1e-4)


class Turned:
    """A store whose images are rotated or mirrored, for views made by hand."""

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


def test_adabn_reads_each_image_once_and_those_of_a_large_group_twice(screen, wells, folds, model, monkeypatch):
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
def test_a_single_well_is_predicted_as_within_the_whole_screen(screen, wells, folds, model, adabn):
    store, sites, statistics = screen
    options = {"adabn": adabn}
    of_screen, _ = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics, **options)
    well = of_screen.iloc[3]
    name = f"{well['experiment']}/{well['plate']}/{well['well']}"
    alone, embedded = predict_screen({"fold_0": model}, store, sites, wells, folds, statistics, only=name, **options)
    assert alone["id_code"].tolist() == [well["id_code"]] == embedded["id_code"].tolist()
    np.testing.assert_allclose(
        matrix(alone, SCORE)[0], well[[c for c in of_screen if c.startswith(SCORE)]].to_numpy(float), atol=1e-4
    )
    assert best_calls(alone)[0].startswith(name + ": ")


def test_an_unknown_name_or_a_training_plate_is_refused(screen, wells, folds, model):
    store, sites, statistics = screen
    for only, message in (
        ("ALPHA-99", "there is no experiment 'ALPHA-99'; there are ALPHA-01"),
        ("ALPHA-04/7", "there is no plate '7'"),
        ("ALPHA-04/1/Z99", "there is no well 'Z99'"),
        ("ALPHA-02", "whose images the model was trained on"),
    ):
        with pytest.raises(InputError, match=message):
            predict_screen({"fold_0": model}, store, sites, wells, folds, statistics, only=only)


def test_an_ensemble_averages_its_members_and_can_weight_the_accurate_one(screen, wells, folds, model):
    store, sites, statistics = screen
    torch.manual_seed(1)
    second_model = TrainedModel(Network(model.card.network).state_dict(), model.card)
    alone = [predict_screen({"fold_0": m}, store, sites, wells, folds, statistics)[0] for m in (model, second_model)]
    together, _ = predict_screen(
        {"fold_0": model}, store, sites, wells, folds, statistics, ensemble_models={"student": {"fold_0": second_model}}
    )
    np.testing.assert_allclose(matrix(together, SCORE), np.mean([matrix(a, SCORE) for a in alone], axis=0), atol=1e-5)
    columns = [c for c in alone[0] if c.startswith(SCORE)]
    label = alone[0]["id_code"].map(wells.set_index("id_code")["perturbation"])
    has_label = label.notna() & label.isin([c.removeprefix(SCORE) for c in columns])
    accurate = alone[1].copy()
    accurate[columns] = np.random.default_rng(0).normal(0, 1, (len(accurate), len(columns)))
    for i in np.flatnonzero(has_label):
        accurate.loc[accurate.index[i], SCORE + label.iloc[i]] += 3.0
    for pooling in ("logits", "probabilities"):
        averaged = average([alone[0], accurate], ["", "good"], validation_labels(wells, folds), "validation", pooling)
        validation = (averaged["role"] == "validation") & has_label
        called = np.array(columns)[matrix(averaged, SCORE).argmax(axis=1)]
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
    two_wells_left = sites[~on_it | (on_it & (on_it.cumsum() <= 2))]
    predict_screen({"fold_0": model}, store, two_wells_left, wells, folds, statistics, adabn="plate")
    assert f"plate {plate['experiment']}/{plate['plate']} has 2 wells with images" in caplog.text
    logits = pd.DataFrame({"fold": 0, "id_code": [str(i) for i in range(12)], "experiment": "E", "plate": "1"})
    logits = logits.assign(score_a=1.0, score_b=[0.0] * 8 + [2.0] * 4)
    assert skewed_plates(logits, "plate") == [
        "plate E/1: 67% of 12 wells are called a; if one perturbation fills the plate, AdaBN removes its effect as noise: compare "
        "with inference.adabn none"
    ]
    assert skewed_plates(logits, "none") == [] and skewed_plates(logits.head(9), "plate") == []


def test_profiles_have_the_column_names_of_other_tools(screen, wells, folds, model):
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
