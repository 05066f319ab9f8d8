"""What a supervised fine-tuning takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backends.params import Params, setting


@dataclass(frozen=True)
class SftOptions(Params):
    """How the base is opened."""

    quantisation: str = setting(
        "auto", "Quantisation of the base",
        choices=(
            ("auto", "Automatic (NF4 on a GPU, fp32 on a CPU)"), ("nf4", "NF4: 4 bits"),
            ("int8", "INT8: 8 bits"), ("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32"),
        ),
        help="How exactly the base is kept while an adapter on it learns.",
    )  # fmt: skip
    device: str = setting(
        "auto", "Device", choices=(("auto", "Automatic"), ("cuda", "GPU"), ("cpu", "CPU"))
    )


@dataclass(frozen=True)
class SftParams(Params):
    """One training. `max_steps` 0: as many as `epochs` have."""

    epochs: float = setting(
        3.0, "Epochs", min=0.01, max=1000, step=0.5, help="How often each row is seen."
    )
    learning_rate: float = setting(
        2e-4, "Learning rate", min=0.0, max=1.0, step=1e-5,
        help="How far each step goes. Too high and it forgets what it knew.",
    )  # fmt: skip
    lora_rank: int = setting(16, "LoRA rank", min=1, max=512, help="How much the adapter can hold.")
    max_length: int = setting(
        1024, "Length", min=8, max=131_072, unit="tokens", help="Longer rows are cut here."
    )
    max_steps: int = setting(
        0, "Steps", min=0, max=10_000_000, advanced=True, help="0: as many as the epochs have."
    )
    adapter: str = setting(
        "lora", "What is trained", advanced=True,
        choices=(("lora", "LoRA"), ("rslora", "rsLoRA"), ("dora", "DoRA"),
                 ("full", "All weights")),
    )  # fmt: skip
    lora_alpha: int = setting(
        32, "LoRA alpha", min=1, max=4096, advanced=True,
        help="How strongly the adapter counts: alpha divided by the rank.",
    )  # fmt: skip
    lora_dropout: float = setting(0.0, "LoRA dropout", min=0.0, max=0.9, step=0.05, advanced=True)
    micro_batch: int = setting(
        1, "Micro-batch", min=1, max=1024, advanced=True, help="Rows in memory at once."
    )
    accumulation: int = setting(
        8, "Accumulation", min=1, max=4096, advanced=True,
        help="Micro-batches of one step. The effective batch is both multiplied.",
    )  # fmt: skip
    packing: bool = setting(
        False, "Packing", advanced=True,
        help="Short rows share a sequence, without seeing each other. Quicker.",
    )  # fmt: skip
    answers_only: bool = setting(
        True, "Learn the answers only", advanced=True, help="Questions are read, not learned."
    )
    checkpointing: str = setting(
        "auto", "Gradient checkpointing", advanced=True,
        choices=(("auto", "Automatic (on a GPU)"), ("on", "On"), ("off", "Off")),
        help="Less memory, a third slower.",
    )  # fmt: skip
    optimizer: str = setting(
        "adamw", "Optimizer", advanced=True,
        choices=(("adamw", "AdamW"), ("adamw_8bit", "AdamW, 8 bits"),
                 ("paged_adamw_8bit", "AdamW, 8 bits, paged")),
    )  # fmt: skip
    warmup_steps: int = setting(0, "Warm-up", min=0, max=1_000_000, unit="steps", advanced=True)
    scheduler: str = setting(
        "linear", "Scheduler", advanced=True,
        choices=(("linear", "Linear"), ("cosine", "Cosine"), ("constant_with_warmup", "Constant")),
        help="How the learning rate falls.",
    )  # fmt: skip
    weight_decay: float = setting(0.0, "Weight decay", min=0.0, max=1.0, step=0.01, advanced=True)
    seed: int = setting(42, "Seed", min=0, max=2**31 - 1, advanced=True)
    save_steps: int = setting(
        50, "Snapshot every", min=1, max=1_000_000, unit="steps", advanced=True
    )
    keep: int = setting(
        3, "Snapshots kept", min=2, max=1000, advanced=True, help="Older ones are deleted."
    )
    validation: float = setting(
        0.0, "Validation share", min=0.0, max=0.5, step=0.01, advanced=True,
        help="Rows that are not learned, only measured at each snapshot.",
    )  # fmt: skip
    early_stop: int = setting(
        0, "Early stop", min=0, max=1000, advanced=True,
        help="Ends after so many snapshots without a better validation loss. 0: never.",
    )  # fmt: skip
    prompts: tuple[str, ...] = setting(
        (), "Pinned questions", lines=3, advanced=True,
        help="Answered before the training and at each snapshot. One on each line.",
    )  # fmt: skip
    prompt_tokens: int = setting(
        96, "Length of their answers", min=1, max=4096, unit="tokens", advanced=True
    )
    folder: str = setting("", "Folder", hidden=True)
    dataset: str = setting("", "Dataset", hidden=True)
    resume: bool = setting(True, "Go on from the newest checkpoint", hidden=True)
    data: dict[str, Any] = field(
        default_factory=dict,
        metadata={"label": "How the dataset is read", "hidden": True,
                  "help": "Reading, mapping and steps, as `Dataset.as_dict` gives them."},
    )  # fmt: skip

    validation_set: dict[str, Any] = field(
        default_factory=dict,
        metadata={"label": "The set to validate with", "hidden": True,
                  "help": "Its path, sha256, and what `data` has of the other. {}: the share."},
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early_stop and not self.validates:
            raise ValueError(
                "Early stop needs rows to validate with. Choose a validation share above 0."
            )

    @property
    def validates(self) -> bool:
        """Whether rows are measured that are not learned."""
        return bool(self.validation_set or self.validation)

    @property
    def effective_batch(self) -> int:
        return self.micro_batch * self.accumulation
