"""One HTML file: nothing outside it is asked for, no text becomes markup, and all blocks are in it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nnunet_difflung.pages.blocks import Gallery, Light, Lights, Page, Picture, Section, Table
from nnunet_difflung.pages.render import anchor, as_html
from tests.pages.conftest import ODD, picture

VOID = {"meta", "input", "br", "image", "rect", "path", "img", "link", "hr", "use"}


class Reader(HTMLParser):
    """Open elements, sources, and visible text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture
def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(as_html(page))
    return reader


def test_elements_are_closed(read: Reader) -> None:
    assert read.open == []


def test_nothing_outside_the_file_is_named(read: Reader, page: Page) -> None:
    assert read.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in read.sources)
    assert not re.findall(r"url\((?!['\"]?#)", as_html(page))
    assert "default-src 'none'" in as_html(page)


def test_text_never_becomes_markup(read: Reader) -> None:
    assert read.tags.count("script") == 1
    assert read.text.count(ODD) >= 4  # in the title, a light, a paragraph and a gallery


def test_all_text_is_there(read: Reader) -> None:
    for text in ("Leaks", "Shares", "Scores", "case a", "nnUNetv2_train 1 2d 0", "Tick cases", "lung window"):
        assert text in read.text


def test_worst_lights_come_first() -> None:
    lights = Lights([Light("good", "a", ""), Light("unknown", "b", ""), Light("look", "c", ""), Light("bad", "d", "")])
    assert [light.title for light in lights.lights] == ["d", "c", "b", "a"]


def test_page_without_pictures_has_no_tools(page: Page) -> None:
    html = as_html(replace(page, sections=page.sections[:2], exclude=""))
    assert 'id="large"' not in html
    assert 'id="save"' not in html


def test_only_cases_with_an_id_can_be_excluded(page: Page) -> None:
    assert re.findall(r'class="exclude" value="([^"]*)"', as_html(page)) == ["s2"]
    assert 'class="exclude"' not in as_html(replace(page, exclude=""))


def test_same_page_is_the_same_file(page: Page) -> None:
    assert as_html(page) == as_html(page)


def test_a_table_of_many_rows_can_be_folded() -> None:
    html = as_html(Page("t", "", [Section("s", [Table(["a"], [["x"]], "all cases", folded=True)])]))
    assert "<summary>all cases</summary>" in html


def test_no_section_is_called_like_a_part_of_the_frame(page: Page) -> None:
    """A section "Next" took the clicks that were meant for the button."""

    def names(of: Page) -> list[str]:
        return re.findall(r' id="([^"]*)"', re.sub(r"<svg.*?</svg>", "", as_html(of), flags=re.DOTALL))

    there = {section.title for section in page.sections}
    frame = {name.title() for name in names(page) if not name.startswith("section-")}
    assert {"Next", "View", "Save"} <= frame
    titled = [Section(title, []) for title in sorted(frame - there)]
    found = names(replace(page, sections=[*page.sections, *titled]))
    assert len(set(found)) == len(found) == len(names(page)) + len(titled)


def test_anchors_are_words() -> None:
    assert anchor("Pictures, real & painted") == "section-pictures-real-painted"


@pytest.mark.parametrize(
    ("width", "millimetres", "label"), [(100, 0.7, "10 mm"), (512, 0.7, "50 mm"), (20, 0.1, "1 mm")]
)
def test_scale_bar_is_a_round_number_of_mm(width: int, millimetres: float, label: str) -> None:
    bar = Picture("p", {}, width, 10, millimetres=millimetres).bar
    assert bar is not None
    assert bar[1] == label
    assert bar[0] * millimetres == pytest.approx(float(label.split()[0]))


def test_no_scale_bar_without_spacing() -> None:
    assert Picture("p", {}, 100, 10).bar is None


def test_views_are_those_of_all_pictures(page: Page) -> None:
    other = replace(picture(3), views={"before": "data:,"})
    sections = [Section("s", [Gallery("g", [("a", [picture(1)]), ("b", [other])])])]
    assert replace(page, sections=sections).views == ["lung window", "mediastinal window", "before"]
