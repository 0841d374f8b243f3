"""The form of an upload, read strictly: never another purpose than any other reader finds in the same bytes."""

import email.parser
import email.policy

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.core.uploads import PURPOSES, read_upload

TYPE = "multipart/form-data; boundary=b1"
PURPOSE = b'--b1\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n%b\r\n'
FILE = b'--b1\r\ncontent-disposition: form-data; name="file"; filename="a"\r\ncontent-type: text/plain\r\n\r\n%b\r\n'
END = b"--b1--\r\n"
GOOD = PURPOSE % b"batch" + FILE % b"text" + END


@given(st.sampled_from(sorted(PURPOSES)), st.binary(max_size=300), st.text(max_size=20))
def test_what_a_library_builds_is_read(purpose: str, content: bytes, name: str) -> None:
    data = {"purpose": purpose, "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    sent = httpx.Request("POST", "http://x", data=data, files={"file": (name or "a", content)})
    try:
        upload = read_upload(sent.headers["content-type"], sent.read())
    except Refusal as refusal:
        assert "\\" in name, refusal  # noqa: PT017 - the one character that is refused
        return
    assert (upload.purpose, upload.needs) == (purpose, PURPOSES[purpose])
    assert upload.media_type == sent.headers["content-type"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "malformed_request"),
        (GOOD[:-4], "malformed_request"),
        (b"preamble\r\n" + GOOD, "malformed_request"),
        (GOOD + b"epilogue", "malformed_request"),
        (GOOD.replace(b"\r\n", b"\n"), "malformed_request"),
        (PURPOSE % b"user_data" + PURPOSE % b"batch" + FILE % b"" + END, "duplicate_field"),
        (FILE % b"" + FILE % b"" + PURPOSE % b"batch" + END, "duplicate_field"),
        (FILE % b"" + END, "invalid_field"),
        (PURPOSE % b"batch" + END, "invalid_field"),
        (PURPOSE % b"batch_output" + FILE % b"" + END, "invalid_field"),
        (PURPOSE % b"batch\n" + FILE % b"" + END, "invalid_field"),
        (PURPOSE % b"Batch" + FILE % b"" + END, "invalid_field"),
        (PURPOSE.replace(b'"purpose"', b'"Purpose"') % b"batch" + GOOD, "invalid_field"),
        (PURPOSE.replace(b'"purpose"', b'"purpose"; filename="x"') % b"batch" + FILE % b"" + END, "invalid_field"),
        (PURPOSE.replace(b'"purpose"', b"purpose") % b"batch" + FILE % b"" + END, "invalid_field"),
        (GOOD.replace(b"\r\n\r\nbatch", b"\r\ncontent-transfer-encoding: base64\r\n\r\nbatch"), "malformed_request"),
        (
            GOOD.replace(b"\r\n\r\nbatch", b'\r\nCONTENT-disposition: form-data; name="file"\r\n\r\nx'),
            "malformed_request",
        ),
        (GOOD.replace(b"\r\n\r\nbatch", b"\r\n folded: x\r\n\r\nbatch"), "malformed_request"),
        (FILE % (b"x\n--b1\nhidden") + PURPOSE % b"batch" + END, "malformed_request"),
        (FILE % b"x--b1y" + PURPOSE % b"batch" + END, "malformed_request"),
        (FILE % b"x\r\n--b1--\r\n" + PURPOSE % b"batch" + END, "malformed_request"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(body: bytes, word: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_upload(TYPE, body)
    assert refused.value.word == word


@pytest.mark.parametrize(
    "media_type",
    ["", "application/json", "multipart/form-data", TYPE + "; charset=utf-16", TYPE + "; boundary=b2", "x" + TYPE],
)
def test_the_boundary_is_told_once(media_type: str) -> None:
    with pytest.raises(Refusal):
        read_upload(media_type, GOOD)


PIECES = [
    b"--b1",
    b"\r\n",
    b"\n",
    b"--",
    b":",
    b'"',
    b"batch",
    b"user_data",
    b'content-disposition: form-data; name="purpose"',
]
PIECES += [PURPOSE % b"batch", PURPOSE % b"user_data", FILE % b"x", END, b"\r\n\r\n", b" "]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_a_reader_of_mails_finds_the_same_purpose(body: bytes) -> None:
    try:
        upload = read_upload(TYPE, body)
    except Refusal:
        return
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        f"content-type: {TYPE}\r\n\r\n".encode() + body
    )
    named = [part for part in form.iter_parts() if part.get_param("name", header="content-disposition") == "purpose"]
    assert [part.get_payload(decode=True) for part in named] == [upload.purpose.encode()]
