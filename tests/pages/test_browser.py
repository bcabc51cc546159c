"""What a reader does with a report, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnunet_difflung.pages.blocks import Gallery, Section
from nnunet_difflung.pages.render import as_html
from tests.pages.conftest import picture
from tests.support.browser import in_browser


def test_page_opens_without_complaint(written: Path) -> None:
    found, said = in_browser(written, "return document.querySelectorAll('.enlarge').length;")
    assert found == 3
    assert said == []


def test_no_request_leaves_the_file(written: Path) -> None:
    found, _ = in_browser(written, "return performance.getEntriesByType('resource').map((entry) => entry.name);")
    assert [name for name in found if not name.startswith("data:")] == []


def test_policy_stops_requests(written: Path) -> None:
    script = "try { await fetch('http://localhost:9/'); return 'sent'; } catch { return 'stopped'; }"
    found, said = in_browser(written, script)
    assert found == "stopped"
    assert any("Content Security Policy" in line for line in said)


def test_tables_sort_by_numbers_with_gaps_last(written: Path) -> None:
    script = """
    const head = document.querySelectorAll('th')[1];
    const names = () => [...document.querySelectorAll('tbody tr')].map((row) => row.cells[0].textContent);
    head.querySelector('button').click(); const up = [head.getAttribute('aria-sort'), ...names()];
    head.querySelector('button').click(); const down = [head.getAttribute('aria-sort'), ...names()];
    return [up, down];"""
    found, said = in_browser(written, script)
    assert found == [["ascending", "case c", "case b", "case a"], ["descending", "case b", "case c", "case a"]]
    assert said == []


def test_pictures_are_enlarged_and_stepped_through_by_keys(written: Path) -> None:
    script = """
    const press = (key) => document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
    const legend = () => document.querySelector('#legend').textContent, steps = [];
    document.querySelector('.enlarge').click(); steps.push(legend());
    press('ArrowRight'); press('ArrowRight'); steps.push(legend());
    press('ArrowRight'); steps.push(legend());
    press('ArrowLeft'); steps.push(legend());
    steps.push(document.querySelector('dialog').open);
    document.querySelector('#next').click(); steps.push(legend());
    document.querySelector('#previous').click(); steps.push(legend());
    document.querySelector('#close').click(); steps.push(document.querySelector('dialog').open);
    return steps;"""
    found, said = in_browser(written, script.replace("document.dispatchEvent", "document.body.dispatchEvent"))
    assert found[0] == "real · case 0 (1 of 3)"
    assert found[1] == "synthetic · case 2 (3 of 3)"
    assert found[2] == found[0]
    assert found[3] == found[1]
    assert found[4:] == [True, found[0], found[1], False]
    assert said == []


def test_keys_change_view_and_outlines(written: Path) -> None:
    script = """
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
    const shown = () => [...document.querySelectorAll('.tile .view.shown')].map((i) => i.dataset.view);
    const drawn = () => getComputedStyle(document.querySelector('.outlines')).display;
    const found = [shown(), drawn()]; press('w'); press('c'); found.push(shown(), drawn()); return found;"""
    found, _ = in_browser(written, script)
    assert found[0] == ["lung window"] * 3
    assert found[1] == "inline"
    assert found[2] == ["mediastinal window"] * 3
    assert found[3] == "none"


def test_excluded_cases_become_a_list(written: Path) -> None:
    script = """
    const box = document.querySelector('.exclude'), list = document.querySelector('#excluded');
    const before = list.textContent;
    let saved; URL.createObjectURL = (blob) => { saved = blob; return '#'; };
    box.click(); const ticked = list.textContent; document.querySelector('#save').click();
    return [before, ticked, await saved.text()];"""
    found, said = in_browser(written, script)
    assert found == ["No case is excluded.", "s2", "case\ns2\n"]
    assert said == []


def test_text_is_readable_in_light_and_dark(written: Path) -> None:
    """WCAG's contrast of 4.5 for every text of the page itself, in both schemes."""
    script = """
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = (colour) => {
      const [r, g, b] = numbers(colour).slice(0, 3).map((c) => linear(c / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
      for (let e = element; e; e = e.parentElement) {
        const colour = getComputedStyle(e).backgroundColor;
        if (numbers(colour)[3] !== 0) return colour;
      }
      return 'rgb(255, 255, 255)';
    };
    let least = 99, where = '', count = 0;
    for (const e of document.querySelectorAll('body *:not(svg):not(svg *):not(option)')) {
      if (!e.offsetParent || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
      const a = light(getComputedStyle(e).color), b = light(ground(e));
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); count += 1;
      if (contrast < least) { least = contrast; where = `${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`; }
    }
    return [least, where, count, getComputedStyle(document.body).backgroundColor];"""
    bright, _ = in_browser(written, script)
    dark, _ = in_browser(written, script, options=("--blink-settings=preferredColorScheme=0",))
    assert bright[3] != dark[3], "the page did not become dark"
    for least, where, count, _ in (bright, dark):
        assert count > 20
        assert least >= 4.5, where


def test_everything_can_be_reached_by_the_keyboard(written: Path) -> None:
    script = """
    const all = (selector) => [...document.querySelectorAll(selector)];
    const dead = all('.enlarge, th button, .copy, select, input, .scroll, summary, nav a').filter(
      (e) => e.tabIndex < 0 || e.offsetParent === null);
    const nameless = all('button, svg[role=img], select, input').filter(
      (e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label')));
    return [dead.length, nameless.length, document.documentElement.lang];"""
    found, _ = in_browser(written, script)
    assert found == [0, 0, "en"]


def test_a_narrow_window_needs_no_scrolling_sideways(written: Path) -> None:
    found, _ = in_browser(written, "return [document.documentElement.scrollWidth, innerWidth];", width=500)
    assert found[0] <= found[1]


def test_pictures_are_as_high_as_their_pixels_are(page, tmp_path: Path) -> None:
    path = tmp_path / "aspect.html"
    path.write_text(as_html(replace(page, sections=[Section("s", [Gallery("g", [("a", [picture(0, aspect=3.0)])])])])))
    script = "const box = document.querySelector('.tile svg').getBoundingClientRect(); return box.height / box.width;"
    found, _ = in_browser(path, script)
    assert abs(found - 20 * 3 / 30) < 0.02
