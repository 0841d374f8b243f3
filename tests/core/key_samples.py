"""Keys of every shape, made at run time: none stands in this repository, where a scanner would find it."""

import random
import string
from collections.abc import Callable

from bursar.core.tokens import mint
from tests.control.tenants import SeededEntropy

_ALNUM = string.ascii_letters + string.digits
_URLSAFE = _ALNUM + "-_"
_HEX = "0123456789abcdef"
_MARK = "T3Blbk" + "FJ"
_ENTROPY = SeededEntropy()


def samples(chance: random.Random) -> dict[str, str]:
    """Shape id -> a text with one key of it; those without a prefix of their own stand in an assignment."""

    def some(count: int, of: str = _ALNUM) -> str:
        return "".join(chance.choices(of, k=count - 1)) + chance.choice(of.rstrip("-_"))

    made: dict[str, Callable[[], str]] = {
        "openai-key": lambda: f"sk-proj-{some(74, _URLSAFE)}{_MARK}{some(74, _URLSAFE)}",
        "anthropic-key": lambda: f"sk-ant-api03-{some(93, _URLSAFE)}AA",
        "anthropic-admin-key": lambda: f"sk-ant-admin01-{some(93, _URLSAFE)}AA",
        "anthropic-oauth-token": lambda: f"sk-ant-oat01-{some(90, _URLSAFE)}",
        "google-api-key": lambda: f"AIza{some(35, _URLSAFE)}",
        "google-auth-key": lambda: f"AQ.Ab8RN6{some(44, _URLSAFE)}",
        "azure-openai-key": lambda: f"{some(52)}JQQJ99{some(26)}",
        "azure-openai-key-old": lambda: f"AZURE_OPENAI_API_KEY={some(32, _HEX)}",
        "bedrock-key": lambda: f"ABSK{some(120)}",
        "bedrock-short-term-key": lambda: f"bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t{some(80)}",
        "groq-key": lambda: f"gsk_{some(52)}",
        "xai-key": lambda: f"xai-{some(80)}",
        "openrouter-key": lambda: f"sk-or-v1-{some(64, _HEX)}",
        "perplexity-key": lambda: f"pplx-{some(48)}",
        "huggingface-token": lambda: f"hf_{some(33, string.ascii_letters)}x",
        "huggingface-org-token": lambda: f"api_org_{some(33, string.ascii_letters)}x",
        "replicate-token": lambda: f"r8_{some(37)}",
        "databricks-token": lambda: f"dapi{some(32, _HEX)}",
        "together-key": lambda: f"tgp_v1_{some(43, _URLSAFE)}",
        "cerebras-key": lambda: f"csk-{some(48)}",
        "nvidia-key": lambda: f"nvapi-{some(64, _URLSAFE)}",
        "vercel-ai-gateway-key": lambda: f"vck_{some(56)}",
        "minimax-key": lambda: f"sk-api-{some(119, _URLSAFE)}",
        "fireworks-key": lambda: f"fw_{some(24)}",
        "elevenlabs-key": lambda: f"sk_{some(48, _HEX)}",
        "deepseek-key": lambda: f"sk-{some(32, _HEX)}",
        "moonshot-key": lambda: f"sk-{some(48)}",
        "mistral-key": lambda: f'"mistral_api_key": "{some(32)}"',
        "cohere-key": lambda: f"COHERE_API_KEY={some(40)}",
        "ollama-key": lambda: f"ollama-token: '{some(32, _HEX)}.{some(24)}'",
        "bursar-key": mint(_ENTROPY)[1].reveal,
        "bursar-admin-token": mint(_ENTROPY, "admin")[1].reveal,
    }
    return {name: make() for name, make in made.items()}
