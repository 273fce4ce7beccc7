"""Every row of advisor/data/gpus.csv and gpu_prices.csv, and how cards are found."""

from __future__ import annotations

import csv
import re
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.gpus import Gpu, Price, find_gpu, gpus, price_rows, prices, process_bytes, usable_bytes
from advisor.hardware import cards, find_card

DATA = Path(__file__).parents[1] / "advisor" / "data"
GPUS = gpus()
URL = r"https://[^\s/]+\.[^\s]+"
TERMS = {"on-demand", "spot", "community"}
# Compute capability of the generations (developer.nvidia.com/cuda-gpus); "" is AMD.
CAPABILITIES = {"", "6.0", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"}

each_gpu = pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
each_price = pytest.mark.parametrize(
    "row", price_rows(), ids=[f"{r.gpu_id}-{r.provider}-{r.term}" for r in price_rows()]
)


@pytest.mark.parametrize("name", ["gpus.csv", "gpu_prices.csv"])
def test_file_is_a_clean_table(name: str) -> None:
    text = (DATA / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\r" not in text
    rows = list(csv.reader(text.splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len({tuple(row) for row in rows}) == len(rows)
    assert all(field == field.strip() for row in rows for field in row)


def test_the_catalogue_is_large_enough() -> None:
    assert len(GPUS) >= 44
    assert len(price_rows()) >= 35
    assert len({row.gpu_id for row in price_rows()}) >= 20
    with open(DATA / "gpus.csv", encoding="utf-8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert len(ids) == len(set(ids))


@each_gpu
def test_gpu_row(gpu: Gpu) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", gpu.id)
    assert re.match(r"(NVIDIA|AMD) ", gpu.name)
    assert 4 <= gpu.memory_gb <= 300
    assert 100 <= gpu.bandwidth_gb_s <= 10_000
    assert 10 <= gpu.fp16_tflops <= 3_000
    assert gpu.compute_capability in CAPABILITIES
    for url in (gpu.source, gpu.specs_source):
        assert re.fullmatch(URL, url)
    assert date(2020, 1, 1) < date.fromisoformat(gpu.as_of) <= date(2026, 11, 21)


@each_gpu
def test_driver_memory_has_a_source_and_is_near_the_nominal(gpu: Gpu) -> None:
    if gpu.driver_mib is None:
        assert gpu.driver_source == ""
    else:
        assert re.fullmatch(URL, gpu.driver_source)
        assert 0.93 <= gpu.driver_mib / (gpu.memory_gb * 1024) <= 1.001


@each_gpu
def test_bfloat16_came_with_ampere(gpu: Gpu) -> None:
    old = gpu.compute_capability != "" and float(gpu.compute_capability) < 8
    assert (gpu.bf16_tflops is None) == old
    assert gpu.bf16_tflops in (None, gpu.fp16_tflops)


@each_gpu
def test_memory_shrinks_from_box_to_driver_to_process(gpu: Gpu) -> None:
    low, typical, high = process_bytes(gpu)
    assert 0 < low < typical < high < usable_bytes(gpu) <= 1.001 * gpu.memory_gb * 2**30


# Dense rates with fp32 accumulation; datasheets that print rates "with sparsity" are halved.
@pytest.mark.parametrize(
    ("name", "tflops"),
    [("H100-80GB", 1979 / 2), ("H100-PCIe", 1513 / 2), ("A100-80GB", 624 / 2), ("L4", 242 / 2)],
)
def test_published_rates_are_halved_for_sparsity(name: str, tflops: float) -> None:
    assert GPUS[name].bf16_tflops == pytest.approx(tflops, rel=2e-3)


@each_gpu
def test_every_spelling_finds_the_card(gpu: Gpu) -> None:
    for name in (gpu.id, gpu.name, gpu.name.lower(), gpu.name.replace(" ", ""), f" {gpu.name} "):
        assert find_gpu(name) == gpu


@each_gpu
def test_the_older_reader_knows_the_same_cards(gpu: Gpu) -> None:
    card = find_card(gpu.name)
    assert card is not None
    assert (card.id, card.memory_gb) == (gpu.id, gpu.memory_gb)
    assert list(cards()) == list(GPUS)


@pytest.mark.parametrize(
    ("reported", "meant"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("Tesla P100-PCIE-16GB", "P100-16GB"),
        ("NVIDIA GeForce RTX 3060", "RTX-3060-12GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX-PRO-6000-Blackwell"),
        ("Quadro RTX 6000", "Quadro-RTX-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("4080 super", "RTX-4080-SUPER"),
        ("mi300x", "MI300X"),
    ],
)
def test_names_that_drivers_report(reported: str, meant: str) -> None:
    assert find_gpu(reported).id == meant


@pytest.mark.parametrize("name", ["A100", "V100", "RTX 4060 Ti", "H100", "H100-"])
def test_an_ambiguous_name_lists_its_cards(name: str) -> None:
    with pytest.raises(AdvisorError, match="may be several cards") as caught:
        find_gpu(name)
    assert caught.value.exit_code == 2
    assert len(caught.value.hint.split(", ")) >= 2


@pytest.mark.parametrize("name", ["RTX 4095", "", "   ", "gpu", "\x00", "H" * 10_000, "TPU v4"])
def test_an_unknown_name_is_one_clear_error(name: str) -> None:
    with pytest.raises(AdvisorError, match="no such card") as caught:
        find_gpu(name)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


@given(st.text(max_size=30))
def test_any_text_gives_a_card_or_an_error(name: str) -> None:
    with suppress(AdvisorError):
        assert find_gpu(name).id in GPUS


@each_price
def test_price_row(row: Price) -> None:
    assert row.gpu_id in GPUS
    assert row.provider
    assert 0.05 <= row.usd_per_hour <= 20
    assert row.term in TERMS
    assert re.fullmatch(URL, row.source)
    assert date(2025, 1, 1) <= date.fromisoformat(row.as_of) <= date(2026, 11, 21)


@each_gpu
def test_prices_are_a_range_of_recent_rows(gpu: Gpu) -> None:
    found = prices(gpu)
    rows = [row for row in price_rows() if row.gpu_id == gpu.id]
    if found is None:
        assert rows == []
        return
    assert found.low <= found.typical <= found.high
    assert {found.low, found.high} <= {row.usd_per_hour for row in rows}
    newest = date.fromisoformat(found.as_of)
    assert newest == max(date.fromisoformat(row.as_of) for row in rows)
    assert all((newest - date.fromisoformat(row.as_of)).days <= 366 for row in found.rows)
    assert found.to_dict()["usd_per_hour"]["typical"] == found.typical


def test_memory_is_counted_in_mebibytes_or_a_stated_share() -> None:
    assert usable_bytes(GPUS["RTX-4090"]) == 24564 * 2**20
    assert GPUS["GH200"].driver_mib is None
    assert usable_bytes(GPUS["GH200"]) == int(0.93 * 96 * 2**30)


def test_spot_prices_count_for_the_lowest_and_not_for_the_typical() -> None:
    found = prices(GPUS["RTX-3090"])
    assert found is not None
    assert {row.term for row in found.rows} == {"spot", "community"}
    assert found.low == min(row.usd_per_hour for row in found.rows if row.term == "spot")
    assert found.typical == min(row.usd_per_hour for row in found.rows if row.term != "spot")
