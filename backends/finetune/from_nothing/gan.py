"""The stage that learns to make pictures against a critic: DCGAN (Radford et al., 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from backends.finetune.from_nothing.autoencoder import as_bytes, as_signed, taken
from backends.finetune.from_nothing.denoiser import dices
from backends.finetune.from_nothing.learner import Learner, Schedule
from backends.finetune.from_nothing.stages import Bench, Drawn, Stage, portions

NOISE = 100  # numbers that a picture is made of
SMALLEST = 4  # pixels of the side where it begins
BETAS = (0.5, 0.999)
NO_CLIP = 1e9


class GanStage(Stage):
    """A generator and a critic, one step each."""

    name = "gan"
    label = "learning to draw"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        params = bench.params
        self.steps, self.batch = params.steps, params.batch
        self.maker = bench.built(lambda: generator(params.side, bench.size.gan), "generator")
        self.critic = bench.built(lambda: discriminator(params.side, bench.size.gan), "critic")
        schedule = Schedule(self.steps, min(params.warmup_steps, self.steps // 10))
        self.learners = {
            name: Learner({name: module}, {name: params.learning_rate}, schedule, params.ema,
                          BETAS, params.weight_decay, NO_CLIP)
            for name, module in (("generator", self.maker), ("critic", self.critic))
        }  # fmt: skip
        self.pixels = bench.pixels()
        self.interpret()

    def compile(self) -> None:
        import torch

        self.make, self.judge = torch.compile(self.maker), torch.compile(self.critic)

    def interpret(self) -> None:
        self.make, self.judge = self.maker, self.critic

    def learn(
        self, step: int, rows: Any, dice: Any, parts: int, look: Callable[[], None]
    ) -> dict[str, Any]:
        import torch

        makers, critics = self.learners["generator"], self.learners["critic"]
        pictures = as_signed(taken(self.pixels, rows, self.bench.device))
        noise = torch.randn((len(rows), NOISE, 1, 1), generator=dice, device=self.bench.device)
        batch = {"pictures": pictures, "noise": noise}
        rate = makers.begin(step)
        critics.begin(step)
        told: dict[str, Any] = {}
        for part, share in portions(batch, parts):
            look()
            with self.bench.autocast():
                made = self.make(part["noise"])
                real, false = self.judge(part["pictures"]), self.judge(made.detach())
                loss = (wrong(real.float(), True) + wrong(false.float(), False)) * 0.5
            (loss * share).backward()
            told["critic_loss"] = told.get("critic_loss", 0) + loss.detach() * share
        self.changing = True
        critics.end(step)
        critics.forget()
        for part, share in portions(batch, parts):
            with self.bench.autocast():
                loss = wrong(self.judge(self.make(part["noise"])).float(), True)
            (loss * share).backward()
            told["loss"] = told.get("loss", 0) + loss.detach() * share
        told["grad_norm"] = makers.end(step)
        critics.forget()  # what passed through it on the way to the generator
        self.changing = False
        return told | {"learning_rate": rate}

    def finish(self) -> dict[str, dict[str, Any]]:
        module = self.learners["generator"].average["generator"]
        return {"generator": {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}}

    def drawn(self, look: Callable[[], None]) -> Drawn:
        import torch

        params = self.bench.params
        look()
        dice = dices(params.samples, params.seed)
        noise = torch.cat([torch.randn((1, NOISE, 1, 1), generator=one) for one in dice])
        with torch.no_grad():
            made = self.learners["generator"].average["generator"](noise.to(self.bench.device))
        return Drawn(as_bytes(made), [""] * len(made))


def wrong(logits: Any, real: bool) -> Any:
    """How wrong it is to say so, as a number."""
    import torch.nn.functional as F

    return F.softplus(-logits if real else logits).mean()


def generator(side: int, width: int) -> Any:
    """[n, NOISE, 1, 1] to [n, 3, side, side] in [-1, 1]; `width`: channels at half the side."""
    from torch import nn

    levels = int(math.log2(side // SMALLEST))
    channels = [width * 2**level for level in reversed(range(levels))]
    layers = [nn.ConvTranspose2d(NOISE, channels[0], SMALLEST, bias=False),
              nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]  # fmt: skip
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                   nn.BatchNorm2d(after), nn.ReLU(inplace=True)]  # fmt: skip
    layers += [nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1), nn.Tanh()]
    return normal(nn.Sequential(*layers))


def discriminator(side: int, width: int) -> Any:
    """[n, 3, side, side] to [n]: above 0 for a picture, below for one that was made."""
    from torch import nn

    levels = int(math.log2(side // SMALLEST))
    channels = [width * 2**level for level in range(levels)]
    layers = [nn.Conv2d(3, channels[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after),
                   nn.LeakyReLU(0.2, inplace=True)]  # fmt: skip
    layers += [nn.Conv2d(channels[-1], 1, SMALLEST), nn.Flatten(0)]
    return normal(nn.Sequential(*layers))


def normal(module: Any) -> Any:
    """Weights as DCGAN begins: normal, of deviation 0.02."""
    from torch import nn

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(part.weight, 0.0, 0.02)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)
    return module
