"""The model card: what a model was trained on and scored on, and how to use it, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_difflung.comparison.trainings import FINAL
from nnunet_difflung.export.facts import Facts, FoldFacts, Group
from nnunet_difflung.export.models import PLANS_FILE, Model
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages.markdown import table_lines
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RESULTS, dataset_number, fold_name
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.wording import counted, quoted

_UNKNOWN = "not on record"
_LENT = "Dataset_pretrained"  # no number follows "Dataset"
_LIMITS = """
For research only. This is not a medical device: no authority has cleared it, and nobody may be diagnosed or treated by
what it predicts. It has learned what the training data show: their scanners, protocols and patients, and what their
annotators drew.
"""
_NOT_MEASURED = """
Not measured, unless somebody adds it below: patients, scanners and hospitals other than those of the training data; the
ensemble of several folds, which nnU-Net predicts with if several are given; whether probabilities are calibrated.
Weights can hold traces of training data: make sure that its owners and its ethics approval allow you to pass them on.
"""
_OF_SYNTHETIC_CASES = """
Synthetic cases are painted and add no new patients. What they change in this model is not measured here;
`difflung_compare` compares it with a training without them.
"""
_IMAGES = """
IMAGES holds a file for each channel of a case, named `CASE_0000`, `CASE_0001` …, with the file ending below. Without a
GPU add `-device cpu`.
"""
_INSTALLED = """
Installing replaces files of the same names in `{where}`.
If you have another dataset with the number {number}, do not install: nnU-Net would find two of them and stop. Unpack
the file anywhere, and predict with `nnUNetv2_predict_from_modelfolder`, which takes `-m` and the model's folder there
instead of `-d`, `-c`, `-p` and `-tr`.
"""
_STAGES = """
`{second}` is the second stage of a cascade. It starts from the predictions of `{first}`, a model in the same zip file;
they go into the folder PREVIOUS.
"""
_STAGES_TRAINED = """
nnU-Net trains `{second}` on predictions of `{first}`: before the last command train `{first}` in all folds, with the
commands in the card of that model.
"""
_LEFT_OUT = """
The weights and what nnU-Net needs to predict with them; the checkpoints name nnU-Net's own trainer, which builds the
same network. Left out: the optimizer's state, so that the training can be neither resumed (`--c`) nor validated again
(`--val`) from these files; case ids, splits, logs, validation predictions, nnU-Net's fingerprint, and synthetic cases.
"""
_CITATION = """
- Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep learning-based
  biomedical image segmentation. Nature Methods 18, 203–211 (2021). doi:10.1038/s41592-020-01008-z
- Khiati RN, Brillet P-Y, Ispas R, Fetita C. Diff-Lung: Diffusion-Based Texture Synthesis for Enhanced Pathological
  Tissue Segmentation in Lung CT Scans (2025). arXiv:2501.02867
- nnunet_difflung {version}, the software (its CITATION.cff).
- The dataset: (to be filled in)
"""


def card_text(
    model: Model, facts: Facts, dataset_json: Mapping[str, Any], configuration: Mapping[str, Any], file: str
) -> str:
    """The card of an exported model.

    Args:
        model: the trainings.
        facts: what is on record about them.
        dataset_json: as exported.
        configuration: of nnU-Net's plans, with what it inherits.
        file: name of the zip file; empty if the model is written as a folder.
    """
    trained, at_export = sorted({fold.torch for fold in facts.folds if fold.torch}), versions()
    parts = [
        f"# {model.trainings.dataset}: {model.name}",
        f"nnU-Net v2 model, {counted(len(model.trainings.folds), 'fold')} "
        f"({', '.join(map(str, model.trainings.folds))}), `{model.checkpoint}`.",
        "## Use and limits\n\n" + "\n\n".join(text.strip() for text in _limits(facts)),
        "## How to use it\n\n" + _usage(model, file, at_export["nnunetv2"], configuration.get("previous_stage")),
        "## Data\n\n" + _data(model, facts, dataset_json, configuration),
        "## Training\n\n" + _training(model, facts),
        "## Validation\n\n" + _validation(model, facts),
        "## What is in these files\n\n" + _LEFT_OUT.strip(),
        "## Versions\n\n"
        f"Trained with PyTorch {', '.join(trained) or f'({_UNKNOWN})'}; the other versions of the training are "
        f"{_UNKNOWN}. Exported with "
        + ", ".join(f"{name} {at_export[name]}" for name in ("nnunet_difflung", "nnunetv2", "torch", "python"))
        + ".",
        "## Licence\n\n(To be filled in: the licence of these weights. It depends on that of the training data.)",
        "## Citation\n\n" + _CITATION.strip().format(version=at_export["nnunet_difflung"]),
    ]
    return "\n\n".join(parts) + "\n"


def _limits(facts: Facts) -> list[str]:
    synthetic = any(fold.synthetic is None or fold.synthetic for fold in facts.folds)
    return [_LIMITS, _NOT_MEASURED, *([_OF_SYNTHETIC_CASES] if synthetic else [])]


def in_shell(variable: str, *parts: str) -> str:
    """A path below the folder that a variable names, as it has to be typed: one word, whatever the two hold."""
    return f'"${variable}"/{quoted("/".join(parts))}'


def _usage(model: Model, file: str, nnunet: str, previous: str | None) -> str:
    trainings = model.trainings
    if file:
        where = in_shell(NNUNET_RESULTS, trainings.dataset, model.name)
        place = _INSTALLED.format(where=where, number=dataset_number(trainings.dataset))
        commands = _of_zip(model, file, previous)
    else:
        where = "FOLDER"
        words = f"-i IMAGES -o PREDICTIONS -m {where} {quoted(*_weights(model))}"
        commands, place = [f"nnUNetv2_predict_from_modelfolder {words}"], f"`{where}` is the folder of this card."
    stages = {"first": previous, "second": trainings.configuration}
    parts = [
        "nnunet_difflung is not needed.",
        "    " + "\n    ".join([f"pip install nnunetv2=={nnunet}", *commands]),
        _IMAGES.strip(),
        *([_STAGES.strip().format(**stages)] if previous else []),
        place.strip(),
        "To train from these weights on data of your own that nnU-Net has planned (DATASET, their number):",
        *([_STAGES_TRAINED.strip().format(**stages)] if previous else []),
        "    " + "\n    ".join(_fine_tuning(model, where)),
    ]
    return "\n\n".join(parts)


def _weights(model: Model) -> list[str]:
    """The options of nnU-Net's prediction that name folds and checkpoint."""
    checkpoint = [] if model.checkpoint == FINAL else ["-chk", model.checkpoint]
    return ["-f", *map(str, model.trainings.folds), *checkpoint]


def _of_zip(model: Model, file: str, previous: str | None) -> list[str]:
    """The commands that install a zip file and predict, with the previous stage of a cascade first."""
    dataset, configuration, plans = model.trainings.dataset, model.trainings.configuration, model.trainings.plans
    of_model = ["-p", plans, "-tr", model.trainer, *_weights(model)]
    commands = [f"nnUNetv2_install_pretrained_model_from_zip {quoted(file)}"]
    if previous:
        commands.append(f"nnUNetv2_predict -i IMAGES -o PREVIOUS {quoted('-d', dataset, '-c', previous, *of_model)}")
    words = quoted("-d", dataset, "-c", configuration, *of_model)
    then = " -prev_stage_predictions PREVIOUS" if previous else ""
    return [*commands, f"nnUNetv2_predict -i IMAGES -o PREDICTIONS {words}{then}"]


def _fine_tuning(model: Model, where: str) -> list[str]:
    """The commands that give another dataset this network's plans, and train it from the weights.

    nnU-Net copies plans from one dataset to another. The plans are put into a folder that has no number, so that it is
    never one of the reader's datasets, nor taken for one.
    """
    configuration, plans = quoted(model.trainings.configuration), quoted(model.trainings.plans)
    new = quoted(f"{model.trainings.plans}_{model.trainings.dataset}")
    lent = in_shell(NNUNET_PREPROCESSED, _LENT)
    file = in_shell(NNUNET_PREPROCESSED, _LENT, f"{model.trainings.plans}.json")
    weights = f"{where}/{fold_name(model.trainings.folds[0])}/{quoted(model.checkpoint)}"
    return [
        f"mkdir -p {lent}",
        f"cp {where}/{PLANS_FILE} {file}",
        f"nnUNetv2_move_plans_between_datasets -s {_LENT} -t DATASET -sp {plans} -tp {new}",
        f"rm -r {lent}",
        f"nnUNetv2_preprocess -d DATASET -plans_name {new} -c {configuration}",
        f"nnUNetv2_train DATASET {configuration} FOLD -p {new} -pretrained_weights {weights}",
    ]


def _data(model: Model, facts: Facts, dataset_json: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    channels = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    architecture = configuration.get("architecture", {})
    network = str(architecture.get("network_class_name", _UNKNOWN)).rpartition(".")[2]
    rows = {
        "dataset": model.trainings.dataset,
        "real cases of these folds": _of(facts.everyone) if facts.everyone else _UNKNOWN,
        "channels": ", ".join(f"{number}: {name}" for number, name in channels.items()),
        "labels": ", ".join(f"{name} ({value})" for name, value in dataset_json["labels"].items()),
        "file ending": dataset_json["file_ending"],
        "spacing (mm, where the files have one)": _by(configuration.get("spacing")),
        "patch size (voxels)": _by(configuration.get("patch_size")),
        "batch size": configuration.get("batch_size", _UNKNOWN),
        "network": network,
        "normalisation": ", ".join(configuration.get("normalization_schemes", [])) or _UNKNOWN,
    }
    text = _table(["", ""], [[name, str(value)] for name, value in rows.items()])
    return f"{text}\n\nWhere the data come from, who may use them, scanners, ages, sexes: (to be filled in)"


def _training(model: Model, facts: Facts) -> str:
    rows = [
        [
            str(fold.fold),
            _of(fold.real) if fold.real else _UNKNOWN,
            _synthetic(fold),
            _of(fold.validation) if fold.validation else _UNKNOWN,
            _length(fold),
        ]
        for fold in facts.folds
    ]
    head = ["fold", "real training cases", "synthetic training cases", "validation cases", "epochs × iterations"]
    lines = [f"Trainer `{model.trainer}`, arm `{_arm(model, facts)}`.", "", _table(head, rows)]
    methods = sorted({method for fold in facts.folds for method in fold.synthetic or {}} & set(METHODS))
    if methods:
        lines += ["", *(f"- `{name}`: {METHODS[name].explanation}." for name in methods)]
    doses = sorted({fold.dose or "drawn like all other cases" for fold in facts.folds if fold.synthetic})
    if doses:
        lines += ["", f"Patches from synthetic cases: {'; '.join(doses)}."]
    if any(fold.in_manifest for fold in facts.folds):
        lines += ["", "(*) The checkpoint does not say; this is what the dataset holds at the time of the export."]
    return "\n".join(lines)


def _arm(model: Model, facts: Facts) -> str:
    """The arm, or the method whose cases the trainings had where the trainer is that of two methods."""
    had = {method for fold in facts.folds for method in fold.synthetic or {}}
    return model.arm if model.arm not in METHODS or not had else ", ".join(sorted(had))


def _synthetic(fold: FoldFacts) -> str:
    if fold.synthetic is None:
        return _UNKNOWN
    numbers = ", ".join(f"{number} ({method})" for method, number in fold.synthetic.items())
    return (numbers or "none") + (" (*)" if fold.in_manifest else "")


def _length(fold: FoldFacts) -> str:
    return _UNKNOWN if fold.epochs is None else f"{fold.epochs} × {fold.iterations or _UNKNOWN}"


def _validation(model: Model, facts: Facts) -> str:
    missing = [fold for fold in model.trainings.folds if fold not in facts.scored_folds]
    lines = []
    if facts.scored:
        lines += [
            f"Each fold's model on its validation patients: {_of(facts.scored)} in "
            f"{counted(len(facts.scored_folds), 'fold')} ({', '.join(map(str, facts.scored_folds))}). {_unseen(facts)} "
            f"Dice over all voxels of a patient, then the mean over the patients who have the class.",
            "",
            _table(
                ["class", "Dice", "patients with it", "patients without it", "of them with false voxels"],
                [
                    [
                        score.name,
                        "–" if math.isnan(score.dice) else f"{score.dice:.3f}",
                        *map(str, (score.patients, score.without, score.falsely)),
                    ]
                    for score in facts.scores
                ],
            ),
        ]
    if missing:
        lines += ["", f"Fold {', '.join(map(str, missing))}: {_why_missing(model, missing)}."]
    return "\n".join(lines).strip()


def _unseen(facts: Facts) -> str:
    if facts.unseen is None:
        return f"Whether these patients were in its training is {_UNKNOWN}."
    return "They were not in its training." if facts.unseen else "Some of them were in its training too."


def _why_missing(model: Model, folds: Sequence[int | str]) -> str:
    if model.checkpoint != FINAL:
        return f"not measured; nnU-Net's validation is of {FINAL}, not of {model.checkpoint}"
    if "all" in folds:
        return "not measured on patients whom the training did not have"
    return f"{_UNKNOWN}; nnU-Net has not validated {FINAL}"


def _of(group: Group) -> str:
    return f"{counted(group.cases, 'case')} of {counted(group.patients, 'patient')}"


def _by(numbers: Sequence[float] | None) -> str:
    return " × ".join(f"{number:g}" for number in numbers) if numbers else _UNKNOWN


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    return "\n".join(table_lines(escaped[0], escaped[1:]))
