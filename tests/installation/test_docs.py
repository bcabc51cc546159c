"""What the pages for readers name exists: modules, functions, options, commands, files, targets, links."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from experiments.bench.arms import ARMS
from nnunet_difflung import trainers

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES += sorted(
    f"docs/results/{path.name}"
    for path in (ROOT / "docs" / "results").glob("*.md")
    if not path.name.startswith(("table1_", "table2_", "bench_"))  # written by a command, with its results
)
PACKAGE = "nnunet_difflung"
INSIDE = sorted(path.stem for path in (ROOT / PACKAGE).iterdir() if path.suffix == ".py" or path.is_dir())
FOLDERS = ("nnunet_difflung", "tests", "docs", "benchmarks", "experiments", "trainers", "dataset_conversion")
CONVERTERS = sorted(path.stem for path in (ROOT / "dataset_conversion").glob("Dataset*.py"))
OF_NNUNET = {
    "--c",
    "--val",
    "--val_best",
    "--clean",
    "-pretrained_weights",
}  # options of nnU-Net's commands that stand by themselves in the text
OF_THE_BENCH = {"--tuning"}
OF_CONTAINERS = {"--build-arg", "--shm-size", "-u", "--cleanenv"}

_GENERATED = re.compile(r"<!-- (?!end of)([^\n]+?) -->.*?<!-- end of \1 -->", re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
_DOTTED = re.compile(r"[a-z_]+(?:\.\w+)+")
_FILE = re.compile(r"(?:.*/)?([\w.]+\.(?:json|jsonl|png|toml|py|md|html|csv))")
_SNAKE = re.compile(r"[a-z]+(?:_[a-z]+)+")


def text_of(page: str) -> str:
    """A page without its generated tables and, in the changelog, without the names that are no longer in use."""
    text = _GENERATED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return re.sub(r"^ +\| `nnunet_difflung\.[^|]*\|", "|", text, flags=re.MULTILINE) if page == "CHANGELOG.md" else text


def commands_of(page: str) -> list[str]:
    """Code spans, and the lines of code blocks without their comments."""
    text = text_of(page)
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [*_SPAN.findall(text), *(re.split(r"\s#\s", line)[0].strip() for line in lines)]


@cache
def options_of(module: str) -> frozenset[str]:
    """The options of a command: the beginnings of the entries in its -h."""
    program = importlib.import_module(f"{PACKAGE}.{module}")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        getattr(program, "entry", program.main)(["-h"])
    entries = re.findall(r"^ +(-.*?)(?:  |$)", said.getvalue(), re.MULTILINE)
    return frozenset(option for entry in entries for option in _OPTION.findall(entry))


@cache
def our_commands() -> dict[str, str]:
    """Console command → module, as setup.py declares them."""
    return dict(re.findall(rf'"(difflung_\w+)={PACKAGE}\.([\w.]+):\w+"', (ROOT / "setup.py").read_text()))


@cache
def all_options() -> frozenset[str]:
    converters = [f"dataset_conversion.{name}" for name in CONVERTERS]
    return frozenset().union(*map(options_of, [*our_commands().values(), *converters]))


@cache
def source() -> str:
    """All Python code but this file."""
    files = {ROOT / "setup.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))}
    return "\n".join(path.read_text(encoding="utf-8") for path in files - {Path(__file__)})


def in_source(name: str) -> bool:
    """Whether a name is a word in ``source``."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", source()) is not None


def exists(dotted: str) -> bool:
    """Whether a name is a module of the package, or an attribute of one, or of a class in one."""
    parts = dotted.removeprefix(f"{PACKAGE}.").split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join([PACKAGE, *parts[:length]])
        try:
            if importlib.util.find_spec(module) is None:
                continue
        except ModuleNotFoundError:
            continue
        value = importlib.import_module(module) if length < len(parts) else None
        for name in parts[length:]:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


def stale_in_command(line: str) -> list[str]:
    """Commands, options, modules, targets and extras of a command line that do not exist."""
    stale = [name for name in re.findall(r"\bdifflung_\w+\b(?![.<\w])", line) if name not in {*our_commands(), *ARMS}]
    for command, rest in re.findall(r"\b(difflung_[a-z]+)(?=\s)([^'`]*)", line):
        if command in our_commands():
            stale += sorted(set(_OPTION.findall(rest)) - options_of(our_commands()[command]))
    for target in re.findall(r"^make (\w+)", line):
        if not re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
            stale.append(f"make {target}")
    for module in re.findall(r"-m ([\w.]+)", line):
        if module.startswith((f"{PACKAGE}.", "benchmarks", "experiments", "tests")) and "XXX" not in module:
            stale += [] if importlib.util.find_spec(module) else [module]
    stale += re.findall(r"\bpython3? ((?:benchmarks|experiments)/\S+)", line)  # modules: python -m benchmarks.networks
    for extra in re.findall(r"\.\[(\w+)\]'", line):
        stale += [] if f'"{extra}": [' in (ROOT / "setup.py").read_text() else [f"[{extra}]"]
    scripts = {entry.name for entry in entry_points(group="console_scripts")}
    stale += [name for name in re.findall(r"\bnnUNetv2_\w+", line) if name not in scripts]
    stale += [name for name in re.findall(r"\bnnUNetTrainerDiffLung\w*", line) if not hasattr(trainers, name)]
    return stale


def stale_in_span(span: str) -> list[str]:
    """What a code span of the running text names and what does not exist."""
    if span.startswith("-") and not span.startswith("-m "):
        option = _OPTION.match(span)
        return [span] if option and option[0] not in all_options() | OF_NNUNET | OF_THE_BENCH | OF_CONTAINERS else []
    if re.fullmatch(r"…\w+|_\d+epochs?", span):
        return [] if any(name.endswith(span.lstrip("…")) for name in trainers.__all__) else [span]
    if re.fullmatch(r"Dataset8\d\d_\w+", span):
        return [] if span in CONVERTERS else [span]
    if span.split("/")[0] in (*FOLDERS, *INSIDE) and "/" in span and " " not in span and "NAME" not in span:
        pattern = span.rstrip("/").replace("XXX_", "*_")
        return [] if [*ROOT.glob(pattern), *(ROOT / PACKAGE).glob(pattern)] else [span]
    if file := _FILE.fullmatch(span):
        of_a_set = (ROOT / "docs" / "results").glob(file[1].replace("SET", "*"))
        return [] if (ROOT / span).is_file() or in_source(file[1]) or any(of_a_set) else [span]
    if _DOTTED.fullmatch(dotted := re.sub(r"\.…$", "", span)):
        return [] if exists(dotted) else [span]
    if _SNAKE.fullmatch(span) or re.fullmatch(r"DIFFLUNG_\w+", span):
        return [] if in_source(span) else [span]
    return stale_in_command(span)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_a_page_exists(page):
    text = text_of(page)
    stale = [name for span in _SPAN.findall(text) for name in stale_in_span(span)]
    stale += [name for line in commands_of(page) for name in stale_in_command(line)]
    assert not stale, f"{page} names what does not exist: {', '.join(dict.fromkeys(stale))}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_or_a_heading(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page} links to {target}, and {path or page} has no such heading"


@pytest.mark.parametrize(
    ("line", "stale"),
    [
        ("difflung_augment -d 801 --no-such", ["--no-such"]),
        ("difflung_paint -d 801", ["difflung_paint"]),
        ("make everything", ["make everything"]),
        ("python -m nnunet_difflung.augment", ["nnunet_difflung.augment"]),
        ("python benchmarks/networks.py --size 64", ["benchmarks/networks.py"]),
        ("python -m benchmarks.networks --size 64", []),
        ("pip install '.[all]'", ["[all]"]),
        ("nnUNetv2_paint 801", ["nnUNetv2_paint"]),
        ("generator.ablation.no_such", ["generator.ablation.no_such"]),
        ("families.interface", ["families.interface"]),
        ("no_such_function", ["no_such_function"]),
        ("DIFFLUNG_NO_SUCH", ["DIFFLUNG_NO_SUCH"]),
        ("painting.no_such", ["painting.no_such"]),
        ("tests/no_such.py", ["tests/no_such.py"]),
        ("difflung_no_such.json", ["difflung_no_such.json"]),
        ("--no-such SHARE", ["--no-such SHARE"]),
        ("nnUNetTrainerDiffLungNoSuch", ["nnUNetTrainerDiffLungNoSuch"]),
        ("generator.ablation.annealed", []),
        ("nnunet_difflung.generator.…", []),
        ("difflung_augment -d 801 --method copy_paste", []),
        ("--strength", []),
    ],
)
def test_a_name_that_does_not_exist_is_noticed(line, stale):
    assert stale_in_span(line) == stale
