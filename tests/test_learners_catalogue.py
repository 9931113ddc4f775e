"""Every learner of the list, through the one protocol: on random instances and a judged table."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest

from rlhfsim import ContextualBandit, PreferenceData, example_table, random_bandit
from rlhfsim.cli import main
from rlhfsim.comparison import COLUMNS, Failed, comparison, markdown
from rlhfsim.data import DemonstrationData
from rlhfsim.learners import LEARNERS, Learner, setting_for
from rlhfsim.sampling import sample_preferences

BANDITS = {
    "random": random_bandit(4, 6, np.random.default_rng(3), skew=1.0),
    "judged table": ContextualBandit.from_table(example_table()),
}
KEYS = [entry.key for entry in LEARNERS]
by_key = {entry.key: entry for entry in LEARNERS}


def problem(name):
    bandit = BANDITS[name]
    setting = setting_for(bandit, np.random.default_rng(1), beta=0.5)
    return bandit, setting, sample_preferences(bandit, 600, np.random.default_rng(2))


def fitted(key, bandit, setting, data):
    learner = by_key[key].build(setting)
    assert isinstance(learner, Learner)
    return learner.fit(
        data, bandit.reference, prompt_dist=bandit.prompt_dist, rng=np.random.default_rng(0)
    )


def test_keys_are_unique():
    assert len(set(KEYS)) == len(KEYS)


@pytest.mark.parametrize("name", BANDITS)
@pytest.mark.parametrize("key", KEYS)
def test_the_protocol(key, name):
    bandit, setting, data = problem(name)
    before = bandit.reference.copy()
    learned = fitted(key, bandit, setting, data)
    assert learned.policy.shape == bandit.shape
    np.testing.assert_allclose(learned.policy.sum(axis=1), 1.0, atol=1e-12)
    assert not learned.policy[bandit.reference == 0].any()
    assert not learned.policy.flags.writeable
    if learned.residual is not None:
        assert 0 <= learned.residual < 1e-8
    again = fitted(key, bandit, setting, data)
    np.testing.assert_array_equal(again.policy, learned.policy)
    np.testing.assert_array_equal(bandit.reference, before)


# Those that draw responses of their own: by another name, a response is drawn by other numbers.
DRAWING = ("online-enhancer", "online-thompson", "xpo", "iterated-dpo")


@pytest.mark.parametrize("key", [key for key in KEYS if key not in DRAWING])
def test_the_order_of_rows_and_the_names_of_responses_do_not_matter(key):
    bandit, setting, data = problem("random")
    rng = np.random.default_rng(4)
    rows, new = rng.permutation(len(data)), rng.permutation(bandit.shape[1])
    old = np.argsort(new)
    demos = setting.demonstrations
    renamed = setting._replace(
        demonstrations=DemonstrationData(demos.prompt, new[demos.response], demos.shape),
        features=setting.features[:, old],
        rewards=setting.rewards[:, :, old],
        policies=setting.policies[:, :, old],
        prefixes=setting.prefixes.renamed(new),
    )
    other = PreferenceData(
        data.prompt[rows], new[data.chosen[rows]], new[data.rejected[rows]], bandit.shape
    )
    twin = ContextualBandit(bandit.prompt_dist, bandit.reference[:, old], bandit.reward[:, old])
    first = fitted(key, bandit, setting, data).policy
    second = fitted(key, twin, renamed, other).policy
    np.testing.assert_allclose(second[:, new], first, atol=1e-7)


EQUAL = [
    ("rlhf-kl", "dpo"),
    ("rlhf-kl", "bayesian"),
    ("rlhf-kl", "matching-exponential"),
    ("rlhf-mixed", "chipo"),
]


@pytest.mark.parametrize("name", BANDITS)
@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equivalences(one, other, name):
    """Over all policies a direct loss with a bijective link is a reward fit and an optimum."""
    instance = problem(name)
    np.testing.assert_allclose(
        fitted(one, *instance).policy, fitted(other, *instance).policy, atol=1e-12
    )


def test_learners_differ():
    """Those that are not equivalent do not coincide: none of them is another one's name."""
    instance = problem("random")
    policies = {key: fitted(key, *instance).policy for key in KEYS}
    same = {frozenset(pair) for pair in EQUAL}
    same |= {frozenset(("dpo", key)) for key in ("bayesian", "matching-exponential")}
    same |= {frozenset(("bayesian", "matching-exponential"))}
    # Among six policies the best is the same one; the likelihood-ratio set has one reward left.
    finite = ("dpo-finite", "chipo-finite", "pessimistic-likelihood", "xpo", "iterated-dpo")
    same |= {frozenset(pair) for pair in itertools.combinations(finite, 2)}
    for i, one in enumerate(KEYS):
        for other in KEYS[:i]:
            if frozenset((one, other)) not in same:
                assert np.abs(policies[one] - policies[other]).max() > 1e-9, (one, other)


def test_comparison_is_exact_and_reproducible():
    bandit = BANDITS["random"]
    entries = [by_key["rlhf-chi2"], by_key["kto"], by_key["best-of-n"]]
    rows = comparison(bandit, n=300, beta=0.5, seed=7, learners=entries)
    assert [row.key for row in rows] == [entry.key for entry in entries]
    for row in rows:
        pi = row.learned.policy
        value = (bandit.prompt_dist[:, None] * pi * bandit.reward).sum()
        base = (bandit.prompt_dist[:, None] * bandit.reference * bandit.reward).sum()
        best = bandit.prompt_dist @ bandit.reward.max(axis=1)
        ratio = pi / bandit.reference
        assert row.gain == pytest.approx(value - base, abs=1e-12)
        assert row.regret == pytest.approx(best - value, abs=1e-12)
        coverage = bandit.prompt_dist @ (pi * ratio).sum(axis=1)
        assert row.concentrability == pytest.approx(coverage, rel=1e-12)
        assert row.chi_squared == pytest.approx((coverage - 1) / 2, rel=1e-10)
        beats = bandit.reward[:, :, None] > bandit.reward[:, None, :]
        wins = np.einsum("xy,xyz,xz->x", pi, beats, bandit.reference)
        ties = (pi * bandit.reference).sum(axis=1)
        assert row.win_rate == pytest.approx(bandit.prompt_dist @ (wins + ties / 2), abs=1e-12)
    again = comparison(bandit, n=300, beta=0.5, seed=7, learners=entries)
    other = comparison(bandit, n=300, beta=0.5, seed=8, learners=entries)
    assert markdown(again) == markdown(rows) != markdown(other)
    lines = markdown(rows).splitlines()
    assert len(lines) == 2 + len(entries)
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines)


def test_a_learner_that_fails_is_a_row_with_its_reason(monkeypatch, capsys):
    bandit = BANDITS["random"]
    entries = [by_key["rlhf-kl"], by_key["dpo-log-linear"], by_key["best-of-n"]]
    rows = comparison(bandit, n=1, beta=0.5, seed=0, learners=entries)
    assert [isinstance(row, Failed) for row in rows] == [False, True, False]
    assert rows[1].key == "dpo-log-linear"
    lines = markdown([*rows, Failed("x", "mine", "|a| is 2")]).splitlines()
    assert rows[1].reason
    assert lines[3].startswith(f"| {rows[1].name}: {rows[1].reason}"[:60])
    assert all(line.replace(r"\|", "").count("|") == len(COLUMNS) + 1 for line in lines)
    # The others have what they have without it, but for their own generators.
    (alone,) = comparison(bandit, n=1, beta=0.5, seed=0, learners=entries[:1])
    assert alone.row() == rows[0].row()
    few = functools.partial(comparison, learners=entries)
    monkeypatch.setattr("rlhfsim.comparison.comparison", few)
    for arguments in (["--n", "1"], ["--n", "1", "--markdown"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert "ridge=" in out
    with pytest.raises((ValueError, RuntimeError)) as failed:
        comparison(bandit, n=1, beta=0.5, seed=0, learners=[entries[1]])
    assert " ".join(str(failed.value).split()) == rows[1].reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": np.inf}, "beta is inf"),
    ],
)
def test_bad_input_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        comparison(BANDITS["random"], **({"n": 10, "beta": 1.0, "seed": 0} | settings))
    with pytest.raises(ValueError, match="bandit is a list"):
        setting_for([], np.random.default_rng(0), beta=1.0)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["learners", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_one_command_makes_the_table_of_the_readme(capsys):
    code, out, _ = run(capsys, "--markdown")
    assert code == 0
    text = (Path(__file__).parents[1] / "README.md").read_text()
    for line in out.splitlines():
        # The last cell is rounding, of another size on another machine.
        assert line.rsplit("|", 2)[0] in text


def test_the_command_takes_a_table_and_names_bad_input(capsys):
    table = str(example_table())
    code, out, _ = run(capsys, "--table", table, "--n", "300", "--beta", "1")
    assert code == 0
    assert all(entry.build(problem("random")[1]).name[:12] in out for entry in LEARNERS)
    code, _, err = run(capsys, "--n", "0")
    assert code == 2
    assert "n is 0" in err
