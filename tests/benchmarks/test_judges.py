import pytest

from benchmarks import judges


@pytest.mark.parametrize(
    ("completion", "passes"),
    [
        ("np.sum(grad, axis=0, keepdims=True)", True),
        ("np.sum( grad,\n    keepdims=True, axis=0)", True),
        ("np.sum(grad, axis=1, keepdims=True)", False),
        ("np.mean(grad, axis=0, keepdims=True)", False),
        ("np.sum(grad, axis=0", False),
        ("", False),
    ],
)
def test_api_call(completion, passes):
    assert judges.api_call("np.sum(grad, axis=0, keepdims=True)")(completion) is passes


@pytest.mark.parametrize(
    ("completion", "cut"),
    [
        ("f(g(x), y) * 2)", "f(g(x), y)"),
        ("x) + y", "x)"),
        ("f(x", "f(x"),
        ("plain", "plain"),
    ],
)
def test_until_call_closes(completion, cut):
    assert judges.until_call_closes(completion) == cut


def test_first_line():
    assert judges.first_line("\n  i < 3:\n    pass") == "  i < 3:"
    assert judges.first_line("\n") == ""


def test_until_parsable_drops_what_breaks_the_program():
    before, after = "if True:\n    ", "\nprint(x)\n"
    assert judges.until_parsable(before, "x = 1\n    y = (", after) == "x = 1\n"
    assert judges.until_parsable(before, "x = (", after) == ""


def test_human_eval_runs_the_tests():
    record = {
        "prompt": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    judge = judges.human_eval(record, after="\n")
    assert judge("    return 2 * x")
    assert judge("    return x * x")
    assert not judge("    return x")
    assert not judge("")


def test_safim_compares_the_output():
    record = {
        "ground_truth": "a + b",
        "unit_tests": [
            {"input": "1 2\n", "output": ["3 YES"]},
            {"input": "2 2\n", "output": ["5 no", "4 yes"]},
        ],
    }
    judge = judges.safim_tests(record, "a, b = map(int, input().split())\nprint(", ", 'Yes')\n")
    assert judge("a + b")
    assert judge("b + a")
    assert not judge("a * b")
    assert not judge("exit(3)")
