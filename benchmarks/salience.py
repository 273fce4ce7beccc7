"""How often each method traces a wrong answer to the example that was planted to cause it.

Into prompts with four examples a fifth is planted: the word that is asked, with the wrong label.
Kept are prompts that are answered right without it and with its label otherwise. A method finds the
cause when that example speaks most for the wrong answer. Beside it, captum's time and ours for
integrated gradients and ablation on the same prompts, in one run.

Run: python benchmarks/salience.py [--count 200] [--record]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from cookbook.figures import mean
from cookbook.lab.tasks import draw_items
from cookbook.models import LanguageModel, load
from cookbook.prompt_parts import ComposedPrompt, from_sections
from cookbook.salience import METHODS, explain, values_of

Cause = tuple[ComposedPrompt, str, str, str]  # prompt, wrong answer, right answer, true cause


def planted(prompt: str, wrong: str, place: int) -> tuple[ComposedPrompt, str]:
    *shots, asked = prompt.split("Input: ")[1:]
    shots.insert(place, f"{asked.splitlines()[0]}\nLabel: {wrong}\n")
    named = [(f"example {n}", f"Input: {shot}") for n, shot in enumerate(shots, 1)]
    return from_sections([*named, ("question", f"Input: {asked}")]), f"example {place + 1}"


def causes(lm: LanguageModel, count: int, seed: int) -> list[Cause]:
    """Prompts whose wrong answer is due to one known example."""
    rng = random.Random(seed)
    drawn = []
    for item in draw_items("labels_4", 9 * count // 2, seed):
        labels = {x[7:] for x in item.prompt.split("\n") if x.startswith("Label: ")}
        if len(labels) == 2:
            (wrong,) = labels - {item.answer}
            drawn.append((item, wrong, *planted(item.prompt, wrong, rng.randrange(5))))
    clean = lm.generate([item.prompt for item, *_ in drawn], max_new_tokens=12, stop=["\n"])
    said = lm.generate([p.text for _, _, p, _ in drawn], max_new_tokens=12, stop=["\n"])
    return [
        (prompt, f" {wrong}", f" {item.answer}", name)
        for (item, wrong, prompt, name), a, b in zip(drawn, clean, said, strict=True)
        if a.text.strip() == item.answer and b.text.strip() == wrong
    ][:count]


def traced(lm: LanguageModel, found: list[Cause], steps: int) -> dict[str, Any]:
    """The share that each method traces, how many methods agree, and seconds a prompt."""
    hits: dict[str, list[float]] = {name: [] for name in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    errors = []
    for prompt, wrong, right, name in found:
        for method in METHODS:
            begun = time.perf_counter()
            one = explain(lm, prompt, wrong, contrast=right, method=method, grain="example",
                          steps=steps)  # fmt: skip
            seconds[method] += time.perf_counter() - begun
            hits[method].append(float(one.cause().name == name))
            errors += [one.completeness_error] if one.completeness_error is not None else []
    agreed = Counter(int(sum(row)) for row in zip(*hits.values(), strict=True))
    shares = {name: mean(name, values) for name, values in hits.items()}
    shares["any"] = mean("any", [max(row) for row in zip(*hits.values(), strict=True)])
    return {
        "prompts": len(found), "steps": steps,
        "traced": {name: [f.value, f.low, f.high] for name, f in shares.items()},
        "methods_that_agreed": {str(n): agreed[n] for n in range(len(METHODS) + 1)},
        "completeness_error_median": sorted(errors)[len(errors) // 2],
        "seconds_a_prompt": {name: s / len(found) for name, s in seconds.items()},
    }  # fmt: skip


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def beside_captum(lm: LanguageModel, found: list[Cause], steps: int) -> dict[str, float]:
    """Our seconds as a share of captum's, alternating on the same prompts."""
    import torch
    from captum.attr import FeatureAblation, IntegratedGradients

    from cookbook.generation import encode_pair

    ours, theirs = {"integrated-gradients": 0.0, "ablation": 0.0}, dict[str, float]()
    theirs = dict.fromkeys(ours, 0.0)
    table = lm.model.get_input_embeddings()
    for prompt, wrong, _, _ in found:
        before, after = encode_pair(lm.tokenizer, prompt.text, wrong)
        given, rest = (table(torch.tensor([ids])).detach() for ids in (before, after))
        wanted = torch.tensor(after)

        def value(some: Any, rest: Any = rest, wanted: Any = wanted, cut: int = len(before)) -> Any:
            read = torch.cat([some, rest.expand(len(some), -1, -1)], 1)
            logits = lm.model(inputs_embeds=read, use_cache=False).logits[:, cut - 1 : -1]
            index = wanted.expand(len(some), -1)[..., None]
            return logits.log_softmax(-1).gather(-1, index).sum((1, 2))

        def gone(there: Any, prompt: ComposedPrompt = prompt, wrong: str = wrong) -> Any:
            texts = ["".join(prompt.text[p.start : p.end] for p, kept in
                             zip(prompt.sections, row, strict=True) if kept)
                     for row in there.tolist()]  # fmt: skip
            return torch.tensor(values_of(lm, texts, wrong))

        walk, mask = IntegratedGradients(value), FeatureAblation(gone)
        ours["integrated-gradients"] += timed(lambda p=prompt, w=wrong: explain(
            lm, p, w, method="integrated-gradients", steps=steps, baseline="zero"))  # fmt: skip
        theirs["integrated-gradients"] += timed(lambda g=given, i=walk: i.attribute(
            g, n_steps=steps, method="gausslegendre", internal_batch_size=16))  # fmt: skip
        ours["ablation"] += timed(lambda p=prompt, w=wrong: explain(lm, p, w))
        ones = torch.ones(1, len(prompt.sections))
        theirs["ablation"] += timed(lambda m=mask, o=ones: m.attribute(o, baselines=0.0))
    return {name: ours[name] / theirs[name] for name in ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="prompts with a planted cause")
    parser.add_argument("--timed", type=int, default=10, help="of them beside captum")
    parser.add_argument("--steps", type=int, default=64, help="of integrated gradients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to results/salience.json")
    options = parser.parse_args()
    lm = load("lab", device="cpu")
    found = causes(lm, options.count, options.seed)
    figures = traced(lm, found, options.steps)
    figures["ours_over_captum_seconds"] = beside_captum(lm, found[: options.timed], options.steps)
    print(json.dumps(figures, indent=1))
    if options.record:
        from results import append

        append("salience", {"seed": options.seed, **figures}, ("torch", "captum", "transformers"))


if __name__ == "__main__":
    main()
