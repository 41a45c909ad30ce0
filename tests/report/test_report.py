"""Numbers as people read them, values as scripts read them, and the page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graphopt import Options, optimize
from graphopt.report import format as f
from graphopt.report.charts import Point, kernel_pairs, scatter, ticks
from graphopt.report.html import html_report
from graphopt.report.text import plain
from graphopt.report.values import clean, optimize_values
from graphopt.results import OptimizeResult

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Sees that every tag is closed in order, and gathers what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def result(small_model_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> OptimizeResult:
    model = onnx.load_model_from_string(small_model_bytes)
    evil = "d</code><script>alert(1)</script>&\x1b"
    for node in model.graph.node:
        node.input[:] = [evil if name == "d" else name for name in node.input]
        node.output[:] = [evil if name == "d" else name for name in node.output]
    path = tmp_path_factory.mktemp("report") / "small & <big>.onnx"
    onnx.save(model, path)
    return optimize(path, None, Options(target="npu-32-no-depthwise", allow="retrain"))


def test_the_page_is_whole_and_takes_nothing_from_outside(result: OptimizeResult) -> None:
    page = html_report(result)
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.seen["svg"] >= 2
    assert "script" not in checker.seen
    assert "link" not in checker.seen
    assert "img" not in checker.seen
    assert not {name for name, _ in checker.attributes} & {"src", "href", "onload", "onclick"}
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "\x1b" not in page
    text = " ".join(checker.text)
    assert "small & <big>.onnx" in text
    assert "<script>" in text
    assert result.plan.digest in text
    for title in ("Where the latency goes", "What changed", "Verification", "Provenance"):
        assert title in text


def test_the_page_is_the_same_for_the_same_result(result: OptimizeResult) -> None:
    assert html_report(result) == html_report(result)


def test_an_unchanged_model_has_a_page_too(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> m (float[2,8] x) => (float[2,8] y) { y = Tanh(x) }'
    )
    onnx.save(model, tmp_path / "plain.onnx")
    page = html_report(optimize(tmp_path / "plain.onnx"))
    assert "unchanged" in page
    assert "What changed" not in page


def test_kernels_are_paired_in_running_order(result: OptimizeResult) -> None:
    pairs = kernel_pairs(result.before, result.after)
    assert [old.key for old, _ in pairs if old] == [kernel.key for kernel in result.before.kernels]
    assert [new.key for _, new in pairs if new] == [kernel.key for kernel in result.after.kernels]
    assert all(old is None or new is None or old.key == new.key for old, new in pairs)


def test_values_are_json(result: OptimizeResult) -> None:
    values = optimize_values(result)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["before"]["latency_us"] == result.before.latency_us


def test_what_json_cannot_say_is_null() -> None:
    assert clean([math.nan, math.inf, -math.inf, 1.5, (1, "x"), {1: Path("a")}]) == [
        None, None, None, 1.5, [1, "x"], {"1": "a"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (f.latency(0.5), "0.50 us"),
        (f.latency(-0.001), "0 us"),
        (f.latency(12.34), "12.3 us"),
        (f.latency(999.9), "1.00 ms"),
        (f.latency(2_345_678), "2.35 s"),
        (f.size(640), "640 B"),
        (f.size(1_505_280), "1.51 MB"),
        (f.number(385_187_552), "385 M"),
        (f.number(12), "12"),
        (f.change(100, 68.6), "-31.4 %"),
        (f.change(5, 5), "0 %"),
        (f.change(0, 5), "new"),
        (f.small(math.nan), "-"),
        (f.small(3.21e-7), "3.21e-07"),
        (f.shape((1, 3, 4)), "1x3x4"),
        (f.plural(1, "change"), "1 change"),
        (f.plural(2, "change"), "2 changes"),
    ],
)
def test_numbers_as_people_read_them(shown: str, text: str) -> None:
    assert shown == text


@given(st.floats(0, 1e13))
def test_a_number_keeps_three_digits(value: float) -> None:
    number, _, unit = f.size(value).partition(" ")
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(value, rel=6e-3, abs=6e-3)


@given(st.floats(-1e6, 1e9), st.floats(1e-6, 1e9))
def test_axes_have_a_few_ticks_inside(low: float, span: float) -> None:
    assume(span > 1e-9 * abs(low))  # narrower than that, floating-point numbers are the ticks
    found = ticks(low + span, low)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_points_lie_inside_the_picture() -> None:
    picture = scatter(
        [Point(1.0, 5.0, "before", "b"), Point(1.0, 5.0, "after", "<a>"), Point(2.0, 0.0, "front", "f")],
        x_name="latency", y_name="memory", y_unit="bytes",
    )  # fmt: skip
    checker = Checker()
    checker.feed(picture)
    places = [float(value or "nan") for name, value in checker.attributes if name in ("cx", "cy")]
    assert len(places) == 6
    assert all(0 <= place <= 520 for place in places)
    assert "<a>" not in picture


@given(st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown
