"""Pictures: valid XML, every label there and inside its place, names escaped, small enough."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.fit import WAYS, fits
from advisor.gpus import find_gpu
from advisor.memory import GIB, estimate
from advisor.pictures import (
    COLOURS,
    LETTER,
    LINES,
    NAMES,
    STEPS,
    WIDTH,
    Svg,
    amount,
    breakdown_svg,
    drawing,
    fit_map_svg,
    gib,
    legend,
    lines_svg,
    mark,
    ranges_svg,
    shade,
    term_name,
    ticks,
)
from advisor.ranges import Range
from advisor.shapes import find_model
from advisor.sizing_text import TERM_NAMES
from advisor.tape import TERMS
from advisor.training_run import TrainingRun

NS = "{http://www.w3.org/2000/svg}"
LLAMA = find_model("meta-llama/Llama-2-7b-hf")
BARS = {
    method: estimate(LLAMA, TrainingRun(method=method)).terms
    for method in ("full", "lora", "qlora")
}
CARDS = {"RTX-4090": 24 * GIB, "L40S": 45 * GIB, "RTX-6000-Ada": 48 * GIB, "A100-80GB": 80 * GIB}
EXAMPLES = {
    "bars": breakdown_svg(BARS, CARDS),
    "one bar": breakdown_svg({"x": {"weights": 1.0}}),
    "map": fit_map_svg({"m": {"a way": [0, 3, 16]}}, ["8 GB", "16 GB", "24 GB"]),
    "lines": lines_svg({"a": [(0, 1), (8192, 70)], "b": [(0, 2), (8192, 9)]}, "tokens", "GiB",
                       {"a card": 24}),
    "ranges": ranges_svg({"retrieval": Range(0.03, 0.4, 4.3), "a": Range(1, 9, 44)}, "USD"),
}  # fmt: skip

names = st.text(min_size=1, max_size=60)
sizes = st.floats(0, 1e15)


def root(picture: Svg) -> ElementTree.Element:
    return ElementTree.fromstring(str(picture))


def texts(picture: Svg) -> list[str]:
    return ["".join(node.itertext()) for node in root(picture).iter(f"{NS}text")]


Box = tuple[float, float, float, float]


def label_boxes(picture: Svg) -> dict[tuple[str, float, float], Box]:
    """Left, right, top, bottom of every label, as wide as the widest common font makes it."""
    found = {}

    def walk(node: ElementTree.Element, x: float, y: float, size: float, anchor: str) -> None:
        if move := re.match(r"translate\(([\d.]+) ([\d.]+)\)", node.get("transform", "")):
            x, y = x + float(move[1]), y + float(move[2])
        size = float(node.get("font-size", size))
        anchor = node.get("text-anchor", anchor)
        if node.tag == f"{NS}text":
            word = "".join(node.itertext())
            wide = len(word) * size * LETTER
            at, base = x + float(node.get("x", 0)), y + float(node.get("y", 0))
            left = at - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            found[word, at, base] = (left, left + wide, base - 0.75 * size, base + 0.2 * size)
        for child in node:
            walk(child, x, y, size, anchor)

    walk(root(picture), 0, 0, 12, "start")
    return found


def outside(picture: Svg) -> list[str]:
    _, _, width, height = map(float, root(picture).get("viewBox", "").split())
    return [
        key[0]
        for key, (left, right, top, bottom) in label_boxes(picture).items()
        if left < -0.5 or right > width + 0.5 or top < -0.5 or bottom > height + 0.5
    ]


def overlapping(picture: Svg) -> list[tuple[str, str]]:
    def meet(a: Box, b: Box) -> bool:
        return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]

    boxes = label_boxes(picture)
    return [(a[0], b[0]) for a, b in combinations(boxes, 2) if meet(boxes[a], boxes[b])]


# ---- any picture


@pytest.mark.parametrize("name", EXAMPLES)
def test_picture_is_an_image_with_a_title_and_a_description(name: str) -> None:
    node = root(EXAMPLES[name])
    assert node.tag == f"{NS}svg"
    assert node.get("role") == "img"
    ids = [child.get("id") for child in node if child.tag in (f"{NS}title", f"{NS}desc")]
    assert (node.get("aria-labelledby") or "").split() == ids
    described = node.find(f"{NS}desc")
    assert described is not None
    assert described.text


@pytest.mark.parametrize("name", EXAMPLES)
def test_labels_stay_inside_and_apart(name: str) -> None:
    assert outside(EXAMPLES[name]) == []
    assert overlapping(EXAMPLES[name]) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_picture_follows_the_page(name: str) -> None:
    """Ink is the page's; nothing is loaded; on one line the next begins, for Markdown's sake."""
    text = str(EXAMPLES[name])
    for node in root(EXAMPLES[name]).iter(f"{NS}text"):
        assert node.get("fill") in ("currentColor", "#111", None)
    assert "max-width:100%" in text
    assert not re.search(r"(href|src|url)\b", text)
    assert "\n\n" not in text
    assert EXAMPLES[name]._repr_svg_() == text


def test_pictures_on_one_page_share_no_identifier() -> None:
    found = [i for picture in EXAMPLES.values() for i in re.findall(r' id="(\w+)"', str(picture))]
    assert len(found) == len(set(found)) == 2 * len(EXAMPLES)


def test_figure_is_shown_short_in_a_session() -> None:
    assert len(repr(EXAMPLES["bars"])) < 100


@given(title=names, description=names)
def test_any_title_is_escaped(title: str, description: str) -> None:
    ElementTree.fromstring(str(drawing(title, description, 10, [])))


# ---- colours


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", sorted({*COLOURS.values(), *(c for _, c in STEPS)}))
def test_dark_figures_can_be_read_on_every_fill(colour: str) -> None:
    assert contrast(colour, "#111111") >= 4.5


@pytest.mark.parametrize("page", ["#ffffff", "#14181e"])
@pytest.mark.parametrize("colour", [colour for colour, _ in LINES])
def test_lines_stand_out_on_both_pages(colour: str, page: str) -> None:
    assert contrast(colour, page) >= 2.7


def test_every_term_of_an_estimate_has_a_name_and_a_colour() -> None:
    assert {*TERMS, "sharing", "unseen"} <= TERM_NAMES.keys() & COLOURS.keys()


# ---- bars


def test_breakdown_says_every_name_term_and_total() -> None:
    said = texts(EXAMPLES["bars"])
    for name, terms in BARS.items():
        assert {name, gib(sum(terms.values()))} <= set(said)
        for term, size in terms.items():
            assert size == 0 or term_name(term) in said
            assert size == 0 or f"{name}: {term_name(term)} {gib(size)}" in str(EXAMPLES["bars"])
    assert {"optimizer states", "saved activations", *CARDS} <= set(said)


def test_bars_are_as_long_as_their_bytes() -> None:
    picture = root(breakdown_svg({"a": {"weights": 3 * GIB, "working": 5 * GIB}}))
    weights, working, *_ = picture.iter(f"{NS}rect")
    assert float(weights.get("width", 0)) == pytest.approx(WIDTH * 3 / ticks(8)[-1], abs=0.1)
    assert float(working.get("x", 0)) == pytest.approx(float(weights.get("width", 0)), abs=0.1)


@given(
    bars=st.dictionaries(
        names, st.dictionaries(st.sampled_from([*TERMS, "a_new_term"]), sizes, min_size=1),
        min_size=1, max_size=5,
    ),
    cards=st.dictionaries(names, st.floats(1e9, 1e12), max_size=6),
)  # fmt: skip
def test_any_bars_make_a_picture(
    bars: dict[str, dict[str, float]], cards: dict[str, float]
) -> None:
    picture = breakdown_svg(bars, cards)
    assert outside(picture) == []
    assert overlapping(picture) == []


@pytest.mark.parametrize("bars", [{}, {"a": {"weights": -1.0}}])
def test_bars_that_mean_nothing_are_refused(bars: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match=r"bars|negative"):
        breakdown_svg(bars)


# ---- the map


def test_map_prints_what_fits_and_nothing_else() -> None:
    found = [
        way
        for way in fits(LLAMA, find_gpu("RTX-4090"), lengths=(1024, 4096))
        if way.method == "qlora"
    ]
    rows = {"Llama-2-7B": {way.name: list(way.batches.values()) for way in found}}
    picture = fit_map_svg(rows, ["1,024", "4,096"])
    said = texts(picture)
    for way in found:
        assert way.name in said
        assert [said.count(str(b)) >= 1 for b in way.batches.values()] == [True, True]
    coloured = sum(b > 0 for way in found for b in way.batches.values())
    boxes = [node.get("fill") for node in root(picture).iter(f"{NS}rect")]
    assert len(boxes) == coloured + len(STEPS)


def test_names_of_ways_are_shown_whole() -> None:
    rows = {"m": {name: [1] for _, name, _ in WAYS if name.startswith(("full", "LoRA", "QLoRA"))}}
    assert set(rows["m"]) <= set(texts(fit_map_svg(rows, ["8 GB"])))


def test_large_map_stays_small_enough_for_a_page() -> None:
    rows = {f"model {n}": {f"way {k}": [9, 10, 11, 12, 13, 14] for k in range(5)} for n in range(6)}
    assert len(str(fit_map_svg(rows, ["8", "12", "16", "24", "48", "80"]))) < 40_000


@given(batch=st.integers(0, 4096))
def test_shade_follows_the_steps(batch: int) -> None:
    least = [least for least, _ in STEPS if batch >= least]
    assert shade(batch) == (dict(STEPS)[least[-1]] if least else "none")


def test_map_with_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        fit_map_svg({"m": {"w": [1]}}, ["8 GB", "12 GB"])


@given(group=names, way=names, column=names)
def test_any_names_make_a_map(group: str, way: str, column: str) -> None:
    picture = fit_map_svg({group: {way: [4096, 0]}}, [column, "x"])
    assert outside(picture) == []
    assert all(right <= WIDTH for _, right, _, _ in label_boxes(picture).values())
    assert max(len(text) for text in texts(picture)) <= NAMES


# ---- lines and ranges


def test_line_passes_through_its_points() -> None:
    picture = lines_svg({"a": [(0, 0), (10, 10)]}, "x", "y")
    (line,) = root(picture).iter(f"{NS}polyline")
    (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in line.get("points", "").split())
    assert x1 < x2
    assert y1 > y2


@given(
    points=st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=1, max_size=5),
    name=names,
)
def test_any_points_make_lines(points: list[tuple[float, float]], name: str) -> None:
    assert outside(lines_svg({name: points}, "x", "y", {name: 1.0})) == []


@pytest.mark.parametrize("points", [[], [(-1.0, 2.0)]])
def test_lines_without_points_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="points"):
        lines_svg({"a": points}, "x", "y")


@given(name=names, low=st.floats(1e-6, 1e6), more=st.floats(1, 1e4))
def test_any_range_makes_a_bar(name: str, low: float, more: float) -> None:
    spread = Range(low, low * more, low * more * more)
    picture = ranges_svg({name: spread}, "USD")
    assert outside(picture) == []
    assert overlapping(picture) == []
    bar = next(root(picture).iter(f"{NS}rect"))
    assert -0.1 <= float(bar.get("x", -1)) <= WIDTH


def test_range_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="above zero"):
        ranges_svg({"a": Range(0, 1, 2)}, "USD")


# ---- small parts


@given(most=st.floats(1e-6, 1e12))
def test_ticks_are_few_round_and_reach_the_top(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0
    assert found[-1] >= most * (1 - 1e-6)
    assert 3 <= len(found) <= 7


@given(st.lists(names, min_size=1, max_size=12, unique=True))
def test_legend_breaks_its_lines(entries: list[str]) -> None:
    parts, bottom = legend(dict.fromkeys(entries, "#123456"), 0)
    picture = drawing("t", "d", bottom, parts)
    assert outside(picture) == []
    assert overlapping(picture) == []


@given(st.floats(0, 1e20))
def test_mark_is_short(value: float) -> None:
    assert len(mark(value)) <= 8
    assert len(mark(ticks(value)[-1])) <= 6


def test_amounts_have_no_exponent() -> None:
    assert [amount(n) for n in (0.0123, 1.25, 12.5, 99.7, 1234.5)] == [
        "0.012", "1.2", "12", "100", "1,234",
    ]  # fmt: skip
