"""The database: tables, views, and the named migrations that lead to them.

Migrations that were released are never edited; a change is a new one below them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlite_utils import Database, Migrations

migrations = Migrations("snowcoder")

_ENVELOPE = {"event_id": str, "user_id": str, "session_id": str, "version": int, "at_us": int}
_ENVELOPE_NOT_NULL = set(_ENVELOPE)


def _create(
    db: Database, name: str, columns: dict[str, type], nullable: tuple[str, ...] = ()
) -> None:
    """Create an event table with the columns that all of them have."""
    db.table(name).create(
        _ENVELOPE | columns,
        pk="event_id",
        not_null=(_ENVELOPE_NOT_NULL | set(columns)) - set(nullable),
        strict=True,
    )
    db.table(name).create_index(["at_us"])


@migrations()
def create_events(db: Database) -> None:
    """One table a class of `telemetry.events`."""
    _create(
        db,
        "opportunities",
        {
            **dict.fromkeys(["request_id", "suggestion_id", "hidden_reason"], str),
            **dict.fromkeys(["language", "trigger", "source", "model", "arms"], str),
            "context_class": str,
            **dict.fromkeys(["chars", "lines", "queue_us", "context_us", "prompt_us"], int),
            **dict.fromkeys(["prefill_us", "decode_us", "shape_us", "total_us"], int),
            **dict.fromkeys(["prompt_tokens", "reused_tokens", "generated_tokens"], int),
            **dict.fromkeys(["drafted_tokens", "accepted_tokens"], int),
            "logprob_sum": float,
            "stop": str,
        },
        nullable=("suggestion_id", "hidden_reason", "source", "logprob_sum", "stop"),
    )
    db.table("opportunities").create_index(["suggestion_id"])
    _create(db, "shown", {"suggestion_id": str})
    db.table("shown").create_index(["suggestion_id"])
    _create(
        db,
        "ended",
        {
            "suggestion_id": str,
            "resolution": str,
            **dict.fromkeys(["chars", "accepted_chars", "typed_chars", "visible_us"], int),
        },
        nullable=("visible_us",),
    )
    db.table("ended").create_index(["suggestion_id"])
    _create(
        db,
        "persistence",
        {
            "suggestion_id": str,
            "after_s": int,
            "status": str,
            **dict.fromkeys(["late_us", "inserted_chars", "present_chars", "distance"], int),
            "reason": str,
        },
        nullable=("present_chars", "distance", "reason"),
    )
    db.table("persistence").create_index(["suggestion_id", "after_s"], unique=True)
    _create(db, "activity", dict.fromkeys(["active_us", "typed_chars", "completed_chars"], int))
    text = dict.fromkeys(["experiment", "arm", "unit", "day"], str)
    _create(db, "exposures", text | {"weight": int})
    _create(db, "lost", {"events": int, "reason": str})


@migrations()
def create_state(db: Database) -> None:
    """Who this installation is, and accepted text that is still to be looked for."""
    db.table("meta").create({"key": str, "value": str}, pk="key", strict=True)
    db.table("pending").create(
        {
            **dict.fromkeys(["suggestion_id", "session_id", "uri", "inserted"], str),
            **dict.fromkeys(["start", "accepted_us", "checks_done"], int),
        },
        pk="suggestion_id",
        not_null={"suggestion_id", "uri", "inserted", "start", "accepted_us", "checks_done"},
        strict=True,
    )


@migrations()
def create_views(db: Database) -> None:
    """The views that reports read."""
    db.create_view("suggestions", _SUGGESTIONS)
    db.create_view("user_days", _USER_DAYS)


def migration_names() -> set[str]:
    """All migrations that this version knows."""
    with closing(sqlite3.connect(":memory:")) as nothing:
        return {migration.name for migration in migrations.pending(Database(nothing))}


_SUGGESTIONS = """
with offered as (
  select suggestion_id, user_id, min(session_id) as session_id, min(at_us) as offered_us,
    date(min(at_us) / 1000000, 'unixepoch') as day,
    min(language) as language, min(model) as model, min(arms) as arms,
    max(chars) as chars, max(lines) as lines,
    min(case when source = 'model' then total_us end) as model_total_us,
    max(logprob_sum) as logprob_sum, count(*) as requests
  from opportunities where suggestion_id is not null and hidden_reason is null
  group by suggestion_id, user_id
), seen as (
  select suggestion_id, min(at_us) as shown_us from shown group by suggestion_id
), closed as (
  select suggestion_id, min(at_us) as ended_us, min(resolution) as resolution,
    max(accepted_chars) as accepted_chars, max(typed_chars) as typed_chars,
    max(visible_us) as visible_us
  from ended group by suggestion_id
), kept as (
  select suggestion_id,
    max(case when after_s = 30 then fraction end) as retained_30,
    max(case when after_s = 120 then fraction end) as retained_120,
    max(case when after_s = 300 then fraction end) as retained_300,
    max(case when after_s = 600 then fraction end) as retained_600
  from (
    select suggestion_id, after_s,
      1.0 - cast(distance as real) / max(inserted_chars, present_chars, 1) as fraction
    from persistence where status in ('on_time', 'file_deleted')
  ) group by suggestion_id
)
select offered.*, seen.shown_us, closed.ended_us, closed.visible_us, closed.resolution,
  coalesce(closed.accepted_chars, 0) as accepted_chars,
  coalesce(closed.typed_chars, 0) as typed_chars,
  case when seen.shown_us is null then null
    when closed.visible_us >= 750000 or closed.resolution = 'accepted' then 1 else 0 end as visible,
  kept.retained_30, kept.retained_120, kept.retained_300, kept.retained_600
from offered
left join seen using (suggestion_id)
left join closed using (suggestion_id)
left join kept using (suggestion_id)
"""

_USER_DAYS = """
with asked as (
  select user_id, date(at_us / 1000000, 'unixepoch') as day, count(*) as opportunities,
    sum(hidden_reason is null) as offers, sum(hidden_reason = 'error') as errors,
    sum(total_us) as total_us
  from opportunities group by 1, 2
), worked as (
  select user_id, date(at_us / 1000000, 'unixepoch') as day, sum(active_us) as active_us,
    sum(typed_chars) as typed_chars, sum(completed_chars) as completed_chars
  from activity group by 1, 2
), suggested as (
  select user_id, day, count(*) as suggestions,
    sum(resolution = 'accepted') as accepted,
    sum(resolution = 'dismissed') as dismissed,
    sum(resolution = 'typed_through') as typed_through,
    sum(case when resolution = 'accepted' then accepted_chars else 0 end) as accepted_chars,
    sum(case when resolution = 'accepted' then accepted_chars * coalesce(
      retained_300, retained_120, retained_30, user_mean, mean, 0.0) else 0.0 end)
      as retained_chars,
    sum(resolution = 'accepted' and retained_300 is null) as censored
  from (
    select *, avg(retained_300) over (partition by user_id) as user_mean,
      avg(retained_300) over () as mean
    from suggestions
  ) group by 1, 2
), days as (
  select user_id, day from asked union select user_id, day from worked
  union select user_id, day from suggested
)
select user_id, day,
  coalesce(opportunities, 0) as opportunities, coalesce(offers, 0) as offers,
  coalesce(errors, 0) as errors, coalesce(total_us, 0) as total_us,
  coalesce(suggestions, 0) as suggestions, coalesce(accepted, 0) as accepted,
  coalesce(dismissed, 0) as dismissed, coalesce(typed_through, 0) as typed_through,
  coalesce(accepted_chars, 0) as accepted_chars,
  coalesce(retained_chars, 0.0) as retained_chars, coalesce(censored, 0) as censored,
  coalesce(active_us, 0) as active_us, coalesce(typed_chars, 0) as typed_chars,
  coalesce(completed_chars, 0) as completed_chars
from days
left join asked using (user_id, day)
left join worked using (user_id, day)
left join suggested using (user_id, day)
"""
