"""What the walk over content (`bursar.providers.walk`) knows of each endpoint. A new surface is a row here.

Sources: the API references named in each dialect's file.
"""

from typing import NamedTuple

from bursar.providers.strict_json import names


class ContentTable(NamedTuple):
    """`roles`: whose words a top-level field holds. `settings`: those that no model reads. Any other is walked too."""

    roles: dict[str, str]
    settings: frozenset[str]


_SAMPLING = names(
    "model max_tokens temperature top_p top_k min_p stream n seed frequency_penalty presence_penalty repetition_penalty"
    " logit_bias logprobs service_tier user"
)
_OPENAI = _SAMPLING | names("stream_options")

TABLES: dict[str, ContentTable] = {
    "chat": ContentTable(
        {"tools": "tools", "functions": "tools", "response_format": "tools", "prediction": "assistant"},
        _OPENAI
        | names(
            "max_completion_tokens top_logprobs parallel_tool_calls verbosity metadata store prompt_cache_key"
            " modalities audio reasoning_effort safety_identifier prompt_cache_options prompt_cache_retention"
        ),
    ),
    "completions": ContentTable({"prompt": "user", "suffix": "user"}, _OPENAI | names("best_of echo")),
    "embeddings": ContentTable({"input": "user"}, names("model encoding_format dimensions user")),
    "responses": ContentTable(
        {"input": "user", "instructions": "system", "tools": "tools", "text": "tools"},
        _OPENAI
        | names(
            "max_output_tokens max_tool_calls background store include metadata parallel_tool_calls top_logprobs"
            " truncation reasoning safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention"
            " previous_response_id conversation"
        ),
    ),
    "conversations": ContentTable({"items": "user"}, names("metadata")),
    "messages": ContentTable(
        {"system": "system", "tools": "tools", "output_config": "tools"},
        _SAMPLING | names("metadata thinking speed inference_geo cache_control"),
    ),
}
TABLES["count_tokens"] = TABLES["messages"]

# Names of objects that the APIs define, so that they are no news; True = what they hold is a word of the API as well.
LABELS: dict[str, bool] = {
    **dict.fromkeys(
        names(
            "role type id tool_call_id tool_use_id media_type format detail ttl cache_control index finish_reason"
            " call_id status page_age return_code error_code file_type num_lines start_line total_lines is_error"
            " is_file_update new_lines new_start old_lines old_start retrieved_at prompt_cache_breakpoint strict"
            " max_uses defer_loading enabled"
        ),
        True,
    ),
    **dict.fromkeys(
        names(
            "content text name refusal tool_calls function function_call audio image_url input_audio file source title"
            " context thinking citations input arguments description parameters input_schema url data file_id file_data"
            " filename custom annotations reasoning reasoning_content reasoning_details caller toolset_name tool"
            " signature encrypted_content encrypted_stdout stdout stderr error_message lines tool_references tool_name"
            " transformations json_schema schema"
        ),
        False,
    ),
}
SCHEMAS = names("parameters input_schema json_schema schema input_examples output_config response_format")
ARGUMENTS = names("arguments input")
REFERENCES = names("url image_url file_id")
OPAQUE = names("signature encrypted_content encrypted_stdout")
