"""Have a trainer's own reader read files that we wrote for it; runs in that trainer's environment.

python trainer_checks.py NAME FILE...      JSON: file -> "accepted", or what the reader said
python trainer_checks.py NAME --fields     JSON: the keys that the reader knows

Nothing is trained and no model is loaded. Imports nothing of ours: only the trainer is there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# LLaMA-Factory refuses other versions of what only training needs.
os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _yaml(path: str) -> Any:
    import yaml

    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def _pretend_a_card_with_bfloat16() -> None:
    """The files are for a GPU; a machine without one would refuse bf16 before it reads on."""
    import transformers.training_args as arguments

    for name in ("is_torch_bf16_gpu_available", "is_torch_bf16_available"):
        if hasattr(arguments, name):
            setattr(arguments, name, lambda: True)


# ---- TRL: the parser of `trl sft` and `trl dpo`, unknown keys refused


def _trl_parser(kind: str) -> Any:
    from trl import (
        DatasetMixtureConfig,
        DPOConfig,
        ModelConfig,
        ScriptArguments,
        SFTConfig,
        TrlParser,
    )

    config = DPOConfig if kind == "dpo" else SFTConfig
    return TrlParser((ScriptArguments, config, ModelConfig, DatasetMixtureConfig))


def check_trl(path: str) -> None:
    _pretend_a_card_with_bfloat16()
    kind = "dpo" if "beta" in _yaml(path) else "sft"
    parsed = _trl_parser(kind).parse_args_and_config(
        ["--config", path], fail_with_unknown_args=True
    )
    from trl import get_peft_config, get_quantization_config

    get_peft_config(parsed[2])
    if parsed[2].load_in_4bit:
        get_quantization_config(parsed[2])


def fields_trl() -> Any:
    return {kind: sorted(a.dest for a in _trl_parser(kind)._actions) for kind in ("sft", "dpo")}


# ---- LLaMA-Factory: get_train_args, on a machine that says it has a card with bfloat16


def _no_sound() -> None:
    """Its data package imports torchaudio, which no text needs."""
    import importlib.machinery
    import types

    module = types.ModuleType("torchaudio")
    module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules.setdefault("torchaudio", module)


def check_llamafactory(path: str) -> None:
    _no_sound()
    import llamafactory.hparams.parser as parser
    from llamafactory.data.parser import get_dataset_list

    _pretend_a_card_with_bfloat16()
    parser.is_torch_bf16_gpu_available = lambda: True
    values = _yaml(path)
    _, data, *_ = parser.get_train_args(values)
    (found,) = get_dataset_list(data.dataset, data.dataset_dir)
    if not Path(data.dataset_dir, found.dataset_name).is_file():
        raise ValueError(f"dataset_info.json names {found.dataset_name}, which is not there")
    from llamafactory.data.template import TEMPLATES

    if data.template not in TEMPLATES:
        raise ValueError(f"no template {data.template}")


def fields_llamafactory() -> Any:
    import dataclasses

    _no_sound()
    from llamafactory.data.template import TEMPLATES
    from llamafactory.extras.constants import DEFAULT_TEMPLATE, SUPPORTED_MODELS, DownloadSource
    from llamafactory.hparams import parser

    known = {f.name for part in parser._TRAIN_ARGS for f in dataclasses.fields(part)}
    models = {
        SUPPORTED_MODELS[name][DownloadSource.DEFAULT]: template
        for name, template in DEFAULT_TEMPLATE.items()
        if DownloadSource.DEFAULT in SUPPORTED_MODELS[name]
    }
    return {"keys": sorted(known), "templates": sorted(TEMPLATES), "models": models}


# ---- axolotl: the schema behind `axolotl train`, plus the keys that it would ignore in silence


def _axolotl_config(values: dict[str, Any]) -> None:
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities

    card = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 1, "n_node": 1,
            "compute_capability": "sm_89"}  # fmt: skip
    AxolotlConfigWCapabilities(
        **values, capabilities=card, env_capabilities={"torch_version": "2.11.0"}
    )


def check_axolotl(path: str) -> None:
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import DPODataset, SFTDataset

    values = _yaml(path)
    ignored = sorted(set(values) - set(AxolotlInputConfig.model_fields))
    kind = DPODataset if values.get("rl") == "dpo" else SFTDataset
    extra = {"field"} if kind is SFTDataset else set()  # read by prompt_strategies/completion.py
    for row in values["datasets"]:
        ignored += sorted(set(row) - set(kind.model_fields) - extra)
    if ignored:
        raise ValueError(f"keys that axolotl would ignore: {', '.join(ignored)}")
    values["datasets"] = [kind(**row) for row in values["datasets"]]
    _axolotl_config(values)


def fields_axolotl() -> Any:
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import DPODataset, SFTDataset

    parts = {"keys": AxolotlInputConfig, "sft_dataset": SFTDataset, "dpo_dataset": DPODataset}
    return {name: sorted(part.model_fields) for name, part in parts.items()}


# ---- unsloth: the model behind `unsloth train --config`, which forbids unknown keys


def check_unsloth(path: str) -> None:
    from unsloth_cli.config import load_config

    load_config(Path(path))


def fields_unsloth() -> Any:
    from unsloth_cli.config import Config

    return {name: sorted(getattr(field.annotation, "model_fields", {}))
            for name, field in Config.model_fields.items()}  # fmt: skip


# ---- litgpt: the parser of its command line, up to making the data module


def _litgpt_parser() -> Any:
    from jsonargparse import CLI, capture_parser
    from litgpt.__main__ import PARSER_DATA

    return capture_parser(lambda: CLI(PARSER_DATA))


def check_litgpt(path: str) -> None:
    command = "finetune_lora" if "lora_r" in _yaml(path) else "finetune_full"
    parser = _litgpt_parser()
    config = parser.parse_args([command, "--config", path])
    parser.instantiate_classes(config)
    if config[command].get("train", {}).get("lr_warmup_steps") in (None, 0):
        raise ValueError("lr_warmup_steps must be at least 1: the scheduler divides by it")


def fields_litgpt() -> Any:
    import dataclasses
    import inspect

    from litgpt.args import TrainArgs
    from litgpt.data import JSON
    from litgpt.finetune.full import setup as full
    from litgpt.finetune.lora import setup as lora
    from litgpt.prompts import prompt_styles

    return {
        "finetune_lora": sorted(inspect.signature(lora).parameters),
        "finetune_full": sorted(inspect.signature(full).parameters),
        "train": sorted(f.name for f in dataclasses.fields(TrainArgs)),
        "data": sorted(f.name for f in dataclasses.fields(JSON) if f.init),
        "prompt_styles": sorted(prompt_styles),
    }


CHECKS: dict[str, tuple[Callable[[str], None], Callable[[], Any]]] = {
    "trl": (check_trl, fields_trl),
    "llamafactory": (check_llamafactory, fields_llamafactory),
    "axolotl": (check_axolotl, fields_axolotl),
    "unsloth": (check_unsloth, fields_unsloth),
    "litgpt": (check_litgpt, fields_litgpt),
}


def said(check: Callable[[str], None], path: str) -> str:
    """What the reader says of a file: accepted, or its own words."""
    here = os.getcwd()
    os.chdir(Path(path).parent)
    try:
        check(Path(path).name)
    except SystemExit as error:
        return f"exit {error.code}"
    except Exception as error:  # noqa: BLE001 - whatever a foreign reader raises is its answer
        return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
    finally:
        os.chdir(here)
    return "accepted"


def main(name: str, words: list[str]) -> None:
    """Check the files, or list the fields."""
    out, sys.stdout = sys.stdout, sys.stderr  # what the trainers print is not our answer
    check, fields = CHECKS[name]
    answer = fields() if words == ["--fields"] else {path: said(check, path) for path in words}
    print(json.dumps(answer), file=out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
