"""What the charts and tables offer a reader in a browser: their tools, exports, colours and notes."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from cmr_bench.dashboard.collect import collect
from tests.support.browser import HOSTILE, NEEDS_A_BROWSER, show

pytestmark = NEEDS_A_BROWSER
BOARD = "pascal-whole-*.html"


def drawn(page: Any, name: str) -> Any:
    figure = page.locator(f"#c-{name}")
    figure.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()
    return figure


def download(page: Any, button: Any) -> str:
    with page.expect_download() as waiting:
        button.click()
    return Path(waiting.value.path()).read_text(encoding="utf-8")


def colours_of_traces(page: Any, name: str) -> dict[str, str]:
    """Colour of each legend entry of a chart."""
    found = page.evaluate(
        """id => document.querySelector(`#${id} .plot`).data.map(one => [one.name, one.marker.color])""", f"c-{name}"
    )
    return {re.sub("<br>", " ", label): colour for label, colour in found}


def colours_of_rows(page: Any) -> dict[str, str]:
    """Colour of each plotted row of the table, by what the charts call it."""
    return dict(
        page.evaluate(
            """() => { const board = cmr.data(); return [...document.querySelectorAll('#board tr[data-plotted]')]
               .map(row => [board.rows[row.dataset.id].label, row.style.getPropertyValue('--row')]) }"""
        )
    )


def test_a_row_has_one_colour_in_table_and_charts_and_keeps_it(page: Any, site: Path) -> None:
    show(page, site, BOARD)
    for name in ("recall", "cost"):
        drawn(page, name)
        assert colours_of_traces(page, name) == colours_of_rows(page)
    before = colours_of_rows(page)
    assert len(set(before.values())) == len(before) > 3
    page.locator("#board tbody tr[data-plotted] input").first.uncheck()
    after = colours_of_rows(page)
    assert len(after) == len(before) - 1
    assert after.items() <= before.items()
    page.locator("#board tbody tr:not([data-plotted]) input").last.check()
    assert len(set(colours_of_rows(page).values())) == len(before)
    row = page.locator("#board tr[data-plotted]").first
    colour = row.evaluate("each => [each.querySelector('.shape'), each].map(one => getComputedStyle(one).color)[0]")
    wanted = next(iter(colours_of_rows(page).values()))
    assert colour == f"rgb({', '.join(str(int(wanted[n : n + 2], 16)) for n in (1, 3, 5))})"


def test_the_shape_of_a_family_is_that_of_its_points(page: Any, site: Path) -> None:
    show(page, site, BOARD)
    drawn(page, "cost")
    symbols = page.evaluate(
        """() => { const board = cmr.data(); const points = document.querySelector('#c-cost .plot').data;
           const rowOf = one => board.rows.find(row => row.label === one.name.replaceAll('<br>', ' '));
           return points.map(one => [rowOf(one).family, one.marker.symbol]) }"""
    )
    assert len({symbol for _, symbol in symbols}) == len({family for family, _ in symbols}) > 2
    paths = page.evaluate(
        """[...document.querySelectorAll('#board .family')]
           .map(one => [one.dataset.family, one.querySelector('path').getAttribute('d')])"""
    )
    assert len({tuple(one) for one in paths}) == len({family for family, _ in paths}) == len({d for _, d in paths})


@pytest.mark.parametrize("width", [1440, 390])
def test_tools_cover_no_title_and_show_on_hover(page: Any, site: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    show(page, site, BOARD)
    figure = drawn(page, "recall")
    tools = figure.locator(".tools")
    page.mouse.move(0, 0)
    page.wait_for_function("Number(getComputedStyle(document.querySelector('#c-recall .tools')).opacity) === 0")
    figure.hover()
    page.wait_for_function("Number(getComputedStyle(document.querySelector('#c-recall .tools')).opacity) === 1")
    box = tools.bounding_box()
    for text in [*figure.locator(".annotation-text, figcaption h3, summary").all()]:
        other = text.bounding_box()
        if text.evaluate("each => each.tagName") == "SUMMARY":
            continue
        assert (
            other["y"] + other["height"] <= box["y"]
            or other["y"] >= box["y"] + box["height"]
            or other["x"] + other["width"] <= box["x"]
        )
    assert page.locator(".modebar-btn").count() == 0
    assert page.locator("[role=img] :is(a, button, input, select, summary, [tabindex])").count() == 0
    tools.get_by_role("button", name="SVG").focus()
    page.mouse.move(0, 0)
    page.wait_for_function("Number(getComputedStyle(document.querySelector('#c-recall .tools')).opacity) === 1")


def test_a_zoom_is_undone(page: Any, site: Path) -> None:
    show(page, site, BOARD)
    figure = drawn(page, "gallery")
    ranges = "['xaxis', 'yaxis'].map(name => document.querySelector('#c-gallery .plot').layout[name].range.join())"
    page.wait_for_function(f"{ranges}.length === 2")
    before = page.evaluate(ranges)
    plot = "document.querySelector('#c-gallery .plot')"
    page.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range': [1, 1.5], 'yaxis.range': [3, 4]}})")
    assert page.evaluate(ranges) != before
    figure.get_by_role("button", name="Reset the zoom").click()
    page.wait_for_function(f"JSON.stringify({ranges}) === JSON.stringify({json.dumps(before)})")


def test_the_table_is_exported_as_it_is_shown(page: Any, site: Path) -> None:
    show(page, site, BOARD)
    page.locator("#f-family").select_option("pairwise")
    page.get_by_role("button", name="t2i mAP", exact=True).click()
    rows = list(csv.reader(io.StringIO(download(page, page.get_by_role("button", name="CSV")))))
    assert rows[0][:5] == ["Method", "flags", "Family", "Features", "Seeds"]
    assert {"i2t mAP", "i2t mAP sd", "t2i mAP", "mAP"} <= set(rows[0])
    assert "i2t R@1" not in rows[0]
    assert len(rows) - 1 == page.locator("#board tbody tr:visible").count()
    assert {row[rows[0].index("Family")] for row in rows[1:]} == {"pairwise"}
    assert {row[rows[0].index("kind")] for row in rows[1:]} == {"measured", "published"}
    values = [float(row[rows[0].index("t2i mAP")]) for row in rows[1:]]
    assert values == sorted(values, reverse=True)
    exact = page.evaluate("cmr.data().rows.map(row => row.metrics.t2i_map)")
    assert all(min(abs(value - one) for one in exact if one is not None) < 1e-6 for value in values)
    text = download(page, page.get_by_role("button", name="LaTeX"))
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].replace("\\midrule\n", "").splitlines()
    assert len(body) == len(rows) - 1
    assert all(line.count(" & ") == text.partition("\\midrule")[0].splitlines()[-1].count(" & ") for line in body)
    assert "\\textbf{" in text
    assert " $\\pm$ " in text
    assert text.count("{") == text.count("}")


def test_hostile_names_stay_text_in_exports(page: Any, hostile_site: Path) -> None:
    show(page, hostile_site, "runs.html")
    rows = list(csv.reader(io.StringIO(download(page, page.get_by_role("button", name="CSV")))))
    assert all(len(row) == len(rows[0]) for row in rows)
    assert any(HOSTILE in cell for row in rows[1:] for cell in row)
    page.evaluate("document.querySelector('#board tbody th').dataset.v = '=cmd()'")
    assert "'=cmd()" in download(page, page.get_by_role("button", name="CSV"))
    text = download(page, page.get_by_role("button", name="LaTeX"))
    assert "\\%\\{x\\}" in text
    assert not re.search(r"(?<!\\)[%#](?! needs)", text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chart_is_saved_as_svg_for_paper(page: Any, site: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    show(page, site, BOARD)
    figure = drawn(page, "recall")
    text = download(page, figure.get_by_role("button", name="Save as SVG"))
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    words = "".join(root.itertext())
    assert "Text query, images ranked" in words
    assert "vsepp" in words
    assert "#e8ebf3" not in text
    assert "rgb(232, 235, 243)" not in text
    assert "rgb(27, 31, 42)" in text


def compared(page: Any) -> None:
    """Wait for the whole comparison: a page that is left while it loads would complain."""
    page.locator("#verdict-table tbody tr").first.wait_for()
    page.locator("#c-verdicts").scroll_into_view_if_needed()
    page.locator("#c-verdicts .main-svg").first.wait_for()


def test_a_comparison_opens_with_two_runs_and_an_address(page: Any, site: Path) -> None:
    show(page, site, "compare.html")
    compared(page)
    page.wait_for_function("location.hash.includes('runs=')")
    address = page.evaluate("location.href")
    chosen = page.locator("#list input:checked").evaluate_all("all => all.map(one => one.value)")
    assert len(chosen) == 2
    page.goto("about:blank")
    page.goto(address)
    compared(page)
    assert page.locator("#list input:checked").evaluate_all("all => all.map(one => one.value)") == chosen
    page.locator("#reference").select_option(index=1)
    other = page.evaluate("location.href")
    first = page.locator("#verdict-table caption").inner_text()
    page.goto("about:blank")
    page.goto(other)
    compared(page)
    assert page.locator("#verdict-table caption").inner_text() == first
    page.goto("about:blank")
    show(page, site, "compare.html#runs=")
    page.wait_for_timeout(500)
    assert page.locator("#list input:checked").count() == 0
    page.goto("about:blank")
    show(page, site, f"compare.html#runs=gone,{chosen[0]}")
    assert page.locator("#why").inner_text() == "1 of the runs in the address is not on this site."


def test_a_cell_of_the_heat_map_tells_of_its_row(page: Any, site: Path) -> None:
    show(page, site, "heatmap.html")
    tip = page.get_by_role("tooltip")
    cell = page.locator("#heat-rsum td a", has_text="R").first
    cell.focus()
    assert re.search(r"rank \d+ of \d+ methods", tip.inner_text())
    assert "the learning rate halves every ten epochs" in tip.inner_text()
    assert cell.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    page.set_viewport_size({"width": 390, "height": 400})
    last = page.locator("#heat-map td a").last
    last.focus()
    page.wait_for_timeout(300)
    assert "rank" in tip.inner_text()
    assert 0 <= tip.bounding_box()["y"] <= 400 - tip.bounding_box()["height"]
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#heat-rsum td a").last.hover()
    tip.wait_for()
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    head = page.locator("#heat-rsum thead button").nth(1)
    head.click()
    cells = page.locator("#heat-rsum tbody tr td:nth-child(2)")
    values = cells.evaluate_all("all => all.map(one => Number(one.dataset.v))")
    assert values == sorted(values, reverse=True)
    text = download(page, page.get_by_role("button", name="LaTeX").first)
    assert re.search(r"\d\.\d \(1\)", text)


def test_places_under_two_seeds_are_those_of_the_results(page: Any, site: Path) -> None:
    show(page, site, BOARD)
    figure = drawn(page, "ranks")
    figure.get_by_label("Metric").select_option("t2i_r1")
    figure.get_by_label("From").select_option("1")
    figure.get_by_label("To").select_option("3")
    head = "document.querySelector('#c-ranks .behind th:nth-child(5)').textContent"
    page.wait_for_function(f"{head} === 't2i R@1, seed 1'")
    stored = [run.result for run in collect(site.parent / "runs")[0] if run.result.data == "pascal"]
    scores: dict[int, dict[str, float]] = {1: {}, 3: {}}
    for result in stored:
        if result.seed in scores:
            scores[result.seed][f"{result.method} {result.options['model.margin']}"] = result.metrics["t2i_r1"]
    places = {
        name: tuple(1 + sum(other > scores[seed][name] for other in scores[seed].values()) for seed in (1, 3))
        for name in scores[1]
    }
    figure.get_by_text("Data of this plot").click()
    rows = [row.locator("th, td").all_inner_texts() for row in figure.locator(".behind tbody tr").all()]
    found = sorted((int(row[1]), int(row[2])) for row in rows)
    assert found == sorted(pair for pair in places.values() if pair[0] != pair[1])
    assert f"{len(found)} of {len(places)} rows" in figure.locator(".plot").get_attribute("aria-label")


def test_curves_by_gallery_end_at_the_recall(page: Any, site: Path) -> None:
    show(page, site, BOARD)
    figure = drawn(page, "gallery")
    figure.get_by_role("combobox", name="Recall at").select_option("5")
    page.wait_for_function("document.querySelector('#c-gallery .behind th:last-child').textContent === 'R@5'")
    ends, recalls = page.evaluate(
        """() => [document.querySelector('#c-gallery .plot').data.map(one => one.y.at(-1)),
                  cmr.data().rows.slice(0, 6).flatMap(row => [row.metrics.i2t_r5, row.metrics.t2i_r5])]"""
    )
    assert ends == pytest.approx(recalls, rel=1e-3)
