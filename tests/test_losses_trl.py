"""Direct losses against the trainers of TRL, which run their own code on our log-probabilities.

The trainer's model is a table
of per-token log-probabilities, one token a response, so that its sums are the given numbers.
"""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlhfsim.divergences import AlphaDivergence, ForwardKL, JensenShannon
from rlhfsim.losses import cdpo, dpo, fdpo, hinge, ipo, robust_dpo, rpo, simpo

ROWS = 64


@pytest.fixture(scope="module")
def trainers():
    from trl import DPOTrainer
    from trl.experimental.cpo import CPOTrainer

    return SimpleNamespace(dpo=DPOTrainer, cpo=CPOTrainer)


def columns(scale=2.0):
    rng = np.random.default_rng(0)
    return tuple(-rng.exponential(scale, ROWS) for _ in range(4))


def dpo_trainer(**settings):
    """Return the attributes of a trainer that its loss reads."""
    defaults = {
        "accelerator": SimpleNamespace(
            device=torch.device("cpu"),
            gather=lambda value: value,
            gather_for_metrics=lambda value: value,
        ),
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
        "beta": 0.3,
        "label_smoothing": 0.0,
        "use_weighting": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "args": SimpleNamespace(),
    }
    return SimpleNamespace(**(defaults | settings))


def trl_loss(trainers, given, dtype=torch.float64, **settings):
    """Return TRL's mean loss and its derivatives in the policy's log-probabilities."""
    pc, pr, rc, rr = (torch.tensor(column, dtype=dtype) for column in given)
    pc.requires_grad_()
    pr.requires_grad_()
    logps = torch.cat([pc, pr])[:, None]

    def model(**kwargs):
        zeros = torch.zeros_like(logps)
        # Everything but log_probs is only logged.
        return SimpleNamespace(
            log_probs=logps, entropy=zeros, is_top1=zeros.bool(), mean_logits=zeros
        )

    inputs = {
        "input_ids": torch.ones(2 * ROWS, 2, dtype=torch.long),
        "attention_mask": torch.ones(2 * ROWS, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * (2 * ROWS)),
        "ref_chosen_logps": rc,
        "ref_rejected_logps": rr,
    }
    loss = trainers.dpo._compute_loss(dpo_trainer(**settings), model, inputs, False)
    loss.backward()
    return loss.item(), pc.grad.numpy(), pr.grad.numpy()


CASES = [
    (dpo(0.3), {}, 1e-14),
    (robust_dpo(0.3, 0.1), {"loss_types": ["robust"], "label_smoothing": 0.1}, 1e-14),
    (hinge(0.3), {"loss_types": ["hinge"]}, 1e-14),
    (ipo(0.3), {"loss_types": ["ipo"]}, 1e-14),
    (rpo(0.3, 0.2), {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}, 1e-14),
    (fdpo(ForwardKL(), 0.3), {"f_divergence_type": "forward_kl"}, 1e-13),
    (fdpo(JensenShannon(), 0.6), {"f_divergence_type": "js_divergence"}, 1e-14),
]


@pytest.mark.parametrize(("loss", "settings", "rtol"), CASES, ids=lambda value: str(value)[:40])
def test_the_dpo_trainer(trainers, loss, settings, rtol):
    given = columns()
    value, chosen, rejected = trl_loss(trainers, given, **settings)
    assert loss(*given).mean() == pytest.approx(value, rel=rtol)
    gradient = loss.gradient(*given)
    np.testing.assert_allclose(gradient[0] / ROWS, chosen, rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(gradient[1] / ROWS, rejected, rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("alpha", [-1.0, 0.3, 0.5, 0.9])
def test_alpha_means_what_it_means_since_version_0_29(trainers, alpha):
    """That branch runs in single precision only."""
    given = tuple(column.astype(np.float32).astype(np.float64) for column in columns(0.5))
    settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": alpha}
    value, chosen, _ = trl_loss(trainers, given, torch.float32, **settings)
    loss = fdpo(AlphaDivergence(alpha), 0.3)
    assert loss(*given).mean() == pytest.approx(value, rel=2e-6)
    np.testing.assert_allclose(loss.gradient(*given)[0] / ROWS, chosen, rtol=1e-4)
    if alpha != 0.5:
        other = fdpo(AlphaDivergence(1 - alpha), 0.3) if alpha > 0 else dpo(0.3)
        assert other(*given).mean() != pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (simpo(2.0, 0.5), {"loss_type": "simpo", "simpo_gamma": 0.5, "beta": 2.0}),
        (simpo(2.0, 0.0), {"loss_type": "sigmoid", "beta": 2.0}),
    ],
)
def test_the_cpo_trainer(trainers, loss, settings):
    """SimPO, and label smoothing, which the trainer of DPO has dropped."""
    pc, pr, _, _ = columns()
    attributes = {"alpha": 0.0, "label_smoothing": 0.0, "accelerator": dpo_trainer().accelerator}
    trainer = SimpleNamespace(**(attributes | settings))
    value, _, _ = trainers.cpo.cpo_loss(trainer, torch.tensor(pc), torch.tensor(pr))
    np.testing.assert_allclose(loss(pc, pr), value.numpy(), rtol=1e-13)
    if settings["loss_type"] == "sigmoid":
        trainer.label_smoothing = 0.2
        value, _, _ = trainers.cpo.cpo_loss(trainer, torch.tensor(pc), torch.tensor(pr))
        smoothed = cdpo(2.0, 0.2)(pc, pr, np.zeros(ROWS), np.zeros(ROWS))
        np.testing.assert_allclose(smoothed, value.numpy(), rtol=1e-13)
