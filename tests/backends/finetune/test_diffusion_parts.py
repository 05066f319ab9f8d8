"""backends/finetune/from_nothing/: its parts, each by itself; and what opens the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.finetune.diffusion_params import DiffusionParams
from backends.finetune.from_nothing import autoencoder, denoiser, kinds, samples, words
from backends.finetune.from_nothing.compiling import Compiling
from backends.finetune.from_nothing.learner import FLOOR, Learner, Schedule
from backends.finetune.from_nothing.sizes import SIZES
from backends.finetune.from_nothing.stages import Bench, Order, mixed, portions
from backends.finetune.pictures.reading import Pictures
from benchmarks import emoji_judge, emoji_travel

CAPTIONS = ["red heart", "red circle", "keycap: #", "Æther ☃ zebra", "two red hearts"]


@pytest.fixture(scope="module")
def bench() -> Bench:
    """A text model of random weights, as if it had been trained."""
    torch.manual_seed(3)
    pictures = Pictures(torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8), CAPTIONS,
                        [f"{n}.png" for n in range(5)])  # fmt: skip
    params = DiffusionParams(size="tiny", side=32, samples=2, sample_steps=3, batch=4, vae_batch=4)
    made = Bench(params, SIZES["tiny"], pictures, "cpu", "fp32")
    made.finished |= autoencoder.AutoencoderStage(made).finish()
    made.finished |= denoiser.DenoiserStage(made).finish()
    return made


@pytest.fixture(scope="module")
def model(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "model"
    kinds.keep_text(bench, folder)
    return folder


def opened(model: Path) -> Any:
    import diffusers

    with denoiser.quiet():
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_stock_pipeline_opens_what_is_kept_and_draws(model: Path) -> None:
    pipeline = opened(model)
    dice = torch.Generator().manual_seed(1)
    image = pipeline("red heart", num_inference_steps=2, height=32, width=32, generator=dice)
    assert image.images[0].size == (32, 32)
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    assert pipeline.tokenizer.model_max_length == SIZES["tiny"].length
    names = {f.name for f in (model / "tokenizer").iterdir()}
    assert names >= {"vocab.json", "merges.txt"}


def test_folded_latents_have_deviation_one_and_decode_as_before(bench: Bench, model: Path) -> None:
    stage = autoencoder.AutoencoderStage(bench)
    plain = stage.learner.average["vae"]
    with torch.no_grad():  # channels that differ by far, as a VAE's do
        plain.quant_conv.weight[:4] *= torch.tensor([0.1, 2.0, 7.0, 1.0]).view(4, 1, 1, 1)
        plain.quant_conv.bias[:4] += torch.tensor([3.0, -1.0, 0.0, 9.0])
    folded = autoencoder.autoencoder(bench)
    folded.load_state_dict(stage.finish()["vae"])
    latents = autoencoder.encoded(folded, bench.pictures.pixels, "cpu")
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    signed = autoencoder.as_signed(bench.pictures.pixels)
    with torch.no_grad():
        before = plain.decode(plain.encode(signed).latent_dist.mode()).sample
        after = folded.decode(folded.encode(signed).latent_dist.mode()).sample
        spread = plain.encode(signed).latent_dist.std / folded.encode(signed).latent_dist.std
    assert (before - after).abs().max() < 1e-4 * before.abs().max()
    deviation = autoencoder.spread_of(
        autoencoder.encoded(plain, bench.pictures.pixels, "cpu")
    )[1]  # fmt: skip
    assert torch.allclose(spread.mean(dim=(0, 2, 3)), deviation, rtol=1e-3)


def test_the_kept_pipeline_decodes_as_the_trainer_does(bench: Bench, model: Path) -> None:
    vae = autoencoder.autoencoder(bench)
    vae.load_state_dict(bench.finished["vae"])
    kept, latents = opened(model).vae, torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        ours, theirs = vae.decode(latents).sample, kept.decode(latents).sample
    assert (ours - theirs).abs().max() < 0.01 * ours.abs().max()  # fp16 between them


def test_the_tokenizer_reads_back_what_it_learned(bench: Bench, model: Path) -> None:
    import transformers

    ours = words.opened(bench.words, 16)
    theirs = transformers.CLIPTokenizer.from_pretrained(model / "tokenizer")
    for text in [*CAPTIONS, "", "never seen: Ж 12", "red " * 40]:
        assert words.numbers_of(ours, [text]).tolist() == words.numbers_of(theirs, [text]).tolist()
    assert ours.decode(ours("Two  RED hearts").input_ids[1:-1]).strip() == "two red hearts"
    assert ours.tokenize("red") == ["red</w>"]
    assert words.files(CAPTIONS, 600) == words.files(CAPTIONS, 600)
    numbers = json.loads(bench.words["vocab.json"])
    assert sorted(numbers.values()) == list(range(len(numbers))) and len(numbers) <= 600
    assert not [t for t in ours("Ж☃").input_ids[1:-1] if t == ours.unk_token_id]


def test_a_step_takes_every_picture_once_in_an_epoch_and_knows_its_place() -> None:
    order = Order(10, 4, 3)
    seen = torch.cat([order.rows(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert Order(10, 4, 3).rows(3).tolist() == order.rows(3).tolist()
    assert len(Order(3, 8, 0).rows(0)) == 8


def test_portions_are_the_batch() -> None:
    batch = {"a": torch.arange(10), "b": torch.arange(10)}
    parts = list(portions(batch, 4))
    assert torch.cat([p["a"] for p, _ in parts]).tolist() == list(range(10))
    assert sum(share for _, share in parts) == pytest.approx(1.0)
    assert len(list(portions(batch, 64))) == 10


def test_the_learning_rate_rises_and_falls() -> None:
    rate = Schedule(100, 10)
    assert rate.share(0) == 0.1 and rate.share(9) == 1.0 == rate.share(10)
    assert rate.share(99) == pytest.approx(FLOOR, abs=0.001)
    assert len({mixed(1, n) for n in range(1000)}) == 1000


def test_a_learner_goes_on_where_its_state_was() -> None:
    torch.manual_seed(0)

    def made() -> Learner:
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        return Learner({"net": net.to(memory_format=torch.channels_last)}, {"net": 0.1},
                       Schedule(10), 0.9)  # fmt: skip

    def step(learner: Learner, number: int) -> None:
        torch.manual_seed(number)
        learner.begin(number)
        learner.modules["net"](torch.randn(2, 3, 5, 5)).square().sum().backward()
        learner.end(number)

    one, other = made(), made()
    for number in range(4):
        step(one, number)
        if number == 1:
            other.load(one.state())
    for number in range(2, 4):
        step(other, number)
    for mine, theirs in zip(one.state().values(), other.state().values(), strict=True):
        assert all(torch.equal(mine[k], theirs[k]) for k in mine) and mine.keys() == theirs.keys()
    weight, moment = other.parameters[0], other.optimizer.state[other.parameters[0]]["exp_avg"]
    assert moment.stride() == weight.stride()


def test_what_does_not_compile_goes_on_without() -> None:
    class Stage:
        steps, said = 10, ""

        def compile(self) -> None:
            self.said += "c"

        def interpret(self) -> None:
            self.said += "i"

    stage: Any = Stage()
    compiling = Compiling("on", "cuda", stage, 0.0)
    assert len(list(compiling.before(0))) == 1 and compiling.can_fall_back
    assert "without" in next(iter(compiling.fall_back("no"))).message  # type: ignore[union-attr]
    assert stage.said == "ci" and not list(compiling.before(1)) and not compiling.can_fall_back
    stage.said = ""
    assert not list(Compiling("on", "cpu", stage, 0.0).before(0)) and not stage.said
    settled = Compiling("on", "cuda", stage, 0.0)
    list(settled.before(0))
    list(settled.before(1))
    assert not settled.can_fall_back  # its first compiled step is done


def test_the_small_size_is_one_that_may_be_kept(bench: Bench) -> None:
    params = DiffusionParams(size="small", side=128)
    small = Bench(params, SIZES["small"], bench.pictures, "cpu", "fp32")
    learned = words.files(CAPTIONS, SIZES["small"].vocabulary)
    with torch.device("meta"):
        parts = [autoencoder.autoencoder(small), denoiser.unet(small)]
    text = denoiser.text_encoder(small, words.opened(learned, 24))
    weights = sum(p.numel() for part in parts for p in part.parameters())
    most = SIZES["small"].vocabulary * SIZES["small"].width
    weights += sum(p.numel() for p in text.parameters()) + most
    assert 2 * weights < 29.8e6  # bytes in fp16; the tokenizer takes the rest of 30 MB


def test_a_sheet_has_every_picture_where_it_belongs() -> None:
    pictures = torch.stack([torch.full((3, 4, 4), n, dtype=torch.uint8) for n in (10, 20, 30)])
    whole = samples.sheet(pictures, 2)
    assert whole.size == (10, 10)
    assert [whole.getpixel(at)[0] for at in ((1, 1), (7, 1), (1, 7), (7, 7))] == [10, 20, 30, 255]


def test_what_travels_is_small_and_a_checkpoint_again(tmp_path: Path) -> None:
    value = torch.tensor([0.0, 1e-12, 3e-7, 0.5, 2.0])
    kept = emoji_travel.eight_bits("x", value)
    back = emoji_travel.from_eight_bits(kept["x"], kept["x.range"])
    assert back[0] == 0 and torch.allclose(back[1:], value[1:], rtol=0.06)
    assert not emoji_travel.from_eight_bits(*emoji_travel.eight_bits("x", value * 0).values()).any()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.bin").write_bytes(bytes(range(256)) * 10)
    parts = emoji_travel.split(emoji_travel.packed([tmp_path / "made"]), tmp_path,
                               emoji_travel.MODEL)  # fmt: skip
    assert len(parts) == 1
    found = emoji_travel.unpack(tmp_path, tmp_path / "there")
    assert found.name == "made" and (found / "a.bin").stat().st_size == 2560


def test_the_judge_counts_equal_captions_as_one() -> None:
    pixels = torch.stack([torch.full((3, 64, 64), n, dtype=torch.uint8) for n in (0, 90, 91, 200)])
    known = emoji_judge.small(pixels)
    names = ["a", "b", "b", "c"]
    assert emoji_judge.score(pixels, names, known, names) == 100.0
    assert emoji_judge.score(pixels[[2, 1, 0, 3]], names, known, names) == 50.0
    assert emoji_judge.psnr(pixels, pixels) > 90
