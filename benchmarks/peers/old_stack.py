"""Trace one training step under the transformers installed here. JSON in on stdin, out on stdout.

Runs in an environment that benchmarks/old_stack.py makes. Nothing is computed: tensors are fake,
a dispatch mode counts the bytes of live storages as the CUDA allocator would. Two pieces need a
GPU to import and are written again here, as in bitsandbytes 0.43.3 and peft 0.13.2: the 4-bit
linear layer and the LoRA layer around it.
"""

import json
import sys
import weakref
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM

MIB = 1024**2
RANK = 16


class Counter(TorchDispatchMode):
    """Bytes of live storages. `blocks` adds what the caching allocator does not split off."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks, self.live, self.now, self.peak = blocks, {}, 0, 0

    def size(self, storage):
        size = -(-storage.nbytes() // 512) * 512
        segment = -(-size // (2 * MIB)) * 2 * MIB  # what cudaMalloc is asked for above 10 MiB
        # A rest of at most 1 MiB stays in the block and counts as allocated.
        return segment if self.blocks and size > 10 * MIB and segment - size <= MIB else size

    def add(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata in self.live:
            return
        self.live[storage._cdata] = self.size(storage)
        self.now += self.live[storage._cdata]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, storage._cdata)

    def drop(self, key):
        self.now -= self.live.pop(key, 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


class MatMul4Bit(torch.autograd.Function):
    """bitsandbytes 0.43.3: dequantises the whole weight in forward and again in backward."""

    @staticmethod
    def forward(ctx, x, n_out, n_in):
        ctx.shape = (n_out, n_in)
        weight = torch.empty(n_out, n_in, dtype=torch.bfloat16, device=x.device)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        weight = torch.empty(*ctx.shape, dtype=torch.bfloat16, device=grad.device)
        return torch.matmul(grad, weight.to(grad.dtype)), None, None


class Linear4Bit(nn.Module):
    """bitsandbytes 0.43.3: a first input of fp32 or bf16 decides the compute type."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        count = self.in_features * self.out_features
        byte = {"dtype": torch.uint8, "device": "meta"}
        self.weight = nn.Parameter(torch.empty(count // 2, 1, **byte), requires_grad=False)
        self.absmax = nn.Parameter(torch.empty(count // 64, **byte), requires_grad=False)
        nested = torch.empty(count // 16384, device="meta")
        self.nested = nn.Parameter(nested, requires_grad=False)

    def forward(self, x):
        return MatMul4Bit.apply(x, self.out_features, self.in_features).to(x.dtype)


class Lora(nn.Module):
    """peft 0.13.2: fp32 adapters; under autocast the input of a 4-bit layer is not cast."""

    def __init__(self, base, dropout, autocast):
        super().__init__()
        self.base_layer, self.autocast = base, autocast
        self.lora_A = nn.Linear(base.in_features, RANK, bias=False, device="meta")
        self.lora_B = nn.Linear(RANK, base.out_features, bias=False, device="meta")
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):
        quantised = isinstance(self.base_layer, Linear4Bit)
        result = self.base_layer(x)
        kept = result.dtype
        if quantised:
            result = result.clone()
        if not quantised or not self.autocast:
            x = x.to(self.lora_A.weight.dtype)
        extra = self.lora_B(self.lora_A(self.dropout(x))) * 1.0
        if quantised:
            return result + (extra if self.autocast else extra.to(kept))
        return (result + extra).to(kept)


def replace(model, wanted, make):
    """Put make(child) where wanted(name, child) holds."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if wanted(name, child):
                setattr(module, name, make(child))


def build(case, layers):
    """The model on meta: quantised, prepared and with adapters as the case says."""
    config = AutoConfig.for_model(**case["config"])
    config.num_hidden_layers, config.use_cache = layers, False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, torch_dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    if case["quantised"]:
        replace(model, lambda n, m: isinstance(m, nn.Linear) and n != "lm_head", Linear4Bit)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if case["prepared"] != "none" and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    if case["prepared"] == "trl":  # TRL then casts embeddings and head back
        for name, parameter in model.named_parameters():
            if "lm_head" in name or "embed_tokens" in name:
                parameter.data = parameter.data.bfloat16()
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    make = lambda m: Lora(m, case["dropout"], case["autocast"])  # noqa: E731
    replace(model, lambda n, _: n in targets, make)
    model.train()
    if case["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    return model


def flash(query, key, value, scale):
    """FlashAttention as CUDA runs it; transformers casts fp32 to 16 bits first."""
    if query.dtype == torch.float32:
        query, key, value = (t.bfloat16() for t in (query, key, value))
    call = torch.ops.aten._scaled_dot_product_flash_attention
    return call(query, key, value, 0.0, True, scale=scale)[0]


def math(query, key, value, scale):
    """The kernel that SDPA falls back to for fp32 with fewer key heads."""
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.zeros(length, length).masked_fill_(allowed.logical_not(), -1e9)
    scores = torch.matmul(query * scale**0.5, (key * scale**0.5).transpose(-2, -1))
    scores.add_(bias)
    return torch.matmul(torch.softmax(scores, -1), value)


def patch(case):
    """What depends on data or on CUDA."""
    kernel = math if case["attention"] == "math" else flash

    def attention(_module, query, key, value, _mask, scaling=None, **_other):
        return kernel(query, key, value, scaling).transpose(1, 2).contiguous(), None

    def sdpa(query, key, value, scale=None, **_other):
        return kernel(query, key, value, scale or query.shape[-1] ** -0.5)

    def dropout(x, p=0.5, training=True, inplace=False):  # noqa: ARG001
        return torch.native_dropout(x, p, training)[0] if p and training else x

    F.dropout = dropout
    F.scaled_dot_product_attention = sdpa  # transformers 4.45
    kind = case["config"]["model_type"]
    name = f"transformers.models.{kind}.modeling_{kind}"
    modeling = __import__(name, fromlist=["_"])
    if hasattr(modeling, "create_causal_mask"):
        modeling.create_causal_mask = lambda *_args, **_other: None
    else:
        base = getattr(modeling, kind.capitalize() + "Model")
        base._update_causal_mask = lambda *_args, **_other: None
    if hasattr(modeling, "ALL_ATTENTION_FUNCTIONS"):
        modeling.ALL_ATTENTION_FUNCTIONS["sdpa"] = attention


def to_fake(model):
    """Fake tensors in place of the meta ones; tied weights stay tied."""
    made = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is not None and id(old) not in made:
                new = torch.empty(old.shape, dtype=old.dtype)
                made[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad)
            if old is not None:
                module._parameters[name] = made[id(old)]
        for name, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


def step(case, layers):
    """(forward, backward) peaks of one step with `layers` layers."""
    model, counter = build(case, layers), Counter(case["blocks"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(model)
        with counter:
            for tensor in (*model.parameters(), *model.buffers()):
                counter.add(tensor)
            trained = [p for p in model.parameters() if p.requires_grad]
            states = [torch.zeros_like(p) for p in trained for _ in range(2)]
            if case["optimizer_8bit"]:
                states = [torch.zeros(p.shape, dtype=torch.uint8) for p in states]
            ids = torch.ones(case["batch"], case["seq_len"], dtype=torch.long)
            counter.peak = counter.now
            with torch.autocast("cpu", torch.bfloat16, enabled=case["autocast"]):
                outputs = model(input_ids=ids, labels=ids)
            forward, loss = counter.peak, outputs.loss
            if not case["held"]:
                del outputs
            counter.peak = counter.now
            loss.backward()
            del states
            return forward, counter.peak


def main():
    answers = {}
    for case in json.load(sys.stdin):
        patch(case)
        two, three = step(case, 2), step(case, 3)
        more = case["layers"] - 3
        forward, backward = (b + (b - a) * more for a, b in zip(two, three, strict=True))
        answers[case["id"]] = {"forward": forward, "backward": backward}
    versions = {name: version(name) for name in ("torch", "transformers")}
    json.dump({"versions": versions, "answers": answers}, sys.stdout)


main()
