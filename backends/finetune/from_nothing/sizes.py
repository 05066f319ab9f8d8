"""How large the parts of a model are, by name. All are small: a 12 GB card trains each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """One preset. Channels are named from the finest level to the coarsest.

    vae         channels of the autoencoder; each level but the first halves the side
    unet        channels of what denoises latents; each level but the first halves their side
    layers      residual blocks of a level
    heads       of every attention
    groups      of every group norm; divides all channels
    width       of a token; text_layers: of the text encoder
    vocabulary  tokens at most; length: tokens of a caption at most
    pixels      channels of what denoises pictures without latents
    gan         channels of the DCGAN at its finest level
    """

    name: str
    label: str
    vae: tuple[int, ...]
    unet: tuple[int, ...]
    layers: int
    heads: int
    groups: int
    width: int
    text_layers: int
    vocabulary: int
    length: int
    pixels: tuple[int, ...]
    gan: int
    latents: int = 4

    @property
    def shrink(self) -> int:
        """Pixels of the side for one of the latents'."""
        return int(2 ** (len(self.vae) - 1))


SIZES = {
    size.name: size
    for size in (
        Size(
            "tiny", "Tiny (to try, 0.2 million weights)", vae=(8, 8, 16), unet=(16, 32), layers=1,
            heads=2, groups=4, width=16, text_layers=1, vocabulary=600, length=16, pixels=(8, 16),
            gan=8,
        ),
        Size(
            "small", "Small (14 million weights)", vae=(32, 64, 96, 96), unet=(128, 160), layers=1,
            heads=4, groups=16, width=192, text_layers=4, vocabulary=2560, length=24,
            pixels=(64, 96, 128, 160), gan=48,
        ),
        Size(
            "medium", "Medium (60 million weights)", vae=(64, 128, 192, 192),
            unet=(192, 256, 320), layers=2, heads=8, groups=32, width=320, text_layers=6,
            vocabulary=8192, length=32, pixels=(96, 128, 192, 256), gan=64,
        ),
    )
}  # fmt: skip
