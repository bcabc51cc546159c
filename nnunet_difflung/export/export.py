"""Writes finished trainings as models that plain nnU-Net can use, each with its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_difflung.comparison.checkpoint import read_checkpoint
from nnunet_difflung.comparison.own_validation import Record
from nnunet_difflung.export.card import card_text
from nnunet_difflung.export.contents import (
    check_predicts,
    check_trainer,
    exported_dataset,
    exported_plans,
    write_checkpoint,
)
from nnunet_difflung.export.facts import gather
from nnunet_difflung.export.models import PLANS_FILE, Model, read_content
from nnunet_difflung.export.output import CARD, is_zip, written
from nnunet_difflung.paths import CASES_IN_CHECKPOINT, DATASET, fold_name
from nnunet_difflung.runtime.files import write_bytes, write_json
from nnunet_difflung.runtime.modes import readable_like


def export(models: Sequence[Model], out: Path, pattern: str | None = None, patients_file: Path | None = None) -> None:
    """Writes models as a folder, or as a zip file in which each lies where nnU-Net installs it.

    Nobody can read it who cannot read the checkpoints.

    Args:
        models: as ``find_models`` finds them; a folder takes one.
        out: as ``check_output`` accepts it.
        pattern: regular expression whose first group is the patient of a case id; for the card.
        patients_file: CSV or JSON file that says who the patients are, instead of a pattern.

    Raises:
        BadInput: a model cannot be used by plain nnU-Net, a file of it is damaged, or it is not known who the patients
            are.
    """
    for model in models:
        check_trainer(model.trainer)
    sources = [path for model in models for path in model.sources()]
    with readable_like(sources, [out.parent]), written(out) as folder:
        for model in models:
            _write_model(model, folder / model.place_in(out), out.name if is_zip(out) else "", pattern, patients_file)


def _write_model(model: Model, folder: Path, file: str, pattern: str | None, patients_file: Path | None) -> None:
    dataset_json, plans = (read_content(model.folder / name) for name in (DATASET, PLANS_FILE))
    records: dict[int | str, Record | None] = {}
    for fold in model.trainings.folds:
        target = folder / fold_name(fold) / model.checkpoint
        target.parent.mkdir(parents=True)
        checkpoint = read_checkpoint(model.training(fold) / model.checkpoint)
        records[fold] = checkpoint["init_args"].get(CASES_IN_CHECKPOINT)
        write_checkpoint(target, checkpoint)
    write_json(folder / DATASET, exported_dataset(dataset_json))
    write_json(folder / PLANS_FILE, exported_plans(plans))
    check_predicts(folder, model.trainings.folds, model.checkpoint)
    configuration = PlansManager(plans).get_configuration(model.trainings.configuration).configuration
    facts = gather(model, records, pattern, patients_file)
    card = card_text(model, facts, exported_dataset(dataset_json), configuration, file)
    write_bytes(folder / CARD, card.encode())
