"""The stage that learns to make latents from words: an UNet and a text encoder, together.

The parts are the stock ones, so that StableDiffusionPipeline runs them; the choices are for a few
thousand captions and ten million weights:

- The words reach every level twice: token by token through cross-attention, and all of them pooled
  (`addition_embed_type="text"`) beside the time, as scale and shift of every residual block.
- The schedule ends in noise alone (zero terminal SNR), where v-prediction is the picture itself:
  what is drawn there, colours above all, comes from the words. A share of each batch is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from backends.finetune.from_nothing import words
from backends.finetune.from_nothing.autoencoder import as_bytes, autoencoder, chosen, encoded
from backends.finetune.from_nothing.learner import Learner, Schedule
from backends.finetune.from_nothing.stages import Bench, Descent, Drawn, mixed

TIMES = 1000  # steps of the noise's schedule
SHIFT = 1.5  # how far the drawn times lean towards noise; 1: not at all
FRAMES = 8  # of the film of one sample


class DenoiserStage(Descent):
    """Latents [n, 4, h, w] of deviation 1, and the captions' tokens."""

    name = "unet"
    label = "learning to draw"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        params, size = bench.params, bench.size
        self.steps, self.batch = params.steps, params.batch
        self.vae = bench.placed(autoencoder(bench))
        self.vae.load_state_dict(bench.finished["vae"])
        self.vae.requires_grad_(False).eval()
        self.latents = encoded(self.vae, bench.pixels(), bench.device)
        if not bench.words:
            bench.words = words.files(bench.pictures.captions, size.vocabulary)
        self.tokenizer = words.opened(bench.words, size.length)
        self.tokens = words.numbers_of(self.tokenizer, bench.pictures.captions).to(bench.device)
        self.silence = words.numbers_of(self.tokenizer, [""]).to(bench.device)
        self.text = bench.built(lambda: text_encoder(bench, self.tokenizer), "text_encoder")
        self.unet = bench.built(lambda: unet(bench), "unet")
        self.learner = Learner(
            {"unet": self.unet, "text_encoder": self.text},
            {"unet": params.learning_rate, "text_encoder": params.text_learning_rate},
            Schedule(self.steps, min(params.warmup_steps, self.steps // 10)), params.ema,
            weight_decay=params.weight_decay,
        )  # fmt: skip
        kept = scheduler().alphas_cumprod.to(bench.device)
        self.signal, self.noise = kept.sqrt(), (1.0 - kept).sqrt()
        self.interpret()

    def compile(self) -> None:
        import torch

        self.predict = torch.compile(self.unet)

    def interpret(self) -> None:
        self.predict = self.unet

    def gathered(self, rows: Any, dice: Any) -> dict[str, Any]:
        import torch

        params, device, count = self.bench.params, self.bench.device, len(rows)
        rows = rows.to(device)
        latents = self.latents[rows]
        noise = torch.randn(latents.shape, generator=dice, device=device)
        even = torch.rand(count, generator=dice, device=device)
        blank = torch.rand(count, generator=dice, device=device) < params.caption_dropout
        times = (SHIFT * even / (1.0 + (SHIFT - 1.0) * even) * TIMES).long().clamp_max(TIMES - 1)
        # Spread over the batch, so that every part of it has its share.
        marks = (torch.arange(count + 1, device=device) * params.from_noise).long()
        times = torch.where(marks[1:] > marks[:-1], TIMES - 1, times)
        tokens = torch.where(blank[:, None], self.silence, self.tokens[rows])
        return {"latents": latents, "noise": noise, "times": times, "tokens": tokens}

    def losses(self, batch: dict[str, Any]) -> dict[str, Any]:
        latents, noise, times = batch["latents"], batch["noise"], batch["times"]
        signal = self.signal[times].view(-1, 1, 1, 1)
        rest = self.noise[times].view(-1, 1, 1, 1)
        said = self.text(batch["tokens"]).last_hidden_state
        made = self.predict(signal * latents + rest * noise, times, said, return_dict=False)[0]
        errors = (made.float() - (signal * noise - rest * latents)).square().mean(dim=(1, 2, 3))
        last = (times == TIMES - 1).float()
        # What the words alone tell of a picture: 1 at first, 0 for all of it.
        alone = (errors.detach() * last).sum() / last.sum().clamp_min(1.0)
        return {"loss": errors.mean(), "loss_from_noise": alone}

    def finish(self) -> dict[str, dict[str, Any]]:
        return {name: {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
                for name, module in self.learner.average.items()}  # fmt: skip

    def drawn(self, look: Callable[[], None]) -> Drawn:
        """The pinned captions through the pipeline that will be kept."""
        import torch

        params, average = self.bench.params, self.learner.average
        pipeline = pipeline_of(self.vae, average["text_encoder"], self.tokenizer, average["unet"])
        asked = pinned(params.prompts, self.bench.pictures.captions, params.samples, params.seed)
        first: list[Any] = []

        def each(pipe: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            look()
            first.append(values["latents"][:1].float())
            return {}

        with quiet(), self.bench.autocast():
            made = pipeline(
                asked, num_inference_steps=params.sample_steps, guidance_scale=params.guidance,
                height=params.side, width=params.side, output_type="pt",
                generator=dices(len(asked), params.seed), callback_on_step_end=each,
            ).images  # fmt: skip
        with torch.no_grad():
            film = self.vae.decode(torch.cat(spaced(first, FRAMES))).sample
        return Drawn(as_bytes(made.float() * 2.0 - 1.0), asked, as_bytes(film))


def unet(bench: Bench) -> Any:
    """UNet2DConditionModel of the size's channels, with random weights."""
    import diffusers

    size, levels = bench.size, len(bench.size.unet)
    return diffusers.UNet2DConditionModel(
        sample_size=bench.params.side // size.shrink, in_channels=size.latents,
        out_channels=size.latents, block_out_channels=size.unet, layers_per_block=size.layers,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels, cross_attention_dim=size.width,
        attention_head_dim=size.heads, norm_num_groups=size.groups,
        resnet_time_scale_shift="scale_shift", addition_embed_type="text",
        addition_embed_type_num_heads=size.heads,
    )  # fmt: skip


def text_encoder(bench: Bench, tokenizer: Any) -> Any:
    """CLIPTextModel of the size's width, with random weights."""
    import transformers

    size = bench.size
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=size.width, intermediate_size=4 * size.width,
        num_hidden_layers=size.text_layers, num_attention_heads=size.heads,
        max_position_embeddings=size.length, projection_dim=size.width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return transformers.CLIPTextModel(config)


def scheduler() -> Any:
    """DDIM that begins at noise alone: zero terminal SNR, v-prediction, trailing steps
    (Lin et al., "Common Diffusion Noise Schedules and Sample Steps Are Flawed", 2024)."""
    import diffusers

    return diffusers.DDIMScheduler(
        num_train_timesteps=TIMES, beta_start=0.00085, beta_end=0.012, steps_offset=1,
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True,
    )  # fmt: skip


def pipeline_of(vae: Any, text: Any, tokenizer: Any, unet_: Any) -> Any:
    """A StableDiffusionPipeline of these parts."""
    import diffusers

    with quiet():
        made = diffusers.StableDiffusionPipeline(
            vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet_, scheduler=scheduler(),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        made.set_progress_bar_config(disable=True)
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers says of every pipeline that has no safety checker."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def pinned(prompts: tuple[str, ...], captions: list[str], count: int, seed: int) -> list[str]:
    """The captions to draw: those asked for, else `count` of the dataset's, drawn by the seed."""
    if prompts:
        return list(prompts)
    return [captions[row] for row in chosen(len(captions), count, seed).tolist()]


def dices(count: int, seed: int) -> list[Any]:
    """A generator for each sample, on the CPU: the same noise on every device."""
    import torch

    return [torch.Generator().manual_seed(mixed(seed, number)) for number in range(count)]


def spaced(values: list[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly, the last included."""
    if len(values) <= count:
        return values
    return [values[round(n * (len(values) - 1) / (count - 1))] for n in range(count)]
