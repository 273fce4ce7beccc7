"""Published rule-of-thumb tables. Reads {"rows": [...]} on stdin, writes {"answers": ...}.

They say how much GPU memory a size of model and a method want, whatever the length and the
batch, so one figure answers for every metric of a row. GB are 10^9 bytes.
"""

import json
import sys

GB = 10**9
BILLION = 10**9
# Sizes (in 10^9 parameters) that a column covers, then full in 16 bits, LoRA, QLoRA in 4 bits.
LLAMA_FACTORY = {  # hiyouga/LLaMA-Factory README.md "Hardware Requirement" @ff6d4d12
    (6, 9): (60, 16, 6),
    (13, 15): (120, 32, 12),
    (30, 34): (300, 64, 24),
    (65, 72): (600, 160, 48),
}
PER_BILLION = (8, 2, 0.5)  # the same table's last column, for any other size
AXOLOTL = {  # axolotl docs/choosing_method.qmd @547376c3, middle of each range
    (0.9, 4): (28, 10, 7),
    (6, 9): (70, 20, 12),
    (13, 15): (120, 34, 18),
    (30, 34): (240, 72, 28),
    (65, 73): (480, 160, 44),
}
METHODS = {"full": 0, "lora": 1, "qlora": 2}


def column(table, parameters):
    billions = parameters / BILLION
    return next((v for (low, high), v in table.items() if low <= billions <= high), None)


def ask(row, name):
    if row["run"]["gpus"] > 1:
        return {"refused": "one figure for the whole machine"}
    values = column(LLAMA_FACTORY if name == "llama-factory" else AXOLOTL, row["parameters"])
    index = METHODS[row["run"]["method"]]
    if values:
        figure = values[index] * GB
    elif name == "llama-factory":
        figure = PER_BILLION[index] * row["parameters"]
    else:
        return {"refused": "no line for this size"}
    return dict.fromkeys(("allocated", "reserved", "device"), round(figure))


def main():
    name = sys.argv[1]
    answers = {row["id"]: ask(row, name) for row in json.load(sys.stdin)["rows"]}
    json.dump({"versions": {}, "answers": answers}, sys.stdout)


main()
