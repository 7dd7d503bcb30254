"""The views that reports read, as one text for every SQL engine that events are written to."""

from __future__ import annotations

from enum import Enum


class Dialect(Enum):
    """What engines spell differently: the UTC date of microseconds, and the largest value."""

    SQLITE = "date({us} / 1000000, 'unixepoch')", "max"
    POSTGRES = (
        "to_char(to_timestamp({us} / 1000000) at time zone 'utc', 'YYYY-MM-DD')",
        "greatest",
    )


def views(dialect: Dialect) -> dict[str, str]:
    """The query of each view, in the order in which they stand on each other."""
    date, greatest = dialect.value
    words = {
        "day": date.format(us="at_us"),
        "first_day": date.format(us="min(at_us)"),
        "greatest": greatest,
    }
    return {"suggestions": _SUGGESTIONS.format(**words), "user_days": _USER_DAYS.format(**words)}


_SUGGESTIONS = """
with offered as (
  select suggestion_id, user_id, min(session_id) as session_id, min(at_us) as offered_us,
    {first_day} as day,
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
      1.0 - cast(distance as double precision)
        / {greatest}(inserted_chars, present_chars, 1) as fraction
    from persistence where status in ('on_time', 'file_deleted')
  ) as looks group by suggestion_id
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
  select user_id, {day} as day, count(*) as opportunities,
    count(*) - count(hidden_reason) as offers,
    count(case when hidden_reason = 'error' then 1 end) as errors,
    cast(sum(total_us) as bigint) as total_us
  from opportunities group by 1, 2
), worked as (
  select user_id, {day} as day,
    cast(sum(active_us) as bigint) as active_us,
    cast(sum(typed_chars) as bigint) as typed_chars,
    cast(sum(completed_chars) as bigint) as completed_chars
  from activity group by 1, 2
), suggested as (
  select user_id, day, count(*) as suggestions,
    count(case when resolution = 'accepted' then 1 end) as accepted,
    count(case when resolution = 'dismissed' then 1 end) as dismissed,
    count(case when resolution = 'typed_through' then 1 end) as typed_through,
    cast(sum(case when resolution = 'accepted' then accepted_chars else 0 end) as bigint)
      as accepted_chars,
    sum(case when resolution = 'accepted' then accepted_chars * coalesce(
      retained_300, retained_120, retained_30, user_mean, mean, 0.0) else 0.0 end)
      as retained_chars,
    count(case when resolution = 'accepted' and retained_300 is null then 1 end) as censored
  from (
    select *, avg(retained_300) over (partition by user_id) as user_mean,
      avg(retained_300) over () as mean
    from suggestions
  ) as told group by 1, 2
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
