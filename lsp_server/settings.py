"""What a client may set under `snowcoder`: one typed model for every way it reaches the server.

`initializationOptions.snowcoder` is the base; what `workspace/configuration` or
`workspace/didChangeConfiguration` say goes on top. An invalid value never stops the server: it
gets a sentence for the user and the default. The schema for editors is made from this model.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from completion.exclude import check_patterns
from completion.types import (
    ConfidencePolicy,
    ContextPolicy,
    DecodePolicy,
    Pivot,
    PivotPolicy,
    Policies,
    TriggerPolicy,
)
from models.templates import TEMPLATES

SECTION = "snowcoder"
CLIENT_SETTINGS = frozenset({"command", "package"})
"""Names that belong to an editor's extension; they travel along and mean nothing here."""


CANDIDATES = 3
"""Suggestions that an explicit request gives at most."""


class OnBattery(StrEnum):
    """What happens while the machine runs on battery."""

    ALWAYS = "always"
    INVOKED = "invoked"
    NEVER = "never"


class Settings(BaseModel):
    """Names are in camel case on the wire (`deadlineMs`)."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True
    )

    deadline_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=DecodePolicy().deadline_ms,
        description="Milliseconds after which decoding stops with what it has; null waits.",
    )
    min_logprob: Annotated[float, Field(le=0)] | None = Field(
        default=ConfidencePolicy().min_logprob,
        description="Show a suggestion only if its summed token log-probability is above this; "
        "null shows all.",
    )
    max_lines: Annotated[int, Field(ge=1, le=50)] = Field(
        default=8,
        description="Most lines of a suggestion where a block is open and empty; 1 never goes on.",
    )
    languages: list[str] | None = Field(
        default=None,
        description="LSP language ids to complete in; null means those of the model card.",
    )
    exclude: list[str] = Field(
        default=[],
        description="Files (gitignore patterns) that are never put in a prompt, besides secrets "
        "and what .snowcoderignore names.",
    )
    model: str | None = Field(
        default=None, description="Folder or name of other weights; null means the packaged ones."
    )
    threads: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Processor cores of one suggestion; null means what the command line says (2).",
    )
    engine: Literal["local", "remote", "local-then-remote"] = Field(
        default="local",
        description="Who suggests: the local model; a remote engine, and the local model where it "
        "fails; or the local model, and a remote engine where that has nothing to show.",
    )
    remote_url: str | None = Field(
        default=None,
        description="Address of a remote engine of the OpenAI protocol, such as "
        "https://gpu.example.com/v1; text around the cursor is sent there. Its token is read from "
        "the environment variable SNOWCODER_REMOTE_TOKEN.",
    )
    remote_model: str = Field(
        default="", description="Name that the remote engine knows its model by."
    )
    remote_template: str | None = Field(
        default=None,
        description="How the remote model is told what is before and after the cursor; null means "
        "by its name.",
    )
    on_battery: OnBattery = Field(
        default=OnBattery.ALWAYS,
        # Strict mode wants the enum itself, which JSON cannot say.
        strict=False,
        description="While on battery: suggest always, only when invoked, or never.",
    )

    completion: bool = Field(
        default=False,
        description="Offer the suggestion in the completion menu, for editors without inline "
        "completion. Read once, when the server starts.",
    )
    context: Literal["on", "off"] = Field(
        default="off",
        description="Put related code of the workspace in front of the prompt; an index of its "
        "source files is kept in the user's cache folder. Off by default: the packaged model gains "
        "little from it (dev/LOG.md).",
    )
    pivot: Pivot = Field(
        default=Pivot.OFF,
        strict=False,
        description="Where a block is begun, also write it behind a comment and show the better "
        "one, without the comment (strip) or with it (keep). Takes longer.",
    )
    telemetry: Literal["on", "off"] = Field(
        default="on",
        description="Keep a local record of suggestions and what became of them; off writes "
        "nothing at all. Nothing is sent unless `snowcoder telemetry connect` names a collector.",
    )
    telemetry_retention_days: Annotated[int, Field(ge=1)] | None = Field(
        default=730, description="Days after which the local record forgets; null never does."
    )

    @field_validator("exclude")
    @classmethod
    def _readable(cls, patterns: list[str]) -> list[str]:
        check_patterns(patterns)
        return patterns

    @field_validator("remote_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", url):
            raise ValueError("not an address like https://host:port/v1")
        return url

    @field_validator("remote_template")
    @classmethod
    def _known(cls, template: str | None) -> str | None:
        if template is not None and template not in TEMPLATES:
            raise ValueError(f"one of {', '.join(TEMPLATES)}")
        return template

    def policies(self) -> Policies:
        """The policies that requests carry."""
        languages = None if self.languages is None else frozenset(self.languages)
        return Policies(
            trigger=TriggerPolicy(languages=languages),
            decode=DecodePolicy(
                deadline_ms=self.deadline_ms, block_lines=self.max_lines, candidates=CANDIDATES
            ),
            confidence=ConfidencePolicy(min_logprob=self.min_logprob),
            context=ContextPolicy(enabled=self.context == "on"),
            pivot=PivotPolicy(mode=self.pivot),
        )


def section(options: object) -> object:
    """The value under `snowcoder` in an object of settings; None where there is none."""
    return options.get(SECTION) if isinstance(options, dict) else None


def read_settings(*layers: object) -> tuple[Settings, list[str]]:
    """Settings from values of the section, later ones on top; and a sentence per rejected value."""
    given: dict[str, Any] = {}
    problems: list[str] = []
    for layer in layers:
        if isinstance(layer, dict):
            given |= {name: value for name, value in layer.items() if name not in CLIENT_SETTINGS}
        elif layer is not None:
            problems.append("the settings are not an object")
    try:
        return Settings.model_validate(given), problems
    except ValidationError as error:
        rejected = {
            str(e["loc"][0]): e["msg"].removeprefix("Value error, ") for e in error.errors()
        }
    valid = {name: value for name, value in given.items() if name not in rejected}
    if "telemetry" in rejected:
        # Who tried to say something about it did not mean "on".
        valid["telemetry"] = "off"
    problems += [f"{name}: {message}" for name, message in rejected.items()]
    return Settings.model_validate(valid), problems


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the section, for editors."""
    return Settings.model_json_schema(by_alias=True)
