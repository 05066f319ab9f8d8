"""ComfyUI's graph: `prompt` as the server ran it, or `workflow` as the page drew it.

There is no list of settings: the sampler's inputs are followed back through the graph to the words,
the checkpoint, the LoRAs and the size. Nodes are known by what their inputs are called, so that
most nodes of other authors do as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backends.image.foreign.told import PROMPT_LENGTH, Told, bare, mapping, parsed

Node = Mapping[str, Any]
MOST_NODES = 3000  # of a graph; more are not looked at
DEEP = 200  # nodes from the sampler
WORDS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "prompt", "string", "value")
CHECKPOINTS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name")
NUMBERS = ("value", "int", "float", "number", "seed", "noise_seed", "Number", "Value")
PARTS = ("noise", "sampler", "sigmas", "guider")  # of a sampler that is put together
# Beginnings of the kinds that a form has all of.
PLAIN = (
    "KSampler", "SamplerCustom", "CLIPText", "Checkpoint", "UNETLoader", "Lora", "Empty", "Note",
    "VAEDecode", "VAELoader", "SaveImage", "PreviewImage", "Primitive", "RandomNoise", "Reroute",
    "BasicScheduler", "BasicGuider", "CFGGuider", "FluxGuidance", "CLIPLoader", "DualCLIPLoader",
    "ConditioningCombine",
)  # fmt: skip
# What a node of the page's graph has in its widgets, in their order.
WIDGETS = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "CLIPTextEncode": ("text",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "FluxGuidance": ("guidance",),
    "PrimitiveNode": ("value",),
}


def read(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """The recipe; None where there is no graph with a sampler in it."""
    graph = _graph(parsed(texts.get("prompt"))) or _drawn(parsed(texts.get("workflow")))
    sampler = _sampler(graph)
    if sampler is None:
        return None
    told, inputs = Told("comfyui"), _whole(graph, sampler)
    seed = _plain(graph, inputs.get("seed", inputs.get("noise_seed")))
    told.put("seed", seed, "seed")
    told.put("steps", _plain(graph, inputs.get("steps")), "steps")
    told.put("guidance", _plain(graph, inputs.get("cfg")), "cfg")
    told.sampler(_plain(graph, inputs.get("sampler_name")), _plain(graph, inputs.get("scheduler")))
    positive = inputs.get("positive", inputs.get("conditioning"))
    told.put("prompt", _words(graph, positive, told))
    told.put("negative", _words(graph, inputs.get("negative"), None))
    told.loras_of_prompt()
    _model(graph, inputs.get("model"), told)
    begun = _latent(graph, inputs.get("latent_image", inputs.get("samples")), told)
    denoise = _plain(graph, inputs.get("denoise"))
    if begun or (isinstance(denoise, int | float) and denoise < 1):
        told.put("strength", denoise, "denoise")
    _rest(graph, told)
    return told.made()


def _graph(value: Any) -> dict[str, Node]:
    """Nodes by id, each with "class_type" and "inputs"."""
    nodes = list(mapping(value).items())[:MOST_NODES]
    return {
        str(id): node
        for id, node in nodes
        if isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping)
    }


def _drawn(value: Any) -> dict[str, Node]:
    """The same from the page's graph: links by number, settings in the order of the widgets."""
    said = mapping(value)
    links, listed = said.get("links"), said.get("nodes")
    origin: dict[str, list[Any]] = {}
    for link in links if isinstance(links, list) else []:
        if isinstance(link, list) and len(link) >= 3:
            origin[str(link[0])] = [str(link[1]), link[2]]
    graph: dict[str, Node] = {}
    for node in listed[:MOST_NODES] if isinstance(listed, list) else []:
        if not isinstance(node, Mapping):
            continue
        inputs: dict[str, Any] = {}
        values = node.get("widgets_values")
        names = WIDGETS.get(str(node.get("type")), ())
        if isinstance(values, list):
            inputs = {n: v for n, v in zip(names, values, strict=False) if n}
        slots = node.get("inputs")
        for slot in map(mapping, slots if isinstance(slots, list) else []):
            if str(slot.get("link")) in origin:
                inputs[str(slot.get("name"))] = origin[str(slot["link"])]
        graph[str(node.get("id"))] = {"class_type": str(node.get("type")), "inputs": inputs}
    return graph


def _sampler(graph: Mapping[str, Node]) -> str | None:
    """The id of the one that began from nothing; otherwise of the first."""
    found = [
        id
        for id, node in graph.items()
        if ("positive" in node["inputs"] and "steps" in node["inputs"])
        or {"noise", "sigmas"} <= node["inputs"].keys()
    ]

    def rank(id: str) -> int:
        inputs = graph[id]["inputs"]
        _, latent = _linked(graph, inputs.get("latent_image", inputs.get("samples")))
        return 0 if latent and "width" in latent["inputs"] else 1

    return min(found, key=rank, default=None)


def _whole(graph: Mapping[str, Node], sampler: str) -> dict[str, Any]:
    """A sampler's inputs, with those of the parts that it is put together from."""
    own = dict(graph[sampler]["inputs"])
    whole: dict[str, Any] = {}
    for part in PARTS:
        _, node = _linked(graph, own.get(part))
        whole |= node["inputs"] if node else {}
    return {**whole, **{name: value for name, value in own.items() if name not in PARTS}}


def _linked(graph: Mapping[str, Node], value: Any) -> tuple[int, Node | None]:
    """The node at the other end of a link, and which of its outputs is meant."""
    if not isinstance(value, list) or len(value) != 2:
        return 0, None
    slot = value[1] if isinstance(value[1], int) else 0
    return slot, graph.get(str(value[0]))


def _plain(graph: Mapping[str, Node], value: Any) -> Any:
    """A setting, also where it comes from a node that only holds it."""
    for _ in range(10):
        if not isinstance(value, list):
            return value
        _, node = _linked(graph, value)
        if node is None:
            return None
        inputs = node["inputs"]
        name = next((n for n in (*NUMBERS, *WORDS) if n in inputs), None)
        value = inputs[name] if name else None
    return None


def _words(graph: Mapping[str, Node], link: Any, told: Told | None) -> str:
    """The texts at the beginning of what a sampler is told, in their order. `told` only for the
    prompt: what else stands there is noted in it."""
    texts: list[str] = []
    for node in _behind(graph, link, ("clip", "model", "vae", "control_net", "image", "latent")):
        inputs = node["inputs"]
        for name in (*WORDS, "positive" if told else "negative"):  # some nodes hold both sides
            text = inputs.get(name)
            if isinstance(text, str) and text.strip() and text.strip() not in texts:
                texts.append(text.strip()[:PROMPT_LENGTH])
        if told and isinstance(inputs.get("guidance"), int | float):
            told.put("guidance", inputs["guidance"], "guidance")
    return ", ".join(texts)


def _behind(graph: Mapping[str, Node], link: Any, but: tuple[str, ...]) -> Iterator[Node]:
    """All nodes from a link backwards, nearest first. Where one has both sides of a prompt, only
    the side that is meant."""
    queue, seen = [link], set[str]()
    while queue and len(seen) < DEEP:
        link = queue.pop(0)
        slot, node = _linked(graph, link)
        if node is None or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        yield node
        inputs = node["inputs"]
        if "positive" in inputs and "negative" in inputs:
            queue.append(inputs["negative" if slot == 1 else "positive"])
        else:
            queue += [v for k, v in inputs.items() if isinstance(v, list) and k not in but]


def _model(graph: Mapping[str, Node], link: Any, told: Told) -> None:
    for node in _behind(graph, link, ("clip", "vae", "positive", "negative", "text")):
        inputs = node["inputs"]
        if isinstance(inputs.get("lora_name"), str):
            told.adapter(inputs["lora_name"], _plain(graph, inputs.get("strength_model", 1.0)))
        for one in map(mapping, inputs.values()):  # several in one node
            if "lora" in one and one.get("on", True):
                told.adapter(one["lora"], one.get("strength", 1.0))
        name = next((inputs[n] for n in CHECKPOINTS if isinstance(inputs.get(n), str)), None)
        if name:
            told.put("model_title", bare(name))
            return


def _latent(graph: Mapping[str, Node], link: Any, told: Told) -> bool:
    """The size; True where it began from a picture."""
    for node in _behind(graph, link, ("model", "vae", "positive", "negative", "clip")):
        inputs = node["inputs"]
        if "width" in inputs and "height" in inputs:
            told.put("width", _plain(graph, inputs["width"]), "width")
            told.put("height", _plain(graph, inputs["height"]), "height")
            return False
        if isinstance(inputs.get("image"), str):
            return True
    return False


def _rest(graph: Mapping[str, Node], told: Told) -> None:
    """Kinds of nodes that change a picture in a way that a form does not have."""
    kinds = {str(node.get("class_type"))[:80] for node in graph.values()}
    others = sorted(kind for kind in kinds if not kind.startswith(PLAIN))
    if others:
        told.other("nodes", ", ".join(others))
