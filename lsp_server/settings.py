"""What a client may set, under `initializationOptions.snowcoder`.

An invalid value never stops the server: it gets a sentence for the user and the default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from completion.types import ConfidencePolicy, DecodePolicy, Policies, TriggerPolicy


class Settings(BaseModel):
    """Names are in camel case on the wire (`deadlineMs`)."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True
    )

    deadline_ms: Annotated[float, Field(gt=0)] | None = DecodePolicy().deadline_ms
    """Milliseconds after which decoding stops with what it has; null never stops it."""
    min_logprob: Annotated[float, Field(le=0)] | None = ConfidencePolicy().min_logprob
    """Show lines whose summed token log-probability is above this; null shows all."""
    languages: list[str] | None = None
    """LSP language ids to complete in; null means those of the model card."""
    model: str | None = None
    """Folder or name of the weights; null means what the command line or the package says."""
    threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Threads of one decode; null means what the command line says."""
    telemetry: Literal["on", "off"] = "on"
    """Whether a local record is kept; `off` writes nothing at all."""
    telemetry_retention_days: Annotated[int, Field(ge=1)] | None = 730
    """Days after which the record forgets; null never does."""

    def policies(self) -> Policies:
        """The policies that requests carry."""
        languages = None if self.languages is None else frozenset(self.languages)
        return Policies(
            trigger=TriggerPolicy(languages=languages),
            decode=DecodePolicy(deadline_ms=self.deadline_ms),
            confidence=ConfidencePolicy(min_logprob=self.min_logprob),
        )


def read_settings(options: object) -> tuple[Settings, list[str]]:
    """Settings from a client's `initializationOptions`, and a sentence per rejected value."""
    given = options.get("snowcoder") if isinstance(options, dict) else None
    if given is None:
        return Settings(), []
    if not isinstance(given, dict):
        return Settings(), ["the settings are not an object"]
    try:
        return Settings.model_validate(given), []
    except ValidationError as error:
        problems = {str(e["loc"][0]): e["msg"] for e in error.errors()}
    valid = {name: value for name, value in given.items() if name not in problems}
    if "telemetry" in problems:
        # Who tried to say something about it did not mean "on".
        valid["telemetry"] = "off"
    return Settings.model_validate(valid), [f"{n}: {m}" for n, m in problems.items()]
