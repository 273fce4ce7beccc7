"""Ask fitcheck-llm. Reads {"rows": [...]} on stdin, writes {"answers": {id: ...}} on stdout.

Its "tensors" tier (everything but the overhead) is what it compares with allocated memory, its
"process" total is what the driver sees. It fetches config.json and the parameter count from the
hub; here both are handed to the functions it then calls, so that its own checks still apply.
"""

import json
import sys
from importlib.metadata import version

from fitcheck.config_parser import (
    ModelConfig,
    _count_params,
    _parse_fields,
    _reconcile_param_count,
    _reject_unsupported,
)
from fitcheck.estimator import TrainingConfig, estimate
from fitcheck.gpu_db import get_gpu

MIB = 1024**2
CARDS = {"NVIDIA A100-SXM4-80GB": "a100-80", "Tesla T4": "t4"}
OPTIMIZERS = {"adamw": "adamw", "adamw-fused": "adamw", "sgd": "sgd"}


def model_of(row):
    raw = row["config"]
    _reject_unsupported(raw, row["model"])
    fields = _parse_fields(raw)
    count = _reconcile_param_count(row["model"], row["parameters"], _count_params(fields))
    return ModelConfig(name=row["model"], num_params=count, **vars(fields))


def ask(row):
    run = row["run"]
    if run["gpus"] > 1:
        return {"refused": "several GPUs"}
    full = run["method"] == "full"
    quantised = run["method"] == "qlora"
    report = estimate(
        model_of(row),
        TrainingConfig(
            precision="bf16" if run["weights_dtype"] == "bf16" else "fp32",
            quantization="nf4" if quantised else "none",
            double_quant=bool(run.get("double_quant")) if quantised else False,
            optimizer=OPTIMIZERS.get(run["optimizer"], "adam8bit"),
            # States have the type of what is trained: 16-bit weights or fp32 adapters.
            optimizer_dtype="bf16" if full and run["weights_dtype"] == "bf16" else "fp32",
            batch_size=run["batch"],
            seq_len=run["seq_len"],
            lora_rank=None if full else run["lora_rank"],
            lora_targets=[] if full else list(run["lora_targets"]),
            grad_checkpoint=run["gradient_checkpointing"],
            flash_attn=(row["attn_implementation"] or run["attention"]) != "eager",
        ),
        get_gpu(CARDS[row["gpu"]])
        if row["gpu"] in CARDS
        else get_gpu(row["gpu"], vram_mib=int(row["gpu_memory_bytes"] / MIB)),
    )
    return {
        "allocated": round((report.total_mib - report.overhead_mib) * MIB),
        "device": round(report.total_mib * MIB),
    }


def main():
    answers = {}
    for row in json.load(sys.stdin)["rows"]:
        try:
            answers[row["id"]] = ask(row)
        except ValueError as error:
            answers[row["id"]] = {"refused": str(error).splitlines()[0][:120]}
    versions = {"fitcheck-llm": version("fitcheck-llm")}
    json.dump({"versions": versions, "answers": answers}, sys.stdout)


main()
