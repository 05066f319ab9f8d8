"""The configs of models that people have, as far as sizes go, in transformers' own words."""

from __future__ import annotations

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "Llama 2 7B": dict(model_type="llama", vocab_size=32000, hidden_size=4096,
        intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096, tie_word_embeddings=False),
    "Llama 2 13B": dict(model_type="llama", vocab_size=32000, hidden_size=5120,
        intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40,
        max_position_embeddings=4096, tie_word_embeddings=False),
    "Llama 3 8B": dict(model_type="llama", vocab_size=128256, hidden_size=4096,
        intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=False),
    "Mistral 7B": dict(model_type="mistral", vocab_size=32000, hidden_size=4096,
        intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, sliding_window=4096, max_position_embeddings=32768,
        tie_word_embeddings=False),
    "Qwen2.5 0.5B": dict(model_type="qwen2", vocab_size=151936, hidden_size=896,
        intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, sliding_window=32768, use_sliding_window=False,
        max_window_layers=21, tie_word_embeddings=True),
    "Qwen3 4B": dict(model_type="qwen3", vocab_size=151936, hidden_size=2560,
        intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "Gemma 2B": dict(model_type="gemma", vocab_size=256000, hidden_size=2048,
        intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8,
        num_key_value_heads=1, head_dim=256),
    "Gemma 2 2B": dict(model_type="gemma2", vocab_size=256000, hidden_size=2304,
        intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, sliding_window=4096, attn_logit_softcapping=50.0),
    "Gemma 3 1B": dict(model_type="gemma3_text", vocab_size=262144, hidden_size=1152,
        intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, sliding_window=512, sliding_window_pattern=6),
    "Phi-2": dict(model_type="phi", vocab_size=51200, hidden_size=2560, intermediate_size=10240,
        num_hidden_layers=32, num_attention_heads=32, hidden_act="gelu_new",
        tie_word_embeddings=False),
    "Phi-4 mini": dict(model_type="phi3", vocab_size=200064, hidden_size=3072,
        intermediate_size=8192, num_hidden_layers=32, num_attention_heads=24,
        num_key_value_heads=8, tie_word_embeddings=True, pad_token_id=0),
    "Pythia 410M": dict(model_type="gpt_neox", vocab_size=50304, hidden_size=1024,
        intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        tie_word_embeddings=False),
    "TinyLlama": dict(model_type="llama", vocab_size=32000, hidden_size=2048,
        intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, tie_word_embeddings=False),
}  # fmt: skip


def real(name: str, layers: int | None = None) -> Any:
    """As transformers reads it, with all its layers or fewer."""
    import transformers

    fewer = {"num_hidden_layers": layers} if layers else {}
    return transformers.AutoConfig.for_model(**{**SHAPES[name], **fewer})
