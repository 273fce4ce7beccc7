"""The doctor: recorded outputs of nvidia-smi, versions, verdicts for machines we don't have."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from advisor.doctor import (
    doctor_text,
    examine,
    own_requirements,
    packages,
    parse_requirement,
    satisfies,
    works,
)
from advisor.hardware import cards, find_card
from advisor.machine import MIB, Gpu, GpuReport, gpu_report, parse_gpu, parse_report

FAILED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that"
    " the latest NVIDIA driver is installed and running.\n\n"
)
RECORDED = [
    (
        "one card", 0, "NVIDIA GeForce RTX 4090, 24564 MiB, 550.54.15, 8.9\n",
        [Gpu("NVIDIA GeForce RTX 4090", 24564 * MIB, "550.54.15", "8.9")], "",
    ),
    (
        "four cards", 0, "NVIDIA A100-SXM4-80GB, 81920 MiB, 535.129.03, 8.0\n" * 4,
        [Gpu("NVIDIA A100-SXM4-80GB", 81920 * MIB, "535.129.03", "8.0")] * 4, "",
    ),
    (
        "driver error", 9, FAILED, [],
        "nvidia-smi failed with code 9: NVIDIA-SMI has failed because it couldn't communicate with"
        " the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.",
    ),
    ("no devices", 6, "No devices were found\n", [],
     "nvidia-smi failed with code 6: No devices were found"),
    (
        "unified memory", 0, "NVIDIA GB10, [N/A], 580.95.05, 12.1\n",
        [Gpu("NVIDIA GB10", None, "580.95.05", "12.1")], "",
    ),
    (
        "not permitted", 0, "NVIDIA H100 80GB HBM3, [Insufficient Permissions], 535.104.05, 9.0\n",
        [Gpu("NVIDIA H100 80GB HBM3", None, "535.104.05", "9.0")], "",
    ),
    ("old driver", 0, "Tesla K80, 11441 MiB, 418.87.01\n",
     [Gpu("Tesla K80", 11441 * MIB, "418.87.01", None)], ""),
    ("all unknown", 0, "Graphics Device, [N/A], [N/A], [N/A]\n",
     [Gpu("Graphics Device", None, None, None)], ""),
    ("windows line ends", 0, "Tesla T4, 15360 MiB, 535.1, 7.5\r\n",
     [Gpu("Tesla T4", 15360 * MIB, "535.1", "7.5")], ""),
    ("silence", 0, "", [], ""),
    ("words", 0, "a, b, c, d\n", [], "1 line(s) of nvidia-smi could not be read"),
    ("nonsense", 0, "<html>\n\n", [], "1 line(s) of nvidia-smi could not be read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "out", "gpus", "note"), [r[1:] for r in RECORDED], ids=[r[0] for r in RECORDED]
)
def test_recorded(code: int, out: str, gpus: list[Gpu], note: str) -> None:
    assert parse_report(code, out, "") == GpuReport(tuple(gpus), note)


def test_standard_error_is_quoted_too() -> None:
    said = parse_report(2, "", 'Field "x" is not a valid field to query.\n').note
    assert said == 'nvidia-smi failed with code 2: Field "x" is not a valid field to query.'


@given(st.text(max_size=200))
def test_any_line_is_a_card_or_none(line: str) -> None:
    gpu = parse_gpu(line)
    assert gpu is None or gpu.name
    parse_report(0, line, line)


def fake_tool(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")


def test_the_tool_is_asked_again_without_a_field_it_does_not_know(
    tmp_path: Path, monkeypatch
) -> None:
    fake_tool(
        tmp_path,
        "case $1 in *compute_cap*)"
        " echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;; esac\n"
        'echo "Tesla K80, 11441 MiB, 418.87.01"',
        monkeypatch,
    )
    assert gpu_report() == GpuReport((Gpu("Tesla K80", 11441 * MIB, "418.87.01", None),))


def test_a_tool_that_hangs(tmp_path: Path, monkeypatch) -> None:
    fake_tool(tmp_path, "exec sleep 20", monkeypatch)
    monkeypatch.setattr("advisor.machine.SECONDS", 0.2)
    assert gpu_report() == GpuReport((), "nvidia-smi gave no answer in 0.2 seconds")


def test_a_tool_that_cannot_run(tmp_path: Path, monkeypatch) -> None:
    fake_tool(tmp_path, "", monkeypatch)
    (tmp_path / "nvidia-smi").write_bytes(b"\x00\x01not a program")
    assert gpu_report().note.startswith("nvidia-smi ")
    assert not gpu_report().gpus


def test_no_tool(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_report() == GpuReport((), "no nvidia-smi on this machine")


VERSIONS = [
    "0",
    "1.16",
    "1.16.3",
    "1.17.0",
    "2.8.9",
    "2.9",
    "2.9.0",
    "2.13.1",
    "2.14",
    "3.3",
    "3.3.26",
    "10.0",
]
SPECS = [
    ">=2.9,<2.14",
    "<2.14,>=2.9",
    "==1.16.*",
    "~=3.3",
    "~=2.9.0",
    ">=2",
    "<=2.9",
    "==2.9",
    ">1,<10",
    "",
]


@pytest.mark.parametrize("wanted", SPECS)
@pytest.mark.parametrize("version", VERSIONS)
def test_versions_as_packaging_judges_them(version: str, wanted: str) -> None:
    assert satisfies(version, wanted) == SpecifierSet(wanted).contains(version)


def test_every_requirement_of_ours_is_read() -> None:
    lines = own_requirements()
    parsed = [parse_requirement(line) for line in lines]
    assert None not in parsed
    extras = {row.extra for row in parsed if row}
    assert extras == {"core", "cookbook", "docs", "dev", "scale", "all"}
    assert all(row.wanted for row in parsed if row and row.extra != "all")


def test_a_missing_package_is_missing() -> None:
    (row,) = packages(['surely-not-a-package>=1; extra == "cookbook"'])
    assert (row["installed"], row["ok"]) == (None, False)


def machine(**changes: object) -> dict[str, object]:
    plain = {
        "system": "Linux", "architecture": "x86_64", "cpu_cores": 8, "memory_bytes": 2**34,
        "free_disk_bytes": 2**38, "gpus": [], "gpu_note": "no nvidia-smi on this machine",
        "apple_mps": False,
    }  # fmt: skip
    return {**plain, **changes}


def verdicts(**changes: object) -> dict[str, str]:
    return {row["what"]: row["verdict"] for row in works([], machine(**changes))}


def test_verdicts() -> None:
    assert verdicts() == {
        "advice": "yes",
        "recipes on the CPU": "yes",
        "training 1B and larger": "no",
    }
    t4 = asdict(Gpu("Tesla T4", 15360 * MIB, "535", "7.5"))
    assert verdicts(gpus=[t4, t4])["QLoRA on Tesla T4 (one of 2)"] == "yes"
    assert verdicts(apple_mps=True)["LoRA on the Apple GPU"] == "untested"
    assert (
        verdicts(gpus=[asdict(Gpu("GeForce GTX 970", 4096 * MIB, None, "5.2"))])[
            "QLoRA on GeForce GTX 970"
        ]
        == "no"
    )


def test_next_commands_name_cards_of_the_catalogue() -> None:
    for card in cards().values():
        row = works([], machine(gpus=[asdict(Gpu(card.name, 2**34, None, None))]))[2]
        named = row["next"].split("hardware.gpu=")[1].split()[0]
        assert find_card(named) == card


def test_examination_reads_as_text() -> None:
    text = doctor_text(examine())
    assert text.startswith("advisor  ")
    assert "What would work:\n  advice: yes." in text
    for row in RECORDED:
        here = machine(gpus=[asdict(gpu) for gpu in row[3]], gpu_note=row[4])
        assert "What would work:" in doctor_text(
            {**examine(), "machine": here, "works": works([], here)}
        )
