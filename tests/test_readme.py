"""The README's code runs, and its numbers are the ones measured."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_python_blocks_run_and_print_what_they_say(capsys):
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) == 13
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for expected in (
        "(3, 6) True",
        "(12, 6) 12",
        "True",
        "2.0",
        "[0.6363 0.2047 0.1589]",
        "[-1]",
        "link without the linear term",
    ):
        assert expected in lines
    assert "(200, 3, 6)" in printed
    # Two lines after "True: the envelope theorem", the last True of its own.
    last = len(lines) - 1 - lines[::-1].index("True")
    capped = float(lines[last + 2])
    assert abs(capped - 2) < 1e-6


def test_commands_exist():
    import typer

    from rlhfsim.cli import app

    commands = set(typer.main.get_command(app).commands)
    shown = set(re.findall(r"`?rlhfsim (\w+)", TEXT)) - {"as"}
    assert shown <= commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make (repro|test|lint|bench|paper|clean)", TEXT)) <= targets
    assert all(shlex.split(line) for line in re.findall(r"```sh\n(.*?)```", TEXT, re.S))


def test_files_that_it_names_exist():
    for name in re.findall(r"`((?:rlhfsim|figures|paper_repro|benchmarks)/[\w/.]*)`", TEXT):
        assert (ROOT / name).exists(), name


def test_quoted_numbers_are_measured():
    from rlhfsim.repro import overoptimization, proposition_a1

    result = proposition_a1.run(proposition_a1.Settings(replications=1, sampled_sizes=(100,)), 0)
    summary = result.tables["proposition_a1_summary"].set_index(["method", "n"])
    assert "from 0.244 (n = 10²) to 0.177 (n = 10⁸)" in TEXT
    assert round(summary.loc[("KL", 100), "regret_log_n"], 3) == 0.244
    assert round(summary.loc[("KL", 10**8), "regret_log_n"], 3) == 0.177
    for method, value in (("chi2", 0.339), ("mixed", 0.597)):
        rows = summary.loc[method]
        scaled = rows["regret_at_beta_1_over_sqrt_n"] * rows.index.to_numpy() ** 0.5
        assert round(scaled.max(), 3) == value
        assert f"regret · √n up to {value}" in TEXT
    curves = overoptimization.run(overoptimization.Settings(beta_points=5), 0)
    last = curves.tables["overoptimization_curves"].iloc[-1]
    assert "at N = 16384 the formula says 8.70, the KL is 2.90" in TEXT
    assert (last["parameter"], round(last["kl_formula"], 2), round(last["kl"], 2)) == (
        16384, 8.70, 2.90,
    )  # fmt: skip
