"""What the training of a small image model from nothing takes."""

from __future__ import annotations

from dataclasses import dataclass

from backends.finetune.from_nothing.sizes import SIZES
from backends.params import Params, setting

STEP = 16  # pixels: the side is a multiple, so that every level of every size has whole pixels


@dataclass(frozen=True)
class DiffusionOptions(Params):
    """Where it is trained."""

    device: str = setting(
        "auto", "Device", choices=(("auto", "Automatic"), ("cuda", "GPU"), ("cpu", "CPU"))
    )


@dataclass(frozen=True)
class DiffusionParams(Params):
    """One training from nothing, of one kind.

    A text-conditional model learns in two stages, first to pack pictures into latents (`vae_…`),
    then to make latents from words; the other kinds have the second stage alone.
    """

    kind: str = setting(
        "text", "Kind",
        choices=(("text", "Pictures from words"), ("unconditional", "Pictures of one sort (DDPM)"),
                 ("gan", "Pictures of one sort (DCGAN)")),
    )  # fmt: skip
    size: str = setting(
        "small", "Size of the model", choices=tuple((s.name, s.label) for s in SIZES.values())
    )
    side: int = setting(
        128, "Side of a picture", min=16, max=512, step=STEP, unit="pixels",
        help="Pictures are filled and cropped to a square of this side.",
    )  # fmt: skip
    steps: int = setting(
        24_000, "Steps", min=1, max=10_000_000, help="Of the model that makes the pictures."
    )
    batch: int = setting(384, "Batch", min=1, max=8192, help="Pictures in a step.")
    learning_rate: float = setting(
        5e-4, "Learning rate", min=0.0, max=1.0, step=1e-5, help="Its peak: it falls as a cosine."
    )
    vae_steps: int = setting(
        6000, "Steps of the autoencoder", min=1, max=10_000_000, help="Only for words."
    )
    vae_batch: int = setting(64, "Batch of the autoencoder", min=1, max=8192, advanced=True)
    vae_learning_rate: float = setting(
        1e-3, "Learning rate of the autoencoder", min=0.0, max=1.0, step=1e-5, advanced=True
    )
    text_learning_rate: float = setting(
        3e-4, "Learning rate of the text encoder", min=0.0, max=1.0, step=1e-5, advanced=True
    )
    warmup_steps: int = setting(500, "Warm-up", min=0, max=1_000_000, unit="steps", advanced=True)
    weight_decay: float = setting(0.0, "Weight decay", min=0.0, max=1.0, step=0.01, advanced=True)
    ema: float = setting(
        0.9995, "Averaging (EMA)", min=0.0, max=0.99999, step=0.0001, advanced=True,
        help="The model that is kept is an average over the last steps. 0: the last step's own.",
    )  # fmt: skip
    caption_dropout: float = setting(
        0.1, "Captions left out", min=0.0, max=1.0, step=0.05, advanced=True,
        help="How often it learns without words, which the guidance scale needs.",
    )  # fmt: skip
    from_noise: float = setting(
        0.1, "Shown as noise alone", min=0.0, max=1.0, step=0.05, advanced=True,
        help="How much of a batch has no trace of the picture, so that colours come from the "
        "words.",
    )  # fmt: skip
    accumulation: int = setting(
        1, "Accumulation", min=1, max=4096, advanced=True,
        help="In how many parts a batch is computed. More takes less memory.",
    )  # fmt: skip
    precision: str = setting(
        "auto", "Precision", advanced=True,
        choices=(("auto", "Automatic (bf16 where the card has it)"), ("bf16", "bf16"),
                 ("fp32", "fp32")),
    )  # fmt: skip
    compile: str = setting(
        "auto", "Compile", advanced=True,
        choices=(("auto", "Automatic (where it pays)"), ("on", "On"), ("off", "Off")),
        help="Takes minutes at each start, then steps are quicker. Only on a GPU.",
    )  # fmt: skip
    seed: int = setting(42, "Seed", min=0, max=2**31 - 1, advanced=True)
    save_steps: int = setting(
        500, "Snapshot every", min=1, max=1_000_000, unit="steps", advanced=True
    )
    keep: int = setting(
        3, "Snapshots kept", min=2, max=1000, advanced=True, help="Older ones are deleted."
    )
    prompts: tuple[str, ...] = setting(
        (), "Pinned captions", lines=3, advanced=True,
        help="Drawn at each snapshot, with the same seeds. Empty: some captions of the dataset.",
    )  # fmt: skip
    samples: int = setting(
        16, "Samples", min=1, max=64, advanced=True, help="Pictures drawn at each snapshot."
    )
    sample_steps: int = setting(20, "Steps of a sample", min=1, max=1000, advanced=True)
    guidance: float = setting(
        2.0, "Guidance scale of the samples", min=1.0, max=30.0, step=0.5, advanced=True
    )
    minutes: float = setting(
        0.0, "Time limit", min=0.0, max=100_000, unit="minutes", advanced=True,
        help="Pauses then, with a checkpoint to go on from. 0: none.",
    )  # fmt: skip
    folder: str = setting("", "Folder", hidden=True)
    dataset: str = setting("", "Dataset", hidden=True)
    resume: bool = setting(True, "Go on from the newest checkpoint", hidden=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % STEP:
            raise ValueError(
                f"The side is {self.side} pixels. Choose a multiple of {STEP}, such as "
                f"{max(STEP, round(self.side / STEP) * STEP)}."
            )
        if len(self.prompts) > 64:
            raise ValueError(f"{len(self.prompts)} captions are pinned. Keep 64 at most.")
        if self.kind == "gan" and self.side & (self.side - 1):
            raise ValueError(
                f"The side is {self.side} pixels. A DCGAN doubles it at each level: choose 32, 64, "
                "128 or 256."
            )
