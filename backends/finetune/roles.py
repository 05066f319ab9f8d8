"""Who speaks, by the many names that are in use for it."""

from __future__ import annotations

# Of ShareGPT files: conversations that are brought in, and training data.
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
CALL = "call"  # a turn that is a call of a function
# Of training data alone.
TOOL_SPEAKERS = {
    "function_call": CALL, "tool_call": CALL, "observation": "tool", "tool": "tool",
    "function": "tool", "function_response": "tool", "tool_response": "tool", "ipython": "tool",
    "developer": "system", "prompter": "user", "bot": "assistant", "ai": "assistant",
}  # fmt: skip
