from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completion.reuse import Offer, Offers, Remainder, remainder
from completion.types import ConfidencePolicy, Policies

OFFER = Offer("id", "x = foo(", ")\n", "a, b)", 1)
POLICIES = Policies()

text = st.text(alphabet="ab(),\n", max_size=8)
inserts = st.text(alphabet="ab(), ", min_size=1, max_size=10)
closers = st.text(alphabet=")]\"'", max_size=4)


@given(prefix=text, rest=text, replaced=closers, insert=inserts, data=st.data())
def test_typing_through_always_leads_to_the_offered_document(
    prefix: str, rest: str, replaced: str, insert: str, data: st.DataObject
) -> None:
    suffix = replaced + "\n" + rest
    offer = Offer("id", prefix, suffix, insert, len(replaced))
    typed = data.draw(st.integers(0, len(insert)))
    # The editor may have closed brackets meanwhile, or the user may have typed over some.
    right = data.draw(closers)
    now, after = prefix + insert[:typed], right + "\n" + rest
    left = remainder(offer, now, after)
    assert left is not None
    assert left.insert == insert[typed:]
    assert now + left.insert + after[left.replace_right :] == prefix + insert + "\n" + rest


@given(prefix=text, suffix=text, insert=inserts, now=text, after=text)
def test_whatever_is_answered_leads_to_the_offered_document(
    prefix: str, suffix: str, insert: str, now: str, after: str
) -> None:
    offer = Offer("id", prefix, suffix, insert, 0)
    left = remainder(offer, prefix + now, after)
    if left is not None:
        assert prefix + now + left.insert + after[left.replace_right :] == prefix + insert + suffix


def test_another_character_ends_the_offer() -> None:
    offers = Offers()
    offers.put("a", POLICIES, OFFER)
    assert offers.find("a", POLICIES, "x = foo(a", ")\n") == Remainder(OFFER, ", b)", 1)
    assert offers.find("a", POLICIES, "x = foo(az", ")\n") is None


OTHER = Offer("other", "x = foo(az", ")\n", "+ 1", 0)


def test_a_slip_that_is_deleted_brings_the_earlier_offer_back_under_a_new_id() -> None:
    offers = Offers()
    offers.put("a", POLICIES, OFFER)
    offers.put("a", POLICIES, OTHER)
    back = offers.find("a", POLICIES, "x = foo(a", ")\n")
    assert back is not None
    assert (back.insert, back.replace_right, back.recalled) == (", b)", 1, True)
    assert back.offer.suggestion_id not in ("id", "other")
    assert back.offer == replace(OFFER, suggestion_id=back.offer.suggestion_id)
    on = offers.find("a", POLICIES, "x = foo(a,", ")\n")
    assert on == Remainder(back.offer, " b)", 1)
    slipped = offers.find("a", POLICIES, "x = foo(az", ")\n")
    assert slipped is not None
    assert slipped.insert == "+ 1"


def test_what_was_used_up_is_not_recalled() -> None:
    offers = Offers()
    offers.put("a", POLICIES, OFFER)
    offers.put("a", POLICIES, OTHER)
    assert offers.find("a", POLICIES, "x = foo(a, b)", "\n") is None


def test_what_was_dismissed_stays_so_after_a_look_elsewhere() -> None:
    offers = Offers()
    offers.put("a", POLICIES, OFFER)
    offers.dismissed("id")
    offers.put("a", POLICIES, OTHER)
    back = offers.find("a", POLICIES, OFFER.prefix, OFFER.suffix)
    assert back is not None
    assert back.offer.dismissed
    assert not back.offer.accepted


def test_what_is_deleted_of_an_accepted_offer_is_not_brought_back_by_an_earlier_one() -> None:
    offers = Offers()
    offers.put("b", POLICIES, replace(OFFER, suggestion_id="b"))
    offers.put("a", POLICIES, Offer("early", "x = ", "\n", "foo(a, b)", 0))
    offers.put("a", POLICIES, OFFER)
    offers.put("a", POLICIES, OTHER)  # the next request may overtake the acceptance
    offers.accepted("id")
    assert offers.find("a", POLICIES, "x = foo(a", "\n") is None
    assert offers.find("a", POLICIES, OTHER.prefix, OTHER.suffix) == Remainder(OTHER, "+ 1", 0)
    assert offers.find("b", POLICIES, "x = foo(a", ")\n") is not None


def test_backspacing_within_the_typed_part_keeps_the_offer() -> None:
    assert remainder(OFFER, "x = foo(a, ", ")\n") == Remainder(OFFER, "b)", 1)
    assert remainder(OFFER, "x = foo(a", ")\n") == Remainder(OFFER, ", b)", 1)


def test_backspacing_before_the_trigger_point_drops_it() -> None:
    assert remainder(OFFER, "x = foo", "\n") is None
    assert remainder(OFFER, "x = foo", ")\n") is None


def test_an_edit_elsewhere_drops_it() -> None:
    assert remainder(OFFER, "y = foo(a", ")\n") is None
    assert remainder(OFFER, "x = foo(a", ")\nmore") is None
    assert remainder(OFFER, "x = foo(a", ") or c)\n") is None
    assert remainder(OFFER, "x = foo(a", "\n)\n") is None


def test_fully_typed_leaves_nothing() -> None:
    assert remainder(OFFER, "x = foo(a, b)", "\n") == Remainder(OFFER, "", 0)


def test_what_is_deleted_of_an_accepted_offer_is_not_offered_again() -> None:
    offers = Offers()
    offers.put("a", POLICIES, OFFER)
    offers.accepted("unknown")
    offers.accepted("id")
    assert offers.find("a", POLICIES, "x = foo(a, b)", "\n") == Remainder(
        replace(OFFER, accepted=True), "", 0
    )
    assert offers.find("a", POLICIES, "x = foo(a, b", "\n") is None


def test_documents_and_experiment_arms_are_kept_apart() -> None:
    offers = Offers()
    offers.put("a", POLICIES, OFFER)
    other = Policies(confidence=ConfidencePolicy(None))
    assert offers.find("b", POLICIES, OFFER.prefix, OFFER.suffix) is None
    assert offers.find("a", other, OFFER.prefix, OFFER.suffix) is None
    assert offers.find("a", POLICIES, OFFER.prefix, OFFER.suffix) is not None
    offers.forget("a")
    assert offers.find("a", POLICIES, OFFER.prefix, OFFER.suffix) is None


@pytest.mark.parametrize(
    "limit", [{"most": 2}, {"characters": 2 * len(OFFER.prefix + OFFER.suffix)}]
)
def test_the_least_recently_used_goes_first(limit: dict[str, int]) -> None:
    offers = Offers(**limit)
    for uri in ("a", "b"):
        offers.put(uri, POLICIES, replace(OFFER, suggestion_id=uri))
        offers.put_ahead(uri, POLICIES, OTHER)
    offers.find("a", POLICIES, OFFER.prefix, OFFER.suffix)
    offers.put("c", POLICIES, replace(OFFER, suggestion_id="c"))
    found = {
        uri: offers.find(uri, POLICIES, OFFER.prefix, OFFER.suffix) is not None for uri in "abc"
    }
    assert found == {"a": True, "b": False, "c": True}
    assert offers.has_ahead("a", POLICIES)
    assert not offers.has_ahead("b", POLICIES)


def test_a_document_larger_than_the_limit_has_its_latest_offer() -> None:
    offers = Offers(characters=1)
    offers.put("a", POLICIES, OFFER)
    assert offers.find("a", POLICIES, OFFER.prefix, OFFER.suffix) is not None
