"""The stage that learns to pack pictures into latents: diffusers' AutoencoderKL, from nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from backends.finetune.from_nothing.learner import Learner, Schedule
from backends.finetune.from_nothing.stages import Bench, Descent, Drawn

KL = 2e-3  # weight of the latents' divergence from a normal distribution, mean of an element
EDGES = 1.0  # weight of the edges' error
SCALES = 3  # at which edges are compared, each half as fine
AT_ONCE = 32  # pictures encoded together, always as many: a sum's order must not change
EMA = 0.999


class AutoencoderStage(Descent):
    """Pictures [-1, 1] to latents and back.

    The loss is the pixels' distance (L1 and L2) and that of their differences to the neighbours at
    three scales, which keeps edges without anybody's pretrained network.
    """

    name = "vae"
    label = "learning to pack pictures"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        params = bench.params
        self.steps, self.batch = params.vae_steps, params.vae_batch
        self.vae = bench.built(lambda: autoencoder(bench), "vae")
        schedule = Schedule(self.steps, min(params.warmup_steps, self.steps // 10))
        self.learner = Learner(
            {"vae": self.vae}, {"vae": params.vae_learning_rate}, schedule, min(EMA, params.ema)
        )
        self.pixels = bench.pixels()
        self.interpret()

    def compile(self) -> None:
        import torch

        self.encode, self.decode = torch.compile(self.vae.encoder), torch.compile(self.vae.decoder)

    def interpret(self) -> None:
        self.encode, self.decode = self.vae.encoder, self.vae.decoder

    def gathered(self, rows: Any, dice: Any) -> dict[str, Any]:
        import torch

        pictures = as_signed(taken(self.pixels, rows, self.bench.device))
        side = pictures.shape[-1] // self.bench.size.shrink
        noise = torch.randn((len(rows), self.bench.size.latents, side, side), generator=dice,
                            device=self.bench.device)  # fmt: skip
        return {"pictures": pictures, "noise": noise}

    def losses(self, batch: dict[str, Any]) -> dict[str, Any]:
        vae, pictures = self.vae, batch["pictures"]
        mean, spread = vae.quant_conv(self.encode(pictures)).float().chunk(2, dim=1)
        spread = spread.clamp(-30.0, 20.0)
        latents = mean + (0.5 * spread).exp() * batch["noise"]
        made = self.decode(vae.post_quant_conv(latents)).float()
        squares = (made - pictures).square().mean()
        kl = 0.5 * (mean.square() + spread.exp() - 1.0 - spread).mean()
        loss = (made - pictures).abs().mean() + squares + EDGES * edges(made - pictures) + KL * kl
        return {"loss": loss, "mse": squares, "kl": kl}

    def finish(self) -> dict[str, dict[str, Any]]:
        """The averaged autoencoder, whose latents have mean 0 and deviation 1 in each channel."""
        vae = copy.deepcopy(self.learner.average["vae"])
        fold(vae, *spread_of(encoded(vae, self.pixels, self.bench.device)))
        return {"vae": {k: v.detach().cpu().clone() for k, v in vae.state_dict().items()}}

    def drawn(self, look: Callable[[], None]) -> Drawn:
        """Some pictures, each above what becomes of it."""
        import torch

        count = min(self.bench.params.samples, len(self.bench.pictures))
        rows = chosen(len(self.bench.pictures), count, self.bench.params.seed)
        vae = self.learner.average["vae"]
        asked = taken(self.pixels, rows, self.bench.device)
        look()
        with torch.no_grad():
            made = vae.decode(vae.encode(as_signed(asked)).latent_dist.mode()).sample
        pictures = torch.stack([asked.cpu(), as_bytes(made)], dim=1).flatten(0, 1)
        names = [self.bench.pictures.captions[i] for i in rows.tolist()]
        captions = [text for name in names for text in (name, f"{name} (unpacked)")]
        return Drawn(pictures, captions)


def autoencoder(bench: Bench) -> Any:
    """AutoencoderKL of the size's channels, with random weights."""
    import diffusers

    size, levels = bench.size, len(bench.size.vae)
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=size.latents, layers_per_block=size.layers,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=size.vae,
        norm_num_groups=min(size.groups, min(size.vae)), sample_size=bench.params.side,
        scaling_factor=1.0, force_upcast=False,
    )  # fmt: skip


def edges(error: Any) -> Any:
    """The mean absolute difference of neighbours, at several scales: [n, c, h, w] to a number.

    As differences are linear, those of the error are the errors of the differences.
    """
    import torch.nn.functional as F

    total = 0.0
    for scale in range(SCALES):
        if scale:
            error = F.avg_pool2d(error, 2)
        total = total + (error[..., 1:] - error[..., :-1]).abs().mean()
        total = total + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return total / SCALES


def encoded(vae: Any, pixels: Any, device: str) -> Any:
    """The latents [pictures, channels, h, w] in fp32, without chance, on the device."""
    import torch

    found = []
    with torch.no_grad():
        for start in range(0, len(pixels), AT_ONCE):
            part = as_signed(pixels[start : start + AT_ONCE].to(device))
            found.append(vae.encode(part).latent_dist.mode().contiguous())
    return torch.cat(found)


def spread_of(latents: Any) -> tuple[Any, Any]:
    """Mean and deviation of each channel, [channels] each."""
    mean = latents.double().mean(dim=(0, 2, 3)).float()
    deviation = latents.double().std(dim=(0, 2, 3)).float().clamp_min(1e-6)
    return mean, deviation


def fold(vae: Any, mean: Any, deviation: Any) -> None:
    """Make a VAE's latents z into (z - mean) / deviation, by channel, and decode them so.

    StableDiffusionPipeline knows one scaling_factor for all channels; the two 1 x 1 convolutions
    between the VAE's halves and its latents can hold one for each. With them it is 1.
    """
    import torch

    with torch.no_grad():
        after, before, count = vae.quant_conv, vae.post_quant_conv, len(mean)
        shape = (-1, 1, 1, 1)
        after.weight[:count].div_(deviation.view(shape))
        after.bias[:count].sub_(mean).div_(deviation)
        after.bias[count:].sub_(2.0 * deviation.log())  # the other half is a logarithm of variances
        before.bias.add_(before.weight[:, :, 0, 0] @ mean)
        before.weight.mul_(deviation.view(1, -1, 1, 1))


def taken(pixels: Any, rows: Any, device: str) -> Any:
    """Those rows of uint8 pixels, on the device; `rows` int64 on the CPU."""
    return pixels[rows.to(pixels.device)].to(device, non_blocking=True)


def as_signed(pixels: Any) -> Any:
    """uint8 to fp32 in [-1, 1]."""
    return pixels.float().div(127.5).sub(1.0)


def as_bytes(pictures: Any) -> Any:
    """[-1, 1] to uint8 on the CPU."""
    return pictures.float().add(1.0).mul(127.5).round().clamp(0, 255).byte().cpu()


def chosen(pictures: int, count: int, seed: int) -> Any:
    """`count` different rows, drawn by the seed: int64 on the CPU."""
    import torch

    dice = torch.Generator().manual_seed(seed)
    return torch.randperm(pictures, generator=dice)[:count]
