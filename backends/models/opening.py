"""A safetensors model opened by transformers: for chat, and as the base of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.base import Refused


def open_model(path: Path, places: dict[str, Any], quantisation: str) -> tuple[Any, Any]:
    """Tokenizer and model, its parts where `places` says.

    Raises Refused where transformers cannot make sense of the folder.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # it would fill the worker's log
    common = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **common)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            use_safetensors=True,
            device_map=places,
            output_loading_info=True,
            **weights(places, quantisation),
            **common,
        )
    except (ValueError, KeyError, ImportError, OSError, ArithmeticError, TypeError,
            AttributeError, AssertionError) as error:  # fmt: skip
        first = str(error).strip().partition("\n")[0][:300]
        raise Refused(
            f"transformers could not open {path.name}: {first}",
            "Check that the model's folder is complete, or use another model.",
            str(error),
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # they would be filled with random numbers
        raise Refused(
            f"The model {path.name} lacks {len(missing)} of its tensors, such as {missing[0]}.",
            "Download it again.",
        )
    return tokenizer, model.eval()


def weights(places: dict[str, Any], quantisation: str) -> dict[str, Any]:
    """What `from_pretrained` takes to keep the weights as `quantisation` says."""
    import torch
    import transformers

    plain = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if quantisation in plain:
        return {"dtype": plain[quantisation]}
    divided = "" not in places  # bitsandbytes then leaves what waits in RAM unquantised
    if quantisation == "int8":
        return {
            "dtype": torch.float16,  # what LLM.int8 computes with; it casts anything else each time
            "quantization_config": transformers.BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_enable_fp32_cpu_offload=divided
            ),
        }
    device = places.get("", "cuda")
    has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if has_bf16 else torch.float16 if device == "cuda" else torch.float32
    four_bits = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_enable_fp32_cpu_offload=divided,
    )
    return {"dtype": dtype, "quantization_config": four_bits}
