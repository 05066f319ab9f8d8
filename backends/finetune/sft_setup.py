"""What a training is set up with: the base, LoRA, SFTConfig; and the folder of what was learned."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import ModelRef, Refused
from backends.events import Event
from backends.finetune.sft_params import SftOptions, SftParams

if TYPE_CHECKING:
    from backends.finetune.sft import Sft
    from backends.finetune.sft_rows import Encoder, Rows
    from backends.finetune.sft_trainer import Watch

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit",
              "paged_adamw_8bit": "paged_adamw_8bit"}  # fmt: skip


def choose(options: SftOptions) -> tuple[str, str]:
    """Device and quantisation. Raises Refused without a GPU where one is asked for."""
    import torch

    has_gpu = torch.cuda.is_available()
    device = options.device if options.device != "auto" else "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu:
        raise Refused(
            "PyTorch finds no NVIDIA GPU on this computer.",
            "Choose the CPU, or run `python launch.py doctor` to see what is missing.",
        )
    if options.quantisation != "auto":
        return device, options.quantisation
    return device, "nf4" if device == "cuda" else "fp32"


def check(params: SftParams, quantisation: str) -> None:
    """Raises Refused for what cannot be trained together."""
    if params.adapter == "full" and quantisation in ("nf4", "int8", "fp16"):
        raise Refused(
            f"All weights cannot be trained while they are kept as {quantisation}.",
            "Choose bf16 or fp32 for the base, or train an adapter.",
        )
    if not params.folder or not params.dataset:
        raise Refused("This training has no folder or no dataset.", "Start it as a job.")


def watch(job: Sft, params: SftParams, say: Callable[[Event], None], encoder: Encoder) -> Watch:
    from backends.finetune.sft_trainer import Watch

    return Watch(
        say, job.cancelled, job.hurried, Path(params.folder), params.keep, params.prompts,
        encoder.prompt, params.prompt_tokens, params.early_stop, params.micro_batch,
        params.accumulation,
    )  # fmt: skip


def name_of_base(ref: ModelRef) -> str:
    """What an adapter says it is for: a name, never a path of this computer."""
    return ref.name if ref.kind == "hub" else f"{ref.kind}:{ref.name}"


def with_adapter(model: Any, params: SftParams, ref: ModelRef) -> Any:
    """The base with a fresh adapter on all its linear layers; the base itself to train it whole."""
    if params.adapter == "full":
        return model
    import peft
    import transformers

    transformers.set_seed(params.seed)  # the adapter begins with random numbers
    config = peft.LoraConfig(
        r=params.lora_rank, lora_alpha=params.lora_alpha, lora_dropout=params.lora_dropout,
        target_modules="all-linear", task_type="CAUSAL_LM", bias="none",
        use_rslora=params.adapter == "rslora", use_dora=params.adapter == "dora",
    )  # fmt: skip
    if getattr(model, "is_loaded_in_8bit", False):
        # LLM.int8 computes in fp16, which would be too narrow for what passes between the layers.
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    wrapped = peft.get_peft_model(model, config)
    config.base_model_name_or_path = name_of_base(ref)
    config.revision = ref.revision or None
    return wrapped


def trainer(job: Sft, params: SftParams, rows: Rows, watch: Watch) -> Any:
    """A trainer over the rows, the validation's set aside by the seed."""
    from backends.finetune.sft_trainer import make

    learn, measure = rows.split(params.validation, params.seed)
    return make(
        model=job.model, args=config(job, params, watch, len(measure)), train_dataset=learn,
        eval_dataset=measure if len(measure) else None, processing_class=job.tokenizer, watch=watch,
    )  # fmt: skip


def config(job: Sft, params: SftParams, watch: Watch, held: int) -> Any:
    import torch
    import trl

    on_gpu = job.device == "cuda"
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    mixed = on_gpu and job.quantisation != "fp32"
    wanted = params.checkpointing == "on" or (params.checkpointing == "auto" and on_gpu)
    return trl.SFTConfig(
        output_dir=str(Path(params.folder) / "checkpoints"),
        max_steps=params.max_steps or -1,
        num_train_epochs=params.epochs,
        per_device_train_batch_size=watch.micro_batch,
        per_device_eval_batch_size=watch.micro_batch,
        gradient_accumulation_steps=watch.accumulation,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.scheduler,
        warmup_steps=params.warmup_steps,
        weight_decay=params.weight_decay,
        optim=OPTIMIZERS[params.optimizer],
        gradient_checkpointing=wanted,
        max_length=params.max_length,
        packing=params.packing,
        seed=params.seed,
        data_seed=params.seed,
        save_strategy="steps",
        save_steps=params.save_steps,
        eval_strategy="steps" if held else "no",
        eval_steps=params.save_steps if held else None,
        prediction_loss_only=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        bf16=mixed and has_bf16,
        fp16=mixed and not has_bf16,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


def save(job: Sft, params: SftParams, watch: Watch, sha256: str) -> Path:
    """The adapter (or the whole model) with a card, in the job's folder; whole or not at all."""
    from backends.finetune.sft_trainer import save_weights

    made = Path(params.folder) / ("model" if params.adapter == "full" else "adapter")
    staged = made.with_name(f".{made.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(made, ignore_errors=True)
    save_weights(job.model, staged)
    if params.adapter == "full":
        job.tokenizer.save_pretrained(staged)
    (staged / "README.md").write_text(card(job, params, watch, sha256), "utf-8")
    os.replace(staged, made)
    return made


def validated(said: dict[str, Any]) -> str:
    """A line of the card on the set to validate with, without where it lay."""
    if not said:
        return ""
    known = f", sha256 `{said['sha256']}`" if said.get("sha256") else ""
    return f"- Validated with: {Path(str(said.get('path'))).name}{known}\n"


def card(job: Sft, params: SftParams, watch: Watch, sha256: str) -> str:
    """The model card."""
    hidden = {"folder", "dataset", "data", "resume", "prompts", "validation_set"}
    settings = {k: v for k, v in vars(params).items() if k not in hidden}
    lines = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    full = params.adapter == "full"
    library, title = (
        ("transformers", f"{job.ref}, trained further")
        if full
        else ("peft", f"An adapter for {job.ref}")
    )
    return (
        f"---\nlibrary_name: {library}\ntags: [werkbank, sft]\n---\n\n"
        f"# {title}\n\n"
        f"Trained by Werkbank with TRL and PEFT.\n\n"
        f"- Base: `{job.ref}`, kept as {job.quantisation}\n"
        f"- Dataset: {Path(params.dataset).name}, sha256 `{sha256}`\n"
        f"{validated(params.validation_set)}"
        f"- Final loss: {watch.last_loss:.4f}\n"
        f"- Effective batch: {watch.micro_batch * watch.accumulation}\n\n"
        f"| setting | value |\n|---|---|\n{lines}\n"
    )
