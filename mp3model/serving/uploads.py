"""An HTTP request with files in; the files, still in temporary storage without a name, and a checked question out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mp3model.serving.requests import (
    FORECAST_FIELDS,
    Asked,
    Limits,
    Refusal,
    asked_of,
    fields_of_form,
    json_of,
    labels_of,
)

_MOST_FIELDS = 2_000


@dataclass(frozen=True)
class Sent:
    """A request as it came.

    Attributes:
        files: Whose content lies in memory, or in files without a name that are gone when they are closed.
        labels: What the songs are called, one at least.
        asked: Of each of them.
        close: Closes the files.
    """

    files: list[UploadFile]
    labels: list[str]
    asked: Asked
    close: Callable[[], None]


async def received(
    request: Request, known: Sequence[str], limits: Limits, allowed: Sequence[str] = FORECAST_FIELDS
) -> Sent:
    """The request's files and question; files are closed where it is refused.

    Args:
        request: A form, or JSON.
        known: Regions.
        limits: Of what may be asked.
        allowed: Names of fields.

    Raises:
        Refusal: If it cannot be read, or asks what cannot be answered.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        fields = json_of(await request.body(), "body")
        if not isinstance(fields, dict):
            raise Refusal(422, "bad_json", "body: give a JSON object")
        return Sent([], ["song"], asked_of(fields, known, limits, allowed), lambda: None)
    if kind != "multipart/form-data":
        raise Refusal(415, "unsupported_body", "give multipart/form-data, or application/json without audio")
    form = await _form(request, limits)
    try:
        files = _files(form, limits)
        fields = fields_of_form(await _texts(form, limits))
        asked = asked_of(fields, known, limits, allowed)
    except BaseException:
        _close(form)
        raise
    labels = labels_of([file.filename for file in files]) or ["song"]
    return Sent(files, labels, asked, functools.partial(_close, form))


async def _form(request: Request, limits: Limits) -> FormData:
    try:
        return await request.form(max_files=limits.files + 2, max_fields=_MOST_FIELDS, max_part_size=limits.field_bytes)
    except HTTPException as error:
        why = str(error.detail)
        if why.startswith("Too many"):
            raise Refusal(413, "too_many_parts", why) from error
        if "maximum size" in why:
            raise Refusal(413, "field_too_large", why) from error
        raise Refusal(400, "bad_multipart", why) from error


def _close(form: FormData) -> None:
    for _, part in form.multi_items():
        if isinstance(part, UploadFile):
            part.file.close()


def _files(form: FormData, limits: Limits) -> list[UploadFile]:
    files = []
    for part in form.getlist("file"):
        if not isinstance(part, UploadFile):
            raise Refusal(422, "invalid_field", "file: is sent without a filename; send it as a file")
        if (part.size or 0) > limits.file_bytes:
            raise Refusal(413, "file_too_large", f"a file of {part.size} bytes; {limits.file_bytes} are taken")
        files.append(part)
    if len(files) > limits.files:
        raise Refusal(413, "too_many_values", f"{len(files)} files; give {limits.files} at most")
    return files


async def _texts(form: FormData, limits: Limits) -> list[tuple[str, str]]:
    """All fields but `file`; tables may come as files too."""
    texts = []
    for name, part in form.multi_items():
        if isinstance(part, UploadFile) and name != "file":
            if (part.size or 0) > limits.field_bytes:
                raise Refusal(413, "field_too_large", f"{name}: is larger than {limits.field_bytes} bytes")
            try:
                texts.append((name, (await part.read()).decode()))
            except UnicodeDecodeError as error:
                raise Refusal(422, "invalid_table", f"{name}: is no text in UTF-8") from error
        elif isinstance(part, str):
            texts.append((name, part))
    return texts
