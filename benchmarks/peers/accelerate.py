"""Ask `accelerate estimate-memory`. Reads {"rows": [...]} on stdin, writes {"answers": ...}.

The command verifies the model on the hub first; here the same two functions that it calls
afterwards get an empty model built from config.json. It knows full training with Adam only, and
its figure is the largest of four parts. float16 stands for 16-bit weights.
"""

import json
import sys
from importlib.metadata import version

from accelerate import init_empty_weights
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes
from transformers import AutoConfig, AutoModelForCausalLM


def weights_bytes(folder):
    """What the command calls total_size: bytes of an empty fp32 model."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return calculate_maximum_sizes(model)[0]


def main():
    sizes = {}
    answers = {}
    for row in json.load(sys.stdin)["rows"]:
        run = row["run"]
        if run["method"] != "full":
            answers[row["id"]] = {"refused": "knows full training only"}
            continue
        if run["gpus"] > 1:
            answers[row["id"]] = {"refused": "several GPUs"}
            continue
        folder = row["config_dir"]
        sizes.setdefault(folder, weights_bytes(folder))
        dtype = "float16" if run["weights_dtype"] == "bf16" else "float32"
        figure = max(estimate_training_usage(sizes[folder], dtype).values())
        answers[row["id"]] = {"allocated": figure}
    versions = {name: version(name) for name in ("accelerate", "transformers", "torch")}
    json.dump({"versions": versions, "answers": answers}, sys.stdout)


main()
