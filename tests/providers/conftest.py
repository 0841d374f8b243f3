from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from tests.providers.emulated import Emulated


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    """One emulator for a file of tests."""
    running = Emulated(tmp_path_factory.mktemp("emulator"))
    yield running
    running.stop()


@pytest.fixture
def own_emulated(tmp_path: Path) -> Iterator[Emulated]:
    """An emulator of a test's own, for exact bills."""
    running = Emulated(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def openai_client(emulated: Emulated) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{emulated.url}/v1", api_key="sk-test-openai", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def anthropic_client(emulated: Emulated) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=emulated.url, api_key="sk-test-anthropic", max_retries=0, timeout=10) as client:
        yield client
