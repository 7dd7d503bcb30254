import threading

import pytest

from models.backend import GenerateRequest, StopReason
from models.cancellation import Cancellation


def test_setting_acts_once_inside_the_block_only():
    cancel, calls = Cancellation(), []
    with cancel.acting(lambda: calls.append("first")):
        assert calls == []
    cancel.set()
    assert cancel.is_set()
    assert calls == []
    with cancel.acting(lambda: calls.append("late")):
        assert calls == ["late"], "a flag that is set already acts at once"


def test_every_action_is_called_from_another_thread():
    cancel, calls = Cancellation(), []
    with cancel.acting(lambda: calls.append(1)), cancel.acting(lambda: calls.append(2)):
        setter = threading.Thread(target=cancel.set)
        setter.start()
        setter.join()
        assert calls == [1, 2]


def test_an_error_in_the_block_ends_the_acting():
    cancel, calls = Cancellation(), []
    with pytest.raises(ValueError, match="broken"), cancel.acting(lambda: calls.append(1)):
        raise ValueError("broken")
    cancel.set()
    assert calls == []


def test_a_decode_step_is_stopped_in_the_middle(tiny_backend, monkeypatch):
    session = tiny_backend.session
    forward, options_seen, asked = session.forward, [], GenerateRequest([20] * 30, max_tokens=40)

    def cancelled_in_the_third_run(cache, ids, n_logits=1, run_options=None):
        options_seen.append(run_options)
        if len(options_seen) == 3:
            asked.cancel.set()
            assert run_options.terminate
        return forward(cache, ids, n_logits, run_options)

    monkeypatch.setattr(session, "forward", cancelled_in_the_third_run)
    result = tiny_backend.generate(asked)
    assert result.stop == StopReason.CANCELLED
    assert len(options_seen) == 3
    monkeypatch.undo()
    again = GenerateRequest([20] * 30, max_tokens=40)
    assert tiny_backend.generate(again).token_ids
