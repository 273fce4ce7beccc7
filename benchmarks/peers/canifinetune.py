"""Ask canifinetune. Reads {"rows": [...]} on stdin, writes {"answers": {id: ...}} on stdout.

Runs in an environment of its own (benchmarks/peers.py makes it) and imports nothing of ours.
`allocated` is the sum of its physical components, `reserved` its own "process torch peak
reserved": the total less the safety margin.
"""

import json
import logging
import sys
from importlib.metadata import version

from canifinetune.configuration import resolve_targets
from canifinetune.estimator.memory import EstimateRequest, estimate
from canifinetune.estimator.model_metadata import KNOWN_MODELS, fetch_metadata

GIB = 1024**3
OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-fused": "adamw_torch_fused",
    "adamw-8bit": "adamw_8bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
    "sgd": "sgd",
}
ATTENTION = {"flash": "flash_attention_2", "efficient": "sdpa", "eager": "eager"}
PARTS = (
    "static_model_gb",
    "quantization_overhead_gb",
    "gradients_gb",
    "optimizer_gb",
    "activations_gb",
    "logits_gb",
)


def ask(row):
    run = row["run"]
    if run["gpus"] > 1:
        return {"refused": "several GPUs"}
    # Its own table has exact counts; any other model is read from config.json.
    model = row["model"] if row["model"] in KNOWN_MODELS else row["config_dir"]
    fields = {
        "model_id": model,
        "use_network": False,
        "method": run["method"],
        "seq_len": run["seq_len"],
        "micro_batch_size": run["batch"],
        "base_dtype": "bf16" if run["weights_dtype"] == "bf16" else "fp32",
        "quantization": "nf4_double_quant" if run.get("double_quant") else "nf4",
        "optimizer": OPTIMIZERS[run["optimizer"]],
        "gradient_checkpointing": run["gradient_checkpointing"],
        "attention_implementation": row["attn_implementation"] or ATTENTION[run["attention"]],
        "gpu_vram_gb": row["gpu_memory_bytes"] / GIB,
    }
    if run["method"] != "full":
        fields |= {"lora_rank": run["lora_rank"], "lora_dropout": run["lora_dropout"]}
    request = EstimateRequest(**fields)
    if run["method"] != "full":
        family = fetch_metadata(model, use_network=False).family
        scopes = ("attention", "all_linear", "conservative")
        matching = [
            scope
            for scope in scopes
            if set(resolve_targets(request.model_copy(update={"lora_target_scope": scope}), family))
            == set(run["lora_targets"])
        ]
        if not matching:
            return {"refused": "no target scope for these modules"}
        request = request.model_copy(update={"lora_target_scope": matching[0]})
    memory = estimate(request).memory
    return {
        "allocated": round(sum(getattr(memory, part) for part in PARTS) * GIB),
        "reserved": round((memory.total_estimated_gb - memory.safety_margin_gb) * GIB),
    }


def main():
    logging.disable(logging.CRITICAL)
    answers = {}
    for row in json.load(sys.stdin)["rows"]:
        try:
            answers[row["id"]] = ask(row)
        except (ValueError, KeyError) as error:
            answers[row["id"]] = {"refused": str(error).splitlines()[0][:120]}
    versions = {"canifinetune": version("canifinetune")}
    json.dump({"versions": versions, "answers": answers}, sys.stdout)


main()
