"""Fixtures of several test files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.tiny import set_paths, write_fingerprint


def pytest_configure(config: pytest.Config) -> None:
    """How fast a machine is at the moment says nothing about the code: hypothesis does not judge it."""
    if config.pluginmanager.hasplugin("hypothesispytest"):  # a bare machine with a GPU has none
        from hypothesis import HealthCheck, settings

        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch) -> tuple[Path, Path, Path]:
    """nnU-Net's raw, preprocessed and results folders, empty; its variables name them."""
    return set_paths(tmp_path, monkeypatch)


@pytest.fixture
def raw_folder(folders) -> Path:
    """The first of ``folders``."""
    return folders[0]


@pytest.fixture
def fingerprint(folders) -> None:
    """nnU-Net's fingerprint of the dataset is already there: extracting it costs 2 GB and seconds."""
    write_fingerprint(folders[1])


@pytest.fixture
def data(tmp_path: Path, monkeypatch):
    """Fold 0 of a tiny dataset in which every second patient has emphysema, with its cache."""
    from tests.support.generators import open_data  # imports torch, which most tests do without

    return open_data(tmp_path, monkeypatch)


@pytest.fixture
def no_fsync(monkeypatch) -> None:
    """Nothing waits for the disk: a killed process loses nothing that it wrote."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def unverified(monkeypatch) -> None:
    """nnU-Net's check of a converted dataset, which is slow, is left out."""
    monkeypatch.setattr(
        "nnunetv2.experiment_planning.verify_dataset_integrity.verify_dataset_integrity", lambda *_, **__: None
    )
