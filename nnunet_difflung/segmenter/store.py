"""A fold's segmenter on disk: one file of weights for each part (safetensors), and a JSON card that makes it complete.

A finished network is kept when the training is interrupted; one that is not finished is trained again, which takes a
minute or two.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import check_format, json_bytes, read_own_json, replacing, sha256, write_json
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.signals import Interruption
from nnunet_difflung.runtime.tensors import save_tensors
from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.crops import CropSource, Scale, edge_of
from nnunet_difflung.segmenter.data import SegmenterData, ignore_class, number_of_classes, patients_in_parts
from nnunet_difflung.segmenter.knowledge import measure_knowledge
from nnunet_difflung.segmenter.network import fit, new_network
from nnunet_difflung.segmenter.trained import Knowledge, Part, Segmenters

CARD = "segmenter.json"
_FORMAT = 1


def is_finished(folder: Path) -> bool:
    """Whether a segmenter's training has ended."""
    return (folder / CARD).is_file()


def check_segmenter_folder(data: SegmenterData, config: SegmenterConfig, folder: Path) -> None:
    """Refuses a folder with a segmenter of other cases, patients or settings, or whose weights were lost or changed.

    Raises:
        BadInput: names the folder, what differs, and what to do.
    """
    if not is_finished(folder):
        return
    card = _read_card(folder)
    wanted = json.loads(json_bytes(data.depends(config)))
    different = [key.replace("_", " ") for key, value in wanted.items() if card.get(key) != value]
    if different:
        raise BadInput(
            f"{folder} holds a segmenter with other settings or other training data (other {', '.join(different)}); "
            f"use the earlier settings and data, or delete that folder to train it again"
        )
    for number, part in enumerate(card["parts"]):
        file = _file(folder, number)
        digest = sha256(file) if file.is_file() else "missing"
        if digest != part["sha256"]:
            raise BadInput(
                f"{file} is not the file that {CARD} names (SHA-256 {digest[:12]}, expected {part['sha256'][:12]}); "
                f"restore it, or delete {folder} to train the segmenter again"
            )


def train_segmenters(
    data: SegmenterData, config: SegmenterConfig, folder: Path, device: str = "cpu", progress: bool = True
) -> None:
    """Trains a network without each part of the patients and measures what they know; returns at once if finished.

    Raises:
        BadInput: see ``check_segmenter_folder``.
    """
    check_segmenter_folder(data, config, folder)
    if is_finished(folder):
        return
    begun, digest, parts = time.monotonic(), data.digest(config), patients_in_parts(data, config)
    parts = parts if len(parts) > 1 else ()  # with a single patient nobody is left to train on
    title = f"fold {data.fold}: training segmenter"
    shown = bar(total=len(parts) * config.steps, desc=title, unit="step", visible=progress)
    with Interruption(impatient=True) as interruption, shown:

        def after_step() -> None:
            shown.update()
            interruption.act()

        for number, patients in enumerate(parts):
            if _is_of(_file(folder, number), digest):
                shown.update(config.steps)
                continue
            network, scale = _train(data, config, patients, number, device, after_step)
            _save(_file(folder, number), network, {"depends": digest, "scale": scale.channels})
    trained = Segmenters(
        _load_parts(data, config, folder, parts, device), config, edge_of(data, config), data.roles.pathologies
    )
    knowledge = measure_knowledge(trained, data)
    content = {
        "format": _FORMAT,
        **data.depends(config),
        "parts": [{"patients": list(p), "sha256": sha256(_file(folder, n))} for n, p in enumerate(parts)],
        "knowledge": {name: asdict(row) for name, row in knowledge.items()},
        "seconds": round(time.monotonic() - begun, 1),
        "versions": versions(),
    }
    write_json(folder / CARD, content)


def load_segmenters(data: SegmenterData, config: SegmenterConfig, folder: Path, device: str = "cpu") -> Segmenters:
    """Loads a finished segmenter.

    Raises:
        BadInput: see ``check_segmenter_folder``.
    """
    check_segmenter_folder(data, config, folder)
    card = _read_card(folder)
    parts = tuple(tuple(part["patients"]) for part in card["parts"])
    knowledge = {name: Knowledge(**row) for name, row in card["knowledge"].items()}
    loaded = _load_parts(data, config, folder, parts, device)
    edge, seconds = edge_of(data, config), float(card["seconds"])
    digest = hashlib.sha256(json_bytes(card["parts"])).hexdigest()
    return Segmenters(loaded, config, edge, data.roles.pathologies, knowledge, digest, seconds)


def seconds_of_training(config: SegmenterConfig, channels: int, classes: int, edge: int, device: str) -> float:
    """Estimated seconds to train all networks, from a step on empty crops of ``edge`` pixels."""
    image = torch.zeros(config.batch_size, channels, edge, edge)
    label = torch.zeros(config.batch_size, 1, edge, edge, dtype=torch.int64)
    network, begun = new_network(channels, classes, config.seed, config.features), list[float]()
    fit(network, lambda _: (image, label), 3, device=device, after_step=lambda: begun.append(time.perf_counter()))
    return config.parts * config.steps * (begun[-1] - begun[0]) / 2


def _train(
    data: SegmenterData, config: SegmenterConfig, left_out: tuple[str, ...], number: int, device: str, after_step: Any
) -> tuple[nn.Module, Scale]:
    """Trains the network that never sees the patients who are left out."""
    cases = data.cases_of(sorted(set(data.patients.values()) - set(left_out)))
    scale = Scale.of(data.cache, cases)
    source = CropSource(data, cases, config, scale, number)
    fit(
        network := _new_network(data, config, number),
        source.batch,
        config.steps,
        config.learning_rate,
        device,
        None if data.roles.ignore is None else ignore_class(data.roles),
        after_step,
    )
    return network, scale


def _new_network(data: SegmenterData, config: SegmenterConfig, number: int) -> nn.Module:
    seed = int(np.random.SeedSequence(data.key(config.seed, number)).generate_state(1)[0])
    channels = data.cache.facts[data.training_cases[0]].channels
    return new_network(channels, number_of_classes(data.roles), seed, config.features)


def _load_parts(
    data: SegmenterData, config: SegmenterConfig, folder: Path, parts: tuple[tuple[str, ...], ...], device: str
) -> tuple[Part, ...]:
    loaded = []
    for number, patients in enumerate(parts):
        network = _new_network(data, config, number)
        with safe_open(_file(folder, number), "pt") as file, torch.no_grad():
            for name, weight in network.named_parameters():
                weight.copy_(file.get_tensor(name))
            scale = Scale(tuple(tuple(row) for row in _about(file)["scale"]))
        loaded.append(Part(network.to(device).requires_grad_(False).eval(), scale, patients))
    return tuple(loaded)


def _file(folder: Path, number: int) -> Path:
    return folder / f"part_{number}.safetensors"


def _is_of(file: Path, digest: str) -> bool:
    """Whether a file holds the finished network of a training with these settings and data."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as content:
            return _about(content).get("depends") == digest
    except (SafetensorError, OSError, ValueError):
        return False


def _save(file: Path, network: nn.Module, about: dict) -> None:
    """Writes weights (each once: the decoder's encoder is the encoder) and what they depend on."""
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in network.named_parameters()}
    with replacing(file) as temporary:  # one entry of metadata, since safetensors does not keep the order of several
        save_tensors(tensors, temporary, {"about": json.dumps(about)})


def _about(file: Any) -> dict:
    return json.loads((file.metadata() or {}).get("about", "{}"))


def _read_card(folder: Path) -> dict[str, Any]:
    remedy = f", or delete the folder {folder} to train its segmenter anew"
    content = read_own_json(folder / CARD, remedy)
    check_format(folder / CARD, content, _FORMAT, remedy)
    return content
