"""Schedulers by their usual names. What the model's own settings say of its training stays."""

from __future__ import annotations

import inspect
from typing import Any

from backends.base import Refused
from backends.image.families import Family

KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "DPM++ 2M Karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++"} | KARRAS,
    ),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ SDE Karras": ("DPMSolverSinglestepScheduler", KARRAS),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM++ 2M SDE Karras": ("DPMSolverMultistepScheduler", SDE | KARRAS),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "LMS Karras": ("LMSDiscreteScheduler", KARRAS),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
}
# Of models that learned a flow.
FLOW: dict[str, tuple[str, dict[str, Any]]] = {"Euler": ("FlowMatchEulerDiscreteScheduler", {})}
# What a model was trained with: another scheduler that does not know it draws something else.
TRAINED = {
    "prediction_type": "what the network predicts",
    "rescale_betas_zero_snr": "its zero terminal signal-to-noise ratio",
    "timestep_spacing": "the spacing of its steps",
}


def names(family: Family) -> tuple[str, ...]:
    """What a form offers for a family; "" stands for the model's own."""
    return family.schedulers


def make(name: str, own: Any, family: Family) -> tuple[Any, str]:
    """A scheduler made anew for one run, and what to say of it. `own` is the model's.

    Raises Refused for a name that the family has not.
    """
    import diffusers

    if not name:
        return type(own).from_config(own.config), ""
    if name not in family.schedulers:
        raise Refused(
            f"There is no scheduler {name[:60]!r} for {family.title}.",
            f"Known are: {', '.join(family.schedulers)}.",
        )
    config = dict(own.config)
    flows = type(own).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas")
    kind, changes = TABLE[name]
    if flows:
        kind, changes = FLOW.get(name, (kind, {**changes, **_flow(config)}))
    made = getattr(diffusers, kind).from_config(own.config, **changes)
    return made, _unknown(name, config, made)


def _flow(config: dict[str, Any]) -> dict[str, Any]:
    """For a solver of diffusion that is to follow a flow."""
    shift = config.get("flow_shift") or config.get("shift") or 1.0
    return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}


def _unknown(name: str, config: dict[str, Any], made: Any) -> str:
    """A sentence where the model was trained with something that this scheduler does not know."""
    defaults = set(config.get("_use_default_values") or ())
    known = inspect.signature(type(made).__init__).parameters
    for key, what in TRAINED.items():
        value = config.get(key)
        if key in defaults or value in (None, False) or key in known:
            continue
        if value not in ("epsilon", "leading", "linspace"):
            return (
                f"The scheduler {name} does not know {what} ({key} {value}), so that pictures may "
                "look wrong. The model's own scheduler does."
            )
    return ""


def title(name: str, own: Any) -> str:
    """The usual name of what was used, for the recipe."""
    if name:
        return name
    kind = type(own).__name__
    karras = bool(own.config.get("use_karras_sigmas"))
    same = [n for n, (k, c) in (*TABLE.items(), *FLOW.items()) if k == kind]
    chosen = [n for n in same if n.endswith("Karras") == karras]
    return (chosen or same or [kind])[0]
