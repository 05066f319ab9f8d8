"""A training step of which nothing is computed: fake tensors, and a count of what would be held.

Every operation of transformers, PEFT and TRL's loss runs and makes tensors without memory, so that
a 13B model takes a second. What is counted is live storages: weights and gradients that were there
are not.
"""

from __future__ import annotations

import weakref
from typing import Any

import peft
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers.masking_utils import AttentionMaskInterface
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head


class Held(TorchDispatchMode):
    """Bytes of all storages made since it was entered, now and at most."""

    def __init__(self, there: list[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: Any = weakref.WeakKeyDictionary({t.untyped_storage(): 0 for t in there})

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.seen:
                    self.seen[storage] = size = storage.nbytes()
                    self.now += size
                    weakref.finalize(storage, self.free, size)
                    self.most = max(self.most, self.now)
        return out

    def free(self, size: int) -> None:
        self.now -= size


def flash(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
    """The kernel that a GPU takes; on a CPU PyTorch would choose one that keeps other things."""
    three = (t.to(torch.bfloat16) for t in (query, key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention(*three, 0.0, True, False)[0]
    return out.transpose(1, 2).contiguous(), None


class Packed(torch.autograd.Function):
    """A frozen matrix in 4 bits: nothing is kept, and it is unpacked on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Any, rows: int, columns: int) -> Any:
        ctx.rows, ctx.columns = rows, columns
        return x.new_empty(*x.shape[:-1], rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        weight = torch.empty(ctx.rows, ctx.columns, dtype=torch.bfloat16)
        return torch.matmul(gradients[0].to(torch.bfloat16), weight), None, None


def peak(config: Any, batch: int, length: int, checkpointing: bool, packed: bool) -> int:
    """Bytes that a step of LoRA (rank 16, all linear layers) holds at most, as TRL takes it.

    LoRA is in fp32, over a packed base in bf16.
    """
    transformers.AttentionInterface.register("dry", flash)
    AttentionMaskInterface.register("dry", lambda *args, **more: None)
    # A GPU's kernels work on the scores and sum into fp32 in place; their stand-ins would copy.
    for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
        setattr(chunked_logprob, name, lambda *args, **more: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _with_lora(config, packed).train()
        if packed:
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
        if checkpointing:
            how = {"use_reentrant": False}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
            model.enable_input_require_grads()
        ids = torch.zeros(batch, length, dtype=torch.long)
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        there = [*model.parameters(), *model.buffers(), ids, *(p.grad for p in trained)]
        with Held(there) as held:
            with torch.autocast("cpu", torch.bfloat16):
                made = model(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True)
                loss = -made.log_probs.sum()
            loss.backward()
    return held.most


def _with_lora(config: Any, packed: bool) -> Any:
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="dry")
    finally:
        torch.set_default_dtype(torch.float32)
    moved, torch.nn.Module.to = torch.nn.Module.to, lambda self, *args, **more: self  # type: ignore
    try:  # fake tensors cannot be moved, and LoRA is to stay in fp32
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
        model = peft.get_peft_model(model, lora, autocast_adapter_dtype=False)
    finally:
        torch.nn.Module.to = moved  # type: ignore[method-assign]
    for module in model.modules() if packed else ():
        if isinstance(module, peft.tuners.lora.Linear):
            _pack(module)
    return model


def _pack(module: Any) -> None:
    """Like `peft.tuners.lora.bnb.Linear4bit.forward` under autocast."""
    base = module.base_layer
    rows, columns = base.out_features, base.in_features
    down, up = module.lora_A["default"], module.lora_B["default"]

    def forward(x: Any) -> Any:
        return Packed.apply(x, rows, columns).clone() + up(down(x)) * 2.0

    module.forward = forward
