"""Which patches are drawn: nnU-Net's loader with a rule, and the trainers that use it."""

import json
import os
import sys
import weakref
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_difflung import trainers
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.trainers import case_record
from nnunet_difflung.trainers.dose import SCHEDULE, SHARE, Dose
from nnunet_difflung.trainers.loader import DRAWN, MixedLoader, Mixture
from nnunet_difflung.trainers.sampling import Rule, Source, balanced, painted
from tests.support.tiny_nnunet import REAL, SPLITS
from tests.trainers.test_trainers import (  # noqa: F401
    SYNTHETIC,
    begin,
    nnunet,
    resumed,
    short,
    trainer_of,
    weights,
)

COPY_PASTE = "nnUNetTrainerDiffLungCopyPaste"
OVERSAMPLING = "nnUNetTrainerDiffLungOversampling"
DEPTH, EDGE = 20, 16
PAINTED = {"difflung_a": [4, 5, 13], "difflung_b": [9]}
HEALTHY, ILL, RARE = "healthy", "ill", "rare"  # real volumes: no class but 1; class 2 in slices 3 to 8; class 3 in 17


# ---- the loader, on volumes whose voxels say in which slice they are ----


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Folder of preprocessed volumes; class 1 everywhere, class 3 in one voxel."""
    folder = tmp_path_factory.mktemp("volumes")
    data = np.broadcast_to(np.arange(DEPTH, dtype=np.float32)[None, :, None, None], (1, DEPTH, EDGE, EDGE))
    for name in (HEALTHY, ILL, RARE, *PAINTED):
        seg = np.ones(data.shape, np.int8)
        if name == ILL:
            seg[0, 3:9, 5:9, 10:14] = 2
        if name == RARE:
            seg[0, 17, 2, 12] = 3
        nnUNetDatasetBlosc2.save_case(
            np.ascontiguousarray(data),
            seg,
            {
                "class_locations": {label: np.argwhere(seg == label) for label in (1, 2, 3)},
                "bbox_used_for_cropping": [[0, DEPTH], [0, EDGE], [0, EDGE]],
                "shape_after_cropping_and_before_resampling": (DEPTH, EDGE, EDGE),
            },
            str(folder / name),
            chunks=data.shape,
            blocks=data.shape,
            filters=[blosc2.Filter.NOFILTER],
            filters_seg=[blosc2.Filter.NOFILTER],
        )
    return folder


def synthetic_rule(share, schedule="constant"):
    properties = {
        "bbox_used_for_cropping": [[0, DEPTH]] * 3,
        "shape_after_cropping_and_before_resampling": [DEPTH] * 3,
    }
    source = painted(
        {name: {"slices": slices} for name, slices in PAINTED.items()},
        dict.fromkeys(PAINTED, properties),
        dict.fromkeys(PAINTED, (DEPTH, EDGE, EDGE)),
        (0, 1, 2),
    )
    return Rule((HEALTHY, ILL, RARE), (source,), Dose(share, schedule))


def balanced_rule(volumes, share=0.5):
    dataset = nnUNetDatasetBlosc2(str(volumes))
    locations = {name: dataset.load_case(name)[3]["class_locations"] for name in (HEALTHY, ILL, RARE)}
    return Rule((HEALTHY, ILL, RARE), balanced(locations.items(), {"common": 2, "rare": 3}), Dose(share))


def loader(volumes, rule, patch, epochs=1):
    dataset = nnUNetDatasetBlosc2(str(volumes))
    dataset.mixture = Mixture(rule, 0, epochs)
    labels = SimpleNamespace(all_labels=[0, 1, 2, 3], has_ignore_label=False)
    return MixedLoader(dataset, 10, patch, patch, labels, 0.33)


def patches(volumes, rule, patch, batches):
    """(case, source, slices in the patch without padding, labels) of each patch."""
    np.random.seed(1)
    made = loader(volumes, rule, patch)
    for _ in range(batches):
        batch = next(made)
        for case, source, data, target in zip(batch["keys"], batch[DRAWN], batch["data"], batch["target"], strict=True):
            inside = target.numpy() >= 0
            yield case, source, set(data.numpy()[inside].astype(int)), target.numpy()


def within(count, n, p):
    """Whether a count is within 4 standard deviations of a binomial one."""
    return abs(count - n * p) <= 4 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize(("patch", "batches"), [((8, 8), 50), ((6, 8, 8), 50)])
def test_the_share_of_synthetic_patches_is_the_dose_and_each_painted_slice_is_as_likely(volumes, patch, batches):
    drawn = list(patches(volumes, synthetic_rule(0.3), patch, batches))
    n = len(drawn)
    cases = Counter(case for case, _, _, _ in drawn)
    assert within(cases["difflung_a"] + cases["difflung_b"], n, 0.3)
    assert within(cases["difflung_a"], n, 0.3 * 3 / 4)
    assert within(cases["difflung_b"], n, 0.3 / 4)
    assert all(within(cases[name], n, 0.7 / 3) for name in (HEALTHY, ILL, RARE))
    assert all((source == "synthetic") == (case in PAINTED) for case, source, _, _ in drawn)


def test_in_2d_synthetic_patches_are_painted_slices_and_real_ones_any_slice(volumes):
    seen = {}
    for case, _, slices, _ in patches(volumes, synthetic_rule(0.5), (8, 8), 50):
        seen.setdefault(case, set()).update(slices)
    assert seen["difflung_a"] == {4, 5, 13}
    assert seen["difflung_b"] == {9}
    assert len(seen[HEALTHY]) == DEPTH


def test_in_3d_synthetic_patches_are_centred_on_a_painted_slice(volumes):
    for case, _, slices, target in patches(volumes, synthetic_rule(1), (6, 8, 8), 30):
        assert target.shape[-3:] == (6, 8, 8)
        assert any(set(range(z - 3, z + 3)) & set(range(DEPTH)) <= slices for z in PAINTED[case])


def test_patches_larger_than_the_case_are_padded_as_by_nnunet(volumes):
    for case, _, slices, target in patches(volumes, synthetic_rule(1), (32, 24, 24), 2):
        assert target.shape[-3:] == (32, 24, 24)
        assert slices == set(range(DEPTH))
        first = int(np.argmax((target[0] >= 0).any(axis=(1, 2))))
        assert first in {min((32 - DEPTH) // 2, 32 // 2 - z) for z in PAINTED[case]}


@pytest.mark.parametrize("patch", [(8, 8), (6, 8, 8)])
def test_classes_are_drawn_alike_and_centred_on_one_of_their_voxels(volumes, patch):
    drawn = list(patches(volumes, balanced_rule(volumes), patch, 50))
    n, sources = len(drawn), Counter(source for _, source, _, _ in drawn)
    assert within(sources["common"], n, 0.25)
    assert within(sources["rare"], n, 0.25)
    for case, source, _, target in drawn:
        if source == "real":
            continue
        label, name = {"common": (2, ILL), "rare": (3, RARE)}[source]
        assert case == name
        assert label in target
        if source == "rare":  # near the upper border, where nnU-Net moves the patch
            assert target[(0, *[3] * (len(patch) - 2), 2, 4)] == 3
    others = Counter(case for case, source, _, _ in drawn if source == "real")
    assert all(within(others[name], n, 0.5 / 3) for name in (HEALTHY, ILL, RARE))


def test_each_slice_of_a_class_is_as_likely_as_another(volumes):
    rule = balanced_rule(volumes, 1)
    counts = Counter(min(slices) for _, source, slices, _ in patches(volumes, rule, (8, 8), 50) if source == "common")
    assert sorted(counts) == [3, 4, 5, 6, 7, 8]
    assert all(within(count, sum(counts.values()), 1 / 6) for count in counts.values())


def corners(volumes, source, patch, final, locations):
    """Lower corners (z, y, x) of 20 patches from a source, of whose ``patch`` voxels the network gets the ``final``."""
    dataset = nnUNetDatasetBlosc2(str(volumes))
    dataset.mixture = Mixture(Rule((HEALTHY,), (source,), Dose(1)), 0, 1)
    made = MixedLoader(dataset, 20, patch, final, SimpleNamespace(all_labels=[1, 2], has_ignore_label=False), 0.33)
    np.random.seed(1)
    made.get_indices()
    return [made.get_bbox((DEPTH, EDGE, EDGE), False, locations)[0] for _ in range(20)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_patch_is_centred_on_its_slice_along_the_axis_that_nnunet_has_made_of_z(volumes, axis):
    source = Source("synthetic", ((HEALTHY, 11),), axis)
    assert {lower[axis] for lower in corners(volumes, source, (6, 8, 8), (6, 8, 8), {})} == {11 - (3, 4, 4)[axis]}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("position", "centre"), [(3, 4), (5, 12)])
def test_a_patch_is_centred_on_a_voxel_of_its_own_slice(volumes, axis, position, centre):
    others = [other for other in range(3) if other != axis]
    voxels = np.zeros((2, 4), int)
    voxels[:, 1 + axis], voxels[:, [1 + other for other in others]] = (3, 5), [[4, 4], [12, 12]]
    source = Source("rare", ((ILL, position),), axis, 2)
    for lower in corners(volumes, source, (8, 8, 8), (8, 8, 8), {2: voxels}):
        assert lower[axis] == max(0, position - 4)
        assert [lower[other] for other in others] == [centre - 4] * 2


@pytest.mark.parametrize("position", [0, 1, 4, 13])
def test_what_the_network_gets_of_a_patch_shows_the_slice_also_at_the_border_of_a_case(volumes, position):
    """nnU-Net draws larger patches in 3D than the network gets, for the rotations."""
    for lower in corners(volumes, Source("synthetic", ((HEALTHY, position),)), (12, 8, 8), (6, 8, 8), {}):
        assert lower[0] == max(-3, position - 6)
        assert position in range(lower[0] + 3, lower[0] + 9)


def test_what_was_drawn_is_reported_beside_what_was_expected():
    mixture = Mixture(synthetic_rule(0.25, "falling"), 0, 3)
    mixture.count(["real", "synthetic", "real", "synthetic"])
    assert mixture.report() == (
        "Share of 4 training patches: real 0.500 (expected 0.500), synthetic 0.500 (expected 0.500)"
    )
    mixture.begin(2)
    mixture.count(["real"])
    assert mixture.report().endswith(
        "1 training patches: real 1.000 (expected 1.000), synthetic 0.000 (expected 0.000)"
    )


# ---- the trainers ----


@pytest.fixture
def base(nnunet):  # noqa: F811
    """The tiny dataset, whose synthetic cases are slices that were painted."""
    base = nnunet / "preprocessed" / "Dataset942_Tiny"
    manifest = json.loads((base / MANIFEST).read_text())
    for case in manifest["cases"].values():
        case["slices"] = [0]
    (base / MANIFEST).write_text(json.dumps(manifest))
    return base


def batches(get, number=3):
    """The first batches of the loaders for training and for validation, from the same seeds."""
    np.random.seed(5)
    torch.manual_seed(5)
    loaders = get()
    return [next(of) for _ in range(number) for of in loaders]


def equal(one, other):
    return list(one["keys"]) == list(other["keys"]) and all(
        torch.equal(a, b)
        for key in ("data", "target")
        for a, b in zip(*([d[key]] if torch.is_tensor(d[key]) else d[key] for d in (one, other)), strict=True)
    )


@pytest.mark.parametrize("name", [COPY_PASTE, "nnUNetTrainerDiffLung_1epoch", "nnUNetTrainerDiffLungReference"])
@pytest.mark.parametrize("share", [None, "cases"])
def test_without_a_share_batches_are_nnunets_to_the_bit(base, monkeypatch, name, share):
    if share:
        monkeypatch.setenv(SHARE, share)
    trainer = begin(name)
    ours = batches(trainer.get_dataloaders)
    theirs = batches(lambda: nnUNetTrainer.get_dataloaders(trainer))
    assert all(equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert type(trainer.get_dataloaders()[0].data_loader) is nnUNetDataLoader


@pytest.mark.parametrize("share", ["0", "0.4", "1"])
def test_the_reference_has_no_dose(base, monkeypatch, share):
    monkeypatch.setenv(SHARE, share)
    trainer = begin("nnUNetTrainerDiffLungReference")
    assert type(trainer.get_dataloaders()[0].data_loader) is nnUNetDataLoader
    assert trainer.my_init_kwargs[case_record.KEY][case_record.DOSE] is None


@pytest.mark.parametrize("fold", [0, "all"])
@pytest.mark.parametrize(
    "name", [COPY_PASTE, "nnUNetTrainerDiffLungPoly", "nnUNetTrainerDiffLungSpade_5epochs", OVERSAMPLING]
)
def test_the_rule_is_for_the_training_alone(base, monkeypatch, name, fold):
    monkeypatch.setenv(SHARE, "0.5")
    training, validation = begin(name, fold).get_dataloaders()
    assert type(training.data_loader) is MixedLoader
    assert type(validation.data_loader) is nnUNetDataLoader
    real = REAL if fold == "all" else SPLITS[0]["train"]
    assert sorted(training.data_loader.mixture.rule.real) == sorted(real)
    seen = {str(key) for _ in range(40) for key in next(validation)["keys"]}
    assert seen <= set(REAL if fold == "all" else SPLITS[0]["val"])


def test_the_validation_draws_as_ever(base, monkeypatch):
    monkeypatch.setenv(SHARE, "1")
    trainer = begin(COPY_PASTE)
    mixed = trainer.get_dataloaders()[1]
    theirs = nnUNetTrainer.get_dataloaders(begin("nnUNetTrainerDiffLungReference"))[1]
    assert all(equal(*(batches(lambda of=of: [of], 1)[0] for of in (mixed, theirs))) for _ in range(3))


def test_a_share_of_one_draws_this_arms_synthetic_cases_only(base, monkeypatch):
    monkeypatch.setenv(SHARE, "1")
    training, _ = begin(COPY_PASTE).get_dataloaders()
    assert {key for _ in range(10) for key in next(training)["keys"]} == {"difflung_copy_paste_0"}


def test_the_trainers_own_share_counts_where_the_variable_is_not_set(base, monkeypatch):
    monkeypatch.setattr(trainers.nnUNetTrainerDiffLungCopyPaste, "synthetic_share", 1.0)
    assert next(begin(COPY_PASTE).get_dataloaders()[0])[DRAWN] == ["synthetic"] * 2
    monkeypatch.setenv(SHARE, "0")
    assert next(begin(COPY_PASTE).get_dataloaders()[0])[DRAWN] == ["real"] * 2


@pytest.mark.parametrize("name", [COPY_PASTE, f"{COPY_PASTE}_1epoch"])
def test_an_impossible_share_is_refused_before_the_training(base, monkeypatch, name):
    monkeypatch.setenv(SHARE, "30")
    begin("nnUNetTrainerDiffLungReference")
    monkeypatch.setattr(case_record, "record_of", lambda *_: pytest.fail("this takes minutes with many cases"))
    with pytest.raises(RuntimeError, match="^DIFFLUNG_SYNTHETIC_SHARE is '30', expected the share of synthetic"):
        begin(name)


def test_a_manifest_that_does_not_tell_the_painted_slices_is_refused(base, monkeypatch):
    manifest = json.loads((base / MANIFEST).read_text())
    del manifest["cases"]["difflung_copy_paste_0"]["slices"]
    (base / MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setenv(SHARE, "0.5")
    with pytest.raises(RuntimeError, match="does not say which slices of difflung_copy_paste_0 are painted.*=cases"):
        begin(COPY_PASTE).get_dataloaders()


def test_a_fold_that_needed_no_synthetic_case_is_trained_on_real_cases_with_any_share(base, monkeypatch):
    manifest = json.loads((base / MANIFEST).read_text())
    manifest["runs"].append({"method": "mat", "fold": 1, "summary": {"injected": 0}})
    (base / MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setenv(SHARE, "0.5")
    training, _ = begin("nnUNetTrainerDiffLungSegGuided", 1).get_dataloaders()
    assert type(training.data_loader) is nnUNetDataLoader


def test_the_log_says_what_is_drawn_and_what_was(base, monkeypatch, capsys):
    monkeypatch.setenv(SHARE, "0.5")
    monkeypatch.setenv(SCHEDULE, "falling")
    short(COPY_PASTE, monkeypatch).run_training()
    said = capsys.readouterr().out
    assert "a share of 1, falling to 0, from 1 slice of 1 case (synthetic); the others from 4 real cases" in said
    assert "Share of 8 training patches: real 0.000 (expected 0.000), synthetic 1.000 (expected 1.000)" in said
    assert "real 1.000 (expected 1.000), synthetic 0.000 (expected 0.000)" in said


def test_a_continued_training_draws_from_its_first_batch_with_the_share_of_its_epoch(base, monkeypatch):
    monkeypatch.setenv(SHARE, "0.5")
    monkeypatch.setenv(SCHEDULE, "falling")
    trainer = begin(f"{COPY_PASTE}_5epochs")
    for epoch, expected in ((4, "real"), (0, "synthetic")):
        trainer.current_epoch = epoch
        training, _ = trainer.get_dataloaders()
        assert {name for _ in range(3) for name in next(training)[DRAWN]} == {expected}


def test_the_slices_of_synthetic_cases_are_found_with_one_case_open_at_a_time(base, monkeypatch):
    monkeypatch.setenv(SHARE, "0.5")
    trainer, loaded, load = begin(COPY_PASTE), [], nnUNetDatasetBlosc2.load_case

    class Watched(np.ndarray):
        pass

    def watched(self, name):
        data, *rest = load(self, name)
        array = np.asarray(data[:]).view(Watched)
        loaded.append(weakref.ref(array))
        return array, *rest

    def found(*arguments):
        assert len(loaded) == 4
        assert sum(of() is not None for of in loaded) <= 1
        return painted(*arguments)

    dataset = trainer.get_tr_and_val_datasets()[0]
    trainer._cases = replace(trainer._cases, synthetic=sorted(SYNTHETIC)[:4])
    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", watched)
    monkeypatch.setattr(sys.modules["nnunet_difflung.trainers.nnUNetTrainerDiffLung"], "painted", found)
    assert trainer._rule(dataset).sources[0].slices


def test_workers_draw_by_the_rule_and_learn_of_the_epoch(base, monkeypatch):
    monkeypatch.setenv(SHARE, "0.5")
    monkeypatch.setenv(SCHEDULE, "falling")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = begin(f"{COPY_PASTE}_5epochs")
    loaders = trainer.get_dataloaders()
    try:
        assert {name for _ in range(3) for name in next(loaders[0])[DRAWN]} == {"synthetic"}
        trainer._mixture.begin(4)
        for _ in range(20):  # those that were drawn ahead
            next(loaders[0])
        assert {name for _ in range(3) for name in next(loaders[0])[DRAWN]} == {"real"}
    finally:
        for of in loaders:
            of._finish()


# ---- oversampling ----


def test_oversampling_differs_from_the_reference_in_nothing_but_the_draws(base):
    ours, reference = begin(OVERSAMPLING), begin("nnUNetTrainerDiffLungReference")
    assert ours.do_split() == reference.do_split()
    assert torch.equal(weights(ours), weights(reference))
    assert ours.optimizer.state_dict() == reference.optimizer.state_dict()
    lengths = [(trainer.num_epochs, trainer.num_iterations_per_epoch) for trainer in (ours, reference)]
    assert lengths[0] == lengths[1]
    assert ours.reference_name() == "nnUNetTrainerDiffLungReference"


def test_oversampling_takes_the_pathology_of_the_real_cases(base):
    rule = begin(OVERSAMPLING).get_dataloaders()[0].data_loader.mixture.rule
    assert [source.name for source in rule.sources] == ["emphysema"]
    assert sorted(case for case, _ in rule.sources[0].slices) == sorted(SPLITS[0]["train"])


def test_the_locations_of_oversampled_cases_are_held_one_case_at_a_time(base, monkeypatch):
    trainer, loaded, held, load = begin(OVERSAMPLING), [], [], nnUNetDatasetBlosc2.load_case

    class Watched(dict):
        pass

    def watched(self, name):
        *arrays, properties = load(self, name)
        held.append(sum(of() is not None for of in loaded))
        locations = Watched(properties["class_locations"])
        loaded.append(weakref.ref(locations))
        return *arrays, {**properties, "class_locations": locations}

    dataset = trainer.get_tr_and_val_datasets()[0]
    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", watched)
    assert len(trainer._rule(dataset).sources[0].slices) == 4
    assert len(held) == 4
    assert max(held) <= 1


def test_a_class_without_a_location_in_a_case_is_not_drawn_from_it(base):
    _without_emphysema(base, [REAL[2]])
    training, _ = begin(OVERSAMPLING).get_dataloaders()
    assert REAL[2] not in {case for case, _ in training.data_loader.mixture.rule.sources[0].slices}
    for _ in range(20):
        next(training)


def test_oversampling_is_refused_where_there_is_nothing_to_draw_more_often(base):
    _without_emphysema(base, REAL)
    with pytest.raises(RuntimeError, match="no training case of fold 0 shows emphysema.*-tr nnUNetTrainerDiffLungRef"):
        begin(f"{OVERSAMPLING}_20epochs").get_dataloaders()


def _without_emphysema(base, cases):
    folder = base / "nnUNetPlans_2d"
    dataset = nnUNetDatasetBlosc2(str(folder))
    for name in cases:
        properties = dataset.load_case(name)[3]
        properties["class_locations"][2] = []
        write_pickle(properties, str(folder / f"{name}.pkl"))


# ---- continued ----


def _in_two_parts(nnunet, monkeypatch, name):  # noqa: F811
    """Weights and losses of a training in one go, and of one that was stopped after two of three epochs."""
    straight = short(name, monkeypatch)
    straight.run_training()
    (nnunet / "results").rename(nnunet / "first")
    (nnunet / "results").mkdir()
    stopped = short(name, monkeypatch)
    end = stopped.on_epoch_end

    def stop():
        end()
        if stopped.current_epoch == 2:
            raise KeyboardInterrupt

    stopped.on_epoch_end = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run_training()
    continued = short(name, monkeypatch, go_on=True)
    assert continued.current_epoch == 2
    continued.run_training()
    return straight, continued


@pytest.mark.parametrize("name", [COPY_PASTE, OVERSAMPLING])
def test_a_continued_training_ends_with_the_same_bits(base, nnunet, monkeypatch, name):  # noqa: F811
    monkeypatch.setenv(SHARE, "0.3")
    monkeypatch.setenv(SCHEDULE, "falling")
    straight, continued = _in_two_parts(nnunet, monkeypatch, name)
    assert torch.equal(weights(continued), weights(straight))
    assert continued.logger.get_value("train_losses", None) == straight.logger.get_value("train_losses", None)


def _saved(epoch=1, name=COPY_PASTE):
    trainer = begin(name)
    trainer.current_epoch = epoch
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_latest.pth"))
    return trainer


def test_the_checkpoint_says_the_dose(base, monkeypatch):
    assert _saved().my_init_kwargs[case_record.KEY][case_record.DOSE] is None
    monkeypatch.setenv(SHARE, "0.3")
    path = os.path.join(_saved().output_folder, "checkpoint_latest.pth")
    record = torch.load(path, weights_only=False)["init_args"][case_record.KEY]
    assert record[case_record.DOSE] == {"share": 0.3, "schedule": "constant"}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({SHARE: "0.3"}, {}, "begun with .*SHARE=0.3 .*constant and is continued with DIFFLUNG_SYNTHETIC_SHARE=cases"),
        ({}, {SHARE: "0.3"}, "begun with DIFFLUNG_SYNTHETIC_SHARE=cases and is continued with .*=0.3 "),
        ({SHARE: "0.3"}, {SHARE: "0.4"}, "begun with .*=0.3 .*continued with .*=0.4"),
        ({SHARE: "0.3"}, {SHARE: "0.3", SCHEDULE: "falling"}, "begun with .*constant and .*continued with .*=falling"),
    ],
)
def test_a_training_is_not_continued_with_another_dose(base, monkeypatch, before, now, words):
    for variable, value in before.items():
        monkeypatch.setenv(variable, value)
    _saved()
    for variable in before:
        monkeypatch.delenv(variable)
    for variable, value in now.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(RuntimeError, match=f"{words}.*set the variables as they were, or train anew without --c$"):
        resumed(COPY_PASTE).on_train_start()


def test_a_training_of_an_earlier_version_is_continued_without_a_dose_only(base, monkeypatch):
    trainer = begin(COPY_PASTE)
    del trainer.my_init_kwargs[case_record.KEY][case_record.DOSE]
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_latest.pth"))
    trainer = resumed(COPY_PASTE)
    trainer.plot_network_architecture = lambda: None
    trainer.on_train_start()
    monkeypatch.setenv(SHARE, "0.3")
    with pytest.raises(RuntimeError, match="begun with DIFFLUNG_SYNTHETIC_SHARE=cases"):
        resumed(COPY_PASTE).on_train_start()


def test_the_validation_of_a_training_does_not_ask_for_its_dose(base, monkeypatch):
    monkeypatch.setenv(SHARE, "0.3")
    trainer = begin(COPY_PASTE)
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))
    monkeypatch.delenv(SHARE)
    resumed(COPY_PASTE, go_on=False)
