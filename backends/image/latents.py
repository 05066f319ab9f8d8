"""Latents: the noise that a picture begins with, a rough look at them, and the picture they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.image.families import Family

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SEED = 2**32
FP32 = (
    "The VAE computed no picture in 16 bits (black or not a number). It was decoded once more in "
    "32 bits."
)
# Red, green and blue of a picture (-1 to 1) from its latents, one row for each channel: fitted by
# the makers of other programs for VAEs that are told apart by their scaling factor.
SEEN: dict[float, tuple[tuple[float, float, float], ...]] = {
    0.18215: (
        (0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
    ),
    0.13025: (
        (0.3651, 0.4232, 0.4341), (-0.2533, -0.0042, 0.1068), (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
    ),
}  # fmt: skip

THEIR_BLOCKS = (128, 256, 512, 512)  # channels of those VAEs, from the picture inwards


def generators(seeds: list[int]) -> list[Any]:
    """On the CPU, so that a seed draws the same noise on every device."""
    import torch

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def noise(pipe: Any, family: Family, size: tuple[int, int], dice: list[Any]) -> Any:
    """What the pipeline itself would draw with these generators, before its first step."""
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    backbone = getattr(pipe, family.backbone)
    channels = int(backbone.config.in_channels) // (4 if family.packed else 1)
    width, height = (side // int(pipe.vae_scale_factor) for side in size)
    device = pipe._execution_device
    drawn = [
        randn_tensor((1, channels, height, width), generator, device, backbone.dtype)
        for generator in dice
    ]
    return torch.cat(drawn)


def mixed(first: Any, second: Any, share: float) -> Any:
    """Between two noises on the sphere that both lie on: plain mixing would make it paler."""
    import torch

    pairs = zip(first, second, strict=True)
    return torch.stack([_slerp(one, other, share) for one, other in pairs])


def _slerp(one: Any, other: Any, share: float) -> Any:
    import torch

    a, b = one.float(), other.float()
    cosine = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-0.9999, 0.9999))
    parts = torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b
    return (parts / torch.sin(angle)).to(one.dtype)


def packed(pipe: Any, family: Family, latents: Any) -> Any:
    if not family.packed:
        return latents
    count, channels, height, width = latents.shape
    return pipe._pack_latents(latents, count, channels, height, width)


def unpacked(pipe: Any, family: Family, latents: Any, size: tuple[int, int]) -> Any:
    if not family.packed:
        return latents
    return pipe._unpack_latents(latents, size[1], size[0], pipe.vae_scale_factor)


def larger(pipe: Any, rows: Any, size: tuple[int, int]) -> Any:
    """The same at another size in px, drawn out between neighbours."""
    import torch

    scale = int(pipe.vae_scale_factor)
    return torch.nn.functional.interpolate(
        rows, (size[1] // scale, size[0] // scale), mode="bilinear"
    )


# The picture


class Decoder:
    """The VAE of one pipeline, from latents to pictures, one at a time."""

    def __init__(self, vae: Any, family: Family) -> None:
        self.vae, self.family = vae, family

    def picture(self, latents: Any) -> tuple[Image, str]:
        """The picture of one row of latents, and a sentence where 16 bits did not do."""
        import torch
        from diffusers.image_processor import VaeImageProcessor

        own = self.vae.dtype
        try:
            with torch.no_grad():
                if own == torch.float16 and self._needs_32_bits():
                    self.vae.to(torch.float32)
                decoded, said = self._decode(latents), ""
                if _is_nothing(decoded) and self.vae.dtype != torch.float32:
                    self.vae.to(torch.float32)
                    decoded, said = self._decode(latents), FP32
        finally:
            self.vae.to(own)  # the pipelines encode with it, in the type of the network
        if not bool(torch.isfinite(decoded).all()):
            raise ArithmeticError("the picture is not a number")
        pictures = VaeImageProcessor().postprocess(decoded, output_type="pil")
        return pictures[0].convert("RGB"), said

    def _needs_32_bits(self) -> bool:
        """Whether its makers say so; the class's own default says it of every VAE."""
        config = self.vae.config
        return "force_upcast" not in (config.get("_use_default_values") or ()) and bool(
            config.get("force_upcast")
        )

    def _decode(self, latents: Any) -> Any:
        return self.vae.decode(self.unscaled(latents.to(self.vae.dtype)), return_dict=False)[0]

    def unscaled(self, latents: Any) -> Any:
        """As the family's own pipeline does before it decodes."""
        import torch

        config = self.vae.config
        means, deviations = config.get("latents_mean"), config.get("latents_std")
        if self.family.channel_means and means and deviations:
            mean = torch.tensor(means).view(1, -1, 1, 1).to(latents)
            deviation = torch.tensor(deviations).view(1, -1, 1, 1).to(latents)
            return latents * deviation / config.scaling_factor + mean
        return latents / config.scaling_factor + (config.get("shift_factor") or 0)


def _is_nothing(decoded: Any) -> bool:
    import torch

    return not bool(torch.isfinite(decoded).all()) or bool(decoded.max() == decoded.min())


class Preview:
    """A rough look at latents: a few numbers for each of their pixels, no network."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.matrix: Any = None

    def picture(self, latents: Any) -> Image:
        """All pictures of a batch side by side. `latents` lie on the CPU."""
        import torch
        from PIL import Image

        if self.matrix is None:
            self.matrix = self._fitted(latents.shape[1])
        whole = latents.float().nan_to_num()
        colours = torch.einsum("nchw,cr->nhwr", whole, self.matrix[:-1]) + self.matrix[-1]
        bytes_ = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return Image.fromarray(torch.cat(list(bytes_), dim=1).numpy(), "RGB")

    def _fitted(self, channels: int) -> Any:
        """The known numbers of a well-known VAE; of any other what fits a decoded sample best."""
        import torch

        config = self.decoder.vae.config
        known = SEEN.get(round(float(config.scaling_factor), 5), ())
        if len(known) == channels and tuple(config.block_out_channels) == THEIR_BLOCKS:
            return torch.tensor([*known, (0.0, 0.0, 0.0)])
        vae = self.decoder.vae
        drawn = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        # Patches of one colour each, as parts of real pictures are, not noise from pixel to pixel.
        sample = drawn.repeat_interleave(2, 2).repeat_interleave(2, 3)
        with torch.no_grad():
            decoded = self.decoder._decode(sample.to(vae.device, vae.dtype)).float().cpu()
        small = torch.nn.functional.interpolate(decoded, sample.shape[2:], mode="area")
        rows = sample.permute(0, 2, 3, 1).reshape(-1, channels)
        ones = torch.ones(len(rows), 1)
        wanted = small.permute(0, 2, 3, 1).reshape(-1, 3)
        return torch.linalg.lstsq(torch.cat([rows, ones], 1), wanted).solution
