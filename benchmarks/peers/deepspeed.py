"""Ask DeepSpeed's estimators. Reads {"rows": [...]} on stdin, writes {"answers": ...}.

They give the model states of ZeRO training without offload: ZeRO-2 on one GPU, ZeRO-3 for the
rows that shard parameters. They count every parameter as trained, so adapters are not for them.
"""

import contextlib
import json
import sys
from importlib.metadata import version

with contextlib.redirect_stdout(sys.stderr):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs


def ask(row):
    run = row["run"]
    if run["method"] != "full":
        return {"refused": "counts every parameter as trained"}
    if run["gpus"] == 1:
        _, gpu = estimate_zero2_model_states_mem_needs(row["parameters"], 1, 1, cpu_offload=False)
    else:
        _, gpu, _ = estimate_zero3_model_states_mem_needs(
            row["parameters"],
            row["largest_layer_parameters"],
            run["gpus"],
            1,
            cpu_offload=False,
            cpu_offload_params=False,
        )
    return {"allocated": gpu}


def main():
    answers = {row["id"]: ask(row) for row in json.load(sys.stdin)["rows"]}
    json.dump({"versions": {"deepspeed": version("deepspeed")}, "answers": answers}, sys.stdout)


main()
