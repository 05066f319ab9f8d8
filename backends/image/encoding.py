"""A prompt as the numbers that a pipeline takes: one function for each way of the families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from backends.image.families import Family
from backends.image.prompts import Piece, has_weights, pieces, plain

NO_WEIGHTS = (
    "{title} knows no weights of words: the brackets of the prompt were left out. "
    "Say in words what matters."
)
CUT = (
    "The {which} is longer than the {limit} tokens that {title} reads: it was cut after "
    "{kept!r}. Make it shorter."
)


@dataclass(frozen=True)
class Words:
    """What is to be seen and what not. `guided`: the negative prompt counts."""

    prompt: str
    negative: str = ""
    guided: bool = True
    clip_skip: int = 0


@dataclass
class Encoded:
    """Arguments of a call, each tensor for one picture, and sentences for the user."""

    arguments: dict[str, Any]
    notices: list[str] = field(default_factory=list)

    def times(self, count: int) -> dict[str, Any]:
        return {
            name: None if value is None else value.repeat_interleave(count, 0)
            for name, value in self.arguments.items()
        }


def encode(pipe: Any, family: Family, words: Words, device: str) -> Encoded:
    """Without gradients. Raises what the text encoder raises."""
    import torch

    notices: list[str] = []
    if not family.weighted:
        if has_weights(words.prompt) or has_weights(words.negative):
            notices.append(NO_WEIGHTS.format(title=family.title))
        words = Words(plain(words.prompt), plain(words.negative), words.guided, words.clip_skip)
        notices += _cuts(pipe, family, words)
    if words.clip_skip and not family.weighted:
        notices.append(f"{family.title} has no CLIP layers to leave out: all of them were used.")
    if words.negative and words.guided and not family.negative:
        notices.append(f"{family.title} looks at no negative prompt: it was not used.")
    with torch.no_grad():
        arguments = WAYS[family.words](pipe, words, device)
    return Encoded(arguments, notices)


def _cuts(pipe: Any, family: Family, words: Words) -> list[str]:
    """A sentence for each prompt that its tokenizer would cut."""
    found = []
    tokenizer, limit = reading(pipe, family)
    for which, text in (("prompt", words.prompt), ("negative prompt", words.negative)):
        ids = tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) > limit:
            kept = tokenizer.decode(ids[: limit - 1], skip_special_tokens=True)[-40:]
            found.append(CUT.format(which=which, limit=limit, title=family.title, kept=kept))
    return found


def reading(pipe: Any, family: Family) -> tuple[Any, int]:
    """The tokenizer that reads most of the prompt, and how many tokens it reads."""
    last = family.encoders[-1].replace("text_encoder", "tokenizer")
    if getattr(pipe, last, None) is None:
        last = "tokenizer"
    tokenizer = getattr(pipe, last)
    limits = {"clip": 77, "masked": 300, "three": 256, "flux": 512}
    return tokenizer, min(int(tokenizer.model_max_length), limits[family.words])


# Ways. Each gives arguments of the pipeline's call.


def _clip(pipe: Any, words: Words, device: str) -> dict[str, Any]:
    """Stable Diffusion's one encoder, and what took its place in Latent Diffusion."""
    if _plain_enough(words, pipe.tokenizer):
        prompt, negative = pipe.encode_prompt(
            words.prompt, device, 1, words.guided, negative_prompt=words.negative
        )
    else:
        reader = Reader(pipe.text_encoder, pipe.tokenizer, words.clip_skip)
        prompt, negative = _alike(reader, _converted(pipe, words, pipe.tokenizer), device)
    return {
        "prompt_embeds": prompt,
        "negative_prompt_embeds": negative if words.guided else None,
    }


def _clip_pair(pipe: Any, words: Words, device: str) -> dict[str, Any]:
    """SDXL's two encoders, side by side; the pooled numbers are of the plain words."""
    plain_words = plain(words.prompt), plain(words.negative)
    given = pipe.encode_prompt(
        plain_words[0],
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=words.guided,
        # None, not "": a model may want zeros then (`force_zeros_for_empty_prompt`).
        negative_prompt=plain_words[1] or None,
    )
    names = (
        "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )  # fmt: skip
    found = dict(zip(names, given, strict=True))
    if _plain_enough(words, pipe.tokenizer):
        return found
    halves = []
    for encoder, tokenizer in (
        (pipe.text_encoder, pipe.tokenizer),
        (pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        if encoder is not None:
            reader = Reader(encoder, tokenizer, words.clip_skip + 1, normed=False)
            halves.append(_alike(reader, _converted(pipe, words, tokenizer), device))
    import torch

    found["prompt_embeds"] = torch.cat([one[0] for one in halves], dim=-1)
    if words.guided:
        negative = torch.cat([one[1] for one in halves], dim=-1)
        zeros = not words.negative and pipe.config.force_zeros_for_empty_prompt
        found["negative_prompt_embeds"] = torch.zeros_like(negative) if zeros else negative
    return found


def _masked(pipe: Any, words: Words, device: str) -> dict[str, Any]:
    """Sana's and PixArt's: one encoder of a language model, with a mask."""
    import inspect

    more = {}
    told = inspect.signature(type(pipe).__call__).parameters.get("complex_human_instruction")
    if told is not None:
        more["complex_human_instruction"] = told.default
    prompt, mask, negative, negative_mask = pipe.encode_prompt(
        words.prompt,
        do_classifier_free_guidance=words.guided,
        negative_prompt=words.negative,
        device=device,
        clean_caption=False,
        **more,
    )
    return {
        "prompt_embeds": prompt,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": negative_mask,
    }


def _three(pipe: Any, words: Words, device: str) -> dict[str, Any]:
    """Stable Diffusion 3: two of CLIP's and T5, which may be missing."""
    given = pipe.encode_prompt(
        words.prompt, None, None,
        device=device,
        do_classifier_free_guidance=words.guided,
        negative_prompt=words.negative or None,
        clip_skip=words.clip_skip or None,
    )  # fmt: skip
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
             "negative_pooled_prompt_embeds")  # fmt: skip
    return dict(zip(names, given, strict=True))


def _flux(pipe: Any, words: Words, device: str) -> dict[str, Any]:
    """FLUX: what CLIP sums up, and T5's tokens."""
    prompt, pooled, _ = pipe.encode_prompt(words.prompt, None, device=device)
    return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}


WAYS: dict[str, Callable[[Any, Words, str], dict[str, Any]]] = {
    "clip": _clip, "clip_pair": _clip_pair, "masked": _masked, "three": _three, "flux": _flux,
}  # fmt: skip


# Weights and long prompts, by compel


class Reader:
    """What compel asks for numbers: an encoder that stops `skip` layers before its end."""

    def __init__(self, encoder: Any, tokenizer: Any, skip: int, normed: bool = True) -> None:
        self.encoder, self.tokenizer, self.skip, self.normed = encoder, tokenizer, skip, normed

    @property
    def device(self) -> Any:
        return self.encoder.device

    @property
    def dtype(self) -> Any:
        return self.encoder.dtype

    def __call__(self, ids: Any, mask: Any = None, **kwargs: Any) -> Any:
        whole = None if mask is None or bool(mask.all()) else mask  # as pipelines call it
        found = self.encoder(ids, attention_mask=whole, output_hidden_states=bool(self.skip))
        if not self.skip:
            return SimpleNamespace(last_hidden_state=found[0])
        state = found.hidden_states[-(self.skip + 1)]
        if self.normed:
            state = getattr(self.encoder, "text_model", self.encoder).final_layer_norm(state)
        return SimpleNamespace(last_hidden_state=state)


def _plain_enough(words: Words, tokenizer: Any) -> bool:
    """Whether the pipeline's own way does: no weights, no layers left out, and not too long."""
    if words.clip_skip or has_weights(words.prompt) or has_weights(words.negative):
        return False
    marked = any("\\" in text or "(" in text or "[" in text
                 for text in (words.prompt, words.negative))  # fmt: skip
    return not marked and not any(
        len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
        > tokenizer.model_max_length
        for text in (words.prompt, words.negative)
    )


def _converted(pipe: Any, words: Words, tokenizer: Any) -> tuple[list[Piece], list[Piece]]:
    """The pieces of both prompts, textual inversions of several tokens written out."""
    convert = getattr(pipe, "maybe_convert_prompt", lambda text, _: text)
    both = pieces(words.prompt), pieces(words.negative) if words.guided else []
    found = [[(convert(text, tokenizer), weight) for text, weight in one] for one in both]
    return found[0], found[1]


def _alike(reader: Reader, both: tuple[list[Piece], list[Piece]], device: str) -> tuple[Any, Any]:
    """Both prompts through compel, of one length."""
    import warnings

    with warnings.catch_warnings():  # of its own syntax: strings that its parser escapes
        warnings.simplefilter("ignore")
        from compel import Compel
        from compel.prompt_parser import FlattenedPrompt
    asked = Compel(
        tokenizer=reader.tokenizer,
        text_encoder=reader,
        truncate_long_prompts=False,
        dtype_for_device_getter=lambda _: reader.dtype,
        device=device,
    )
    found = []
    for one in both:
        prompt = FlattenedPrompt([(text, weight) for text, weight in one if text] or [("", 1.0)])
        (numbers, _), _ = asked.build_conditioning_tensor_for_prompt_object(prompt)
        found.append(numbers)
    first, second = asked.pad_conditioning_tensors_to_same_length(found)
    return first, second
