"""Provider keys in environments, dotenv files and sheets: found by shape and name, never shown."""

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.control.import_keys import from_csv, from_dotenv, from_environment
from bursar.core.strict import Faults
from tests.core.key_samples import samples

SAMPLES = samples(random.Random(7))
OPENAI, ANTHROPIC = SAMPLES["openai-key"], SAMPLES["anthropic-key"]


def test_keys_are_known_by_their_shape_or_else_by_their_name() -> None:
    found = from_environment(
        {
            "PATH": "/bin",
            "LLM": OPENAI,
            "ANTHROPIC_API_KEY": "something-new",
            "MISTRAL_API_KEY": "a" * 32,
            "HOME_API": "x",
            "BURSAR_API_KEY": SAMPLES["bursar-key"],
            "EMPTY_API_KEY": "",
        },
        "from-env",
    )
    assert {one.name: one.address for one in found} == {
        "LLM": "openai/*/api_key/from-env/*",
        "ANTHROPIC_API_KEY": "anthropic/*/api_key/from-env/*",
        "MISTRAL_API_KEY": "mistral/*/api_key/from-env/*",
    }
    assert OPENAI not in repr(found)


def test_several_keys_of_one_provider_get_addresses_of_their_own() -> None:
    found = from_environment({"OPENAI_API_KEY": OPENAI, "OPENAI_API_KEY_BATCH": OPENAI[:-1] + "A"}, "from-env")
    assert [one.address for one in found] == [
        "openai/*/api_key/from-env/*",
        "openai/*/api_key/from-env-openai_api_key_batch/*",
    ]


def test_a_dotenv_file_is_read_with_its_lines() -> None:
    text = f"# {OPENAI}\n\nexport OPENAI_API_KEY='{OPENAI}'\nDEBUG=1\nANTHROPIC_API_KEY={ANTHROPIC}  # prod\r\n"
    found = from_dotenv(text, "from-env")
    assert [(one.line, one.name, one.value.reveal()) for one in found] == [
        (3, "OPENAI_API_KEY", OPENAI),
        (5, "ANTHROPIC_API_KEY", ANTHROPIC),
    ]
    with pytest.raises(Faults) as caught:
        from_dotenv(f"{OPENAI}\nA=1\n{ANTHROPIC} x\n", "from-env")
    assert [fault.path for fault in caught.value.faults] == ["line 1", "line 3"]
    assert OPENAI[:12] not in str(caught.value)


def test_a_sheet_tells_all_its_faults_by_line_and_no_value() -> None:
    head = "address,value,billing_owner,allowed_models\n"
    (one,) = from_csv(f'{head}openai/*/api_key/prod/*,{OPENAI},ann,"gpt-4o,o3"\n\n')
    assert (one.line, one.tags) == (2, {"billing_owner": "ann", "allowed_models": "gpt-4o,o3"})
    with pytest.raises(Faults) as caught:
        from_csv(f"{head}openai,{OPENAI},ann,\nopenai/*/api_key/prod/*,,ann,\na,b\nopenai/*/*/*/*,{OPENAI},{OPENAI},\n")
    assert [(fault.path, fault.word) for fault in caught.value.faults] == [
        ("line 2", "invalid_address"),
        ("line 3", "missing"),
        ("line 4", "bad_value"),
        ("line 5", "invalid_secret"),
    ]
    assert OPENAI[:12] not in str(caught.value)
    with pytest.raises(Faults):
        from_csv(f"address,billing_owner\nopenai/*/api_key/prod/*,{OPENAI}\n")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (from_csv, lambda given: from_dotenv(given, "from-env")):
        with contextlib.suppress(Faults):
            read(text)
