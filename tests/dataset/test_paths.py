"""Names of folders: from ids to names and back, and no module but ``paths`` spells them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_difflung import paths
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import dataset_id

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nnunet_difflung", "trainers", "dataset_conversion", "benchmarks", "experiments")
SPELLED = re.compile(r"DiffLung__|\bfold_($|\{|\*|\d|K\b|all\b)|\bDataset($|\{|\*)|^nnUNet_(raw|preprocessed|results)$")


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string that is not a docstring; the values of an f-string stand as {}."""
    within: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            within.add(id(node.value))  # a docstring
        if isinstance(node, ast.JoinedStr):
            within |= {id(part) for part in ast.walk(node) if isinstance(part, ast.Constant)}
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield node.lineno, node.value


def cuts_out_an_id(node: ast.AST) -> bool:
    """Whether it is ``name[7:10]``, the digits of DatasetXXX_NAME."""
    return isinstance(node, ast.Slice) and ast.unparse(node) == "7:10"


def spellings(source: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"{line}: {text}" for line, text in texts(tree) if SPELLED.search(text)]
    return found + [f"{node.lineno}: 7:10" for node in ast.walk(tree) if cuts_out_an_id(node)]


def test_only_one_module_spells_the_folders():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = {
        str(path.relative_to(ROOT)): spelled
        for path in files
        if path.name not in ("paths.py", "__init__.py") and (spelled := spellings(path.read_text()))
    }
    assert found == {}, "use the functions of nnunet_difflung.paths"


@pytest.mark.parametrize(
    "code",
    [
        'folder / f"fold_{fold}"',
        'folder / "fold_0"',
        'folder.glob("fold_*")',
        '"fold_" + str(fold)',
        'f"{results}/fold_{fold}/x"',
        'f"DiffLung__{method}"',
        'name = "DiffLung__cache"',
        'f"Dataset{number:03d}_{name}"',
        'root.glob("Dataset*")',
        'os.environ["nnUNet_results"]',
        "int(name[7:10])",
    ],
)
def test_a_new_spelling_is_found(code):
    assert spellings(code)


@pytest.mark.parametrize(
    "code", ['"""``DiffLung__METHOD/fold_K``"""', '"such as Dataset801_NAME in $nnUNet_raw"', 'f"{fold_name(0)}/x"']
)
def test_a_text_about_them_is_none(code):
    assert not spellings(code)


def test_ids_and_names():
    assert paths.full_name(7, "Lung") == "Dataset007_Lung"
    assert paths.dataset_id("Dataset007_Lung") == 7
    names = ["Dataset007_Lung", "Dataset070_Lung"]
    assert paths.meant("7", names) == paths.meant("007", names) == paths.meant(names[0], names) == names[:1]
    assert paths.meant("Lung", names) == paths.meant("²", names) == []


def test_a_dataset_that_is_only_preprocessed_has_a_name(folders, monkeypatch):
    raw, preprocessed, _ = folders
    (preprocessed / "Dataset801_Tiny").mkdir()
    assert paths.dataset_name("801") == paths.dataset_name("Dataset801_Tiny") == "Dataset801_Tiny"
    monkeypatch.delenv("nnUNet_raw")
    assert paths.dataset_name("801") == "Dataset801_Tiny"
    assert paths.dataset_folders("Dataset801_Tiny") == (None, preprocessed / "Dataset801_Tiny")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(BadInput, match="nnUNet_raw is not set"):
        paths.dataset_name("801")
    monkeypatch.setenv("nnUNet_raw", str(raw))
    with pytest.raises(BadInput, match="dataset 801 is not in nnUNet_raw"):
        paths.dataset_name("801")


def test_a_dataset_that_is_nowhere_is_refused_with_those_that_are_there(folders, monkeypatch):
    raw, preprocessed, _ = folders
    (raw / "Dataset810_MyCT").mkdir()
    (preprocessed / "Dataset007_Old").mkdir()
    with pytest.raises(BadInput, match="holds Dataset810_MyCT; give an id or a name such as 810 or Dataset810_MyCT"):
        paths.dataset_folder("801")
    with pytest.raises(BadInput, match="holds Dataset810_MyCT, nor in .*, which holds Dataset007_Old; .* such as 810"):
        paths.dataset_name("801")
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(BadInput, match="neither in nnUNet_raw, which is not set, nor .* such as 7 or Dataset007_Old"):
        paths.dataset_name("801")
    (preprocessed / "Dataset007_New").mkdir()
    with pytest.raises(BadInput, match="id 7 means several datasets in .*: Dataset007_New, Dataset007_Old"):
        paths.dataset_name("7")


def test_folders_of_this_package(folders, monkeypatch):
    results = folders[2] / "Dataset801_Tiny"
    assert paths.our_folders("Dataset801_Tiny") == []
    assert paths.fold_folder("Dataset801_Tiny", "mat", 3) == results / "DiffLung__mat" / "fold_3"
    assert paths.table1_file("Dataset801_Tiny") == results / "DiffLung__evaluate" / "table1.json"
    assert paths.table2_file("Dataset801_Tiny") == results / "DiffLung__compare" / "table2.json"
    paths.fold_folder("Dataset801_Tiny", "mat", "all").mkdir(parents=True)
    paths.cache_folder("Dataset801_Tiny").mkdir()
    assert paths.our_folders("Dataset801_Tiny") == [results / "DiffLung__cache", results / "DiffLung__mat"]
    (results / "DiffLung__mat" / "fold_notes.txt").touch()
    assert paths.fold_folders(results / "DiffLung__mat") == [results / "DiffLung__mat" / "fold_all"]
    assert [paths.fold_of(results / name) for name in ("fold_2", "fold_all", "fold_²")] == [2, "all", "²"]
    monkeypatch.delenv("nnUNet_results")
    assert paths.our_folders("Dataset801_Tiny") == []


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("other", ["Dataset801_Twin", "Dataset8010_Mine"])
def test_printed_commands_name_a_dataset_whose_id_nnunet_refuses(folders, variable, other):
    (folders[0] / "Dataset801_Mine").mkdir()
    (folders[2] / "Dataset801_Mine").mkdir()
    assert dataset_id("Dataset801_Mine") == 801
    (folders[0].parent / variable / other).mkdir()
    assert dataset_id("Dataset801_Mine") == "Dataset801_Mine"


def test_the_ids_that_nnunet_refuses_are_those_that_it_finds_twice(folders):
    from nnunetv2.utilities import dataset_name_id_conversion as nnunet

    if not hasattr(nnunet.nnUNet_raw, "is_set"):
        pytest.skip("this version of nnU-Net reads its variables when it is imported")
    names = ["Dataset801_Mine", "Dataset801_Twin", "Dataset8010_Mine", "Dataset080_Mine", "Dataset802_Mine"]
    for number, name in enumerate(names):
        (folders[number % 3] / name).mkdir()
    for name, number in zip(names, (801, 801, 8010, 80, 802), strict=True):
        assert sorted({*nnunet.find_candidate_datasets(number)} - {name}) == paths.others_with_id(name)
