"""The stage that learns to make pictures from noise alone: diffusers' UNet2DModel, in pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.finetune.from_nothing.autoencoder import as_bytes, as_signed, taken
from backends.finetune.from_nothing.denoiser import FRAMES, TIMES, dices, spaced
from backends.finetune.from_nothing.learner import Learner, Schedule
from backends.finetune.from_nothing.stages import Bench, Descent, Drawn

ATTENDED = 32  # pixels of the side from which on a level has attention


class UnconditionalStage(Descent):
    """Pictures [-1, 1]; the loss is that of the noise which was added (Ho et al., 2020)."""

    name = "unet"
    label = "learning to draw"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        params = bench.params
        self.steps, self.batch = params.steps, params.batch
        self.unet = bench.built(lambda: unet(bench), "unet")
        self.learner = Learner(
            {"unet": self.unet}, {"unet": params.learning_rate},
            Schedule(self.steps, min(params.warmup_steps, self.steps // 10)), params.ema,
            weight_decay=params.weight_decay,
        )  # fmt: skip
        self.pixels = bench.pixels()
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

        device = self.bench.device
        pictures = as_signed(taken(self.pixels, rows, device))
        noise = torch.randn(pictures.shape, generator=dice, device=device)
        times = torch.randint(TIMES, (len(rows),), generator=dice, device=device)
        return {"pictures": pictures, "noise": noise, "times": times}

    def losses(self, batch: dict[str, Any]) -> dict[str, Any]:
        times = batch["times"]
        signal, rest = (v[times].view(-1, 1, 1, 1) for v in (self.signal, self.noise))
        noisy = signal * batch["pictures"] + rest * batch["noise"]
        made = self.predict(noisy, times, return_dict=False)[0]
        return {"loss": (made.float() - batch["noise"]).square().mean()}

    def finish(self) -> dict[str, dict[str, Any]]:
        module = self.learner.average["unet"]
        return {"unet": {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}}

    def drawn(self, look: Callable[[], None]) -> Drawn:
        """Denoised as DDPMPipeline does it, in `sample_steps` steps."""
        import torch

        params, device = self.bench.params, self.bench.device
        module, noise = self.learner.average["unet"], scheduler()
        noise.set_timesteps(params.sample_steps)
        dice = dices(params.samples, params.seed)
        shape = (1, 3, params.side, params.side)
        sample = torch.cat([torch.randn(shape, generator=one) for one in dice]).to(device)
        film = []
        with torch.no_grad(), self.bench.autocast():
            for time in noise.timesteps:
                look()
                said = module(sample, time, return_dict=False)[0].float()
                sample = noise.step(said, time, sample, generator=dice[0]).prev_sample
                film.append(sample[:1])
        return Drawn(
            as_bytes(sample), [""] * len(sample), as_bytes(torch.cat(spaced(film, FRAMES)))
        )


def unet(bench: Bench) -> Any:
    """UNet2DModel of the size's channels, with random weights."""
    import diffusers

    size, side, channels = bench.size, bench.params.side, bench.size.pixels
    attended = [side // 2**level <= ATTENDED and level > 0 for level in range(len(channels))]
    down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attended)
    up = tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended))
    return diffusers.UNet2DModel(
        sample_size=side, in_channels=3, out_channels=3, block_out_channels=channels,
        layers_per_block=size.layers, down_block_types=down, up_block_types=up,
        attention_head_dim=channels[0] // size.heads, norm_num_groups=min(size.groups, channels[0]),
    )  # fmt: skip


def scheduler() -> Any:
    """DDPM over the cosine's betas (Nichol and Dhariwal, 2021); few steps count from the end."""
    import diffusers

    return diffusers.DDPMScheduler(
        num_train_timesteps=TIMES, beta_schedule="squaredcos_cap_v2", clip_sample=True,
        timestep_spacing="trailing",
    )  # fmt: skip
