"""Losses as trainers write them, in torch, right ones and wrong ones, for the tests of the doctor.

Nothing here is shared with the package.
"""

import math

import torch
from torch import exp, log, sigmoid
from torch.nn.functional import logsigmoid, softplus


def logistic(h):
    return -logsigmoid(h).mean()


def margin(pc, pr, rc, rr):
    return (pc - pr) - (rc - rr)


def dpo(pc, pr, rc, rr, beta):
    return logistic(beta * margin(pc, pr, rc, rr))


def cdpo(pc, pr, rc, rr, beta, label_smoothing=0.1):
    h = beta * margin(pc, pr, rc, rr)
    kept = -logsigmoid(h) * (1 - label_smoothing)
    return (kept - logsigmoid(-h) * label_smoothing).mean()


def robust_dpo(pc, pr, rc, rr, beta, label_smoothing=0.1):
    h = beta * margin(pc, pr, rc, rr)
    kept = -logsigmoid(h) * (1 - label_smoothing)
    return ((kept + logsigmoid(-h) * label_smoothing) / (1 - 2 * label_smoothing)).mean()


def ipo(pc, pr, rc, rr, beta):
    return ((margin(pc, pr, rc, rr) - 1 / (2 * beta)) ** 2).mean()


def hinge(pc, pr, rc, rr, beta, margin=1.0):
    return torch.relu(margin - beta * ((pc - rc) - (pr - rr))).mean()


def slic(pc, pr, rc, rr, beta, margin=1.0, sft_weight=0.1):
    return (torch.relu(margin - pc + pr) - sft_weight * pc).mean()


def rpo(pc, pr, rc, rr, beta, eta=0.25):
    return dpo(pc, pr, rc, rr, beta) - eta * pc.mean()


def chipo(pc, pr, rc, rr, beta, gamma=1.0):
    def phi(u):
        return exp(u) + gamma * u

    return logistic(beta * (phi(pc - rc) - phi(pr - rr)))


def chipo_clipped(pc, pr, rc, rr, beta, r_max=1.0, gamma=1.0):
    def phi(u):
        return exp(u) + gamma * u

    h = beta * (phi(pc - rc) - phi(pr - rr))
    return logistic(torch.clamp(h, -2 * r_max, 2 * r_max))


def chipo_practical(pc, pr, rc, rr, beta, alpha=0.25, gamma=0.1):
    def phi(u):
        return exp(torch.clamp(alpha * u, -88, 20)) + gamma * u

    return logistic(beta * (phi(pc - rc) - phi(pr - rr)))


def fdpo_js(pc, pr, rc, rr, beta):
    def phi(u):
        return u - softplus(u)

    return logistic(beta * (phi(pc - rc) - phi(pr - rr)))


def fdpo_forward_kl(pc, pr, rc, rr, beta):
    return logistic(beta * (exp(rr - pr) - exp(rc - pc)))


def fdpo_alpha(pc, pr, rc, rr, beta, alpha=0.25):
    def phi(u):
        return exp((alpha - 1) * u) / (alpha - 1)

    return logistic(beta * (phi(pc - rc) - phi(pr - rr)))


def simpo(pc, pr, rc, rr, beta, gamma=0.5):
    return logistic(beta * (pc - pr) - gamma)


def kto_pair(pc, pr, rc, rr, beta):
    up, down = pc - rc, pr - rr
    z_up, z_down = up.mean().clamp(min=0).detach(), down.mean().clamp(min=0).detach()
    return torch.cat([1 - sigmoid(beta * (up - z_down)), 1 - sigmoid(beta * (z_up - down))]).mean()


def rebel(pc, pr, rc, rr, beta, chosen_rewards, rejected_rewards):
    return ((beta * margin(pc, pr, rc, rr) - (chosen_rewards - rejected_rewards)) ** 2).mean()


def power(pc, pr, rc, rr, beta, chosen_weights, rejected_weights, eta=0.25):
    h = beta * (chosen_weights * (1 + pc) - rejected_weights * (1 + pr))
    return (-logsigmoid(h) - eta * beta * chosen_weights * pc).mean()


RIGHT = [
    dpo, cdpo, robust_dpo, ipo, hinge, slic, rpo, chipo, chipo_clipped, chipo_practical, fdpo_js,
    fdpo_forward_kl, fdpo_alpha, simpo, kto_pair, rebel, power,
]  # fmt: skip


def _chipo_with(phi, clip=lambda h: h):
    return lambda pc, pr, rc, rr, beta: logistic(clip(beta * (phi(pc - rc) - phi(pr - rr))))


def clip_each(pc, pr, rc, rr, beta, r_max=1.0, gamma=1.0):
    def score(u):
        return torch.clamp(beta * (exp(u) + gamma * u), -2 * r_max, 2 * r_max)

    return logistic(score(pc - rc) - score(pr - rr))


def clip_before_beta(pc, pr, rc, rr, beta, r_max=1.0, gamma=1.0):
    up, down = pc - rc, pr - rr
    gap = exp(up) + gamma * up - exp(down) - gamma * down
    return logistic(beta * torch.clamp(gap, -2 * r_max, 2 * r_max))


def smoothing_unused(pc, pr, rc, rr, beta, label_smoothing=0.1):
    return dpo(pc, pr, rc, rr, beta)


def smoothing_stuck(pc, pr, rc, rr, beta, label_smoothing=0.1):
    return cdpo(pc, pr, rc, rr, beta)


def alpha_of_the_paper(pc, pr, rc, rr, beta, alpha=0.25):
    def phi(u):
        return (1 - exp(-alpha * u)) / alpha

    return logistic(beta * (phi(pc - rc) - phi(pr - rr)))


def kto_through_the_baseline(pc, pr, rc, rr, beta):
    up, down = pc - rc, pr - rr
    z_up, z_down = up.mean().clamp(min=0), down.mean().clamp(min=0)
    return torch.cat([1 - sigmoid(beta * (up - z_down)), 1 - sigmoid(beta * (z_up - down))]).mean()


def kto_same_half(pc, pr, rc, rr, beta):
    up, down = pc - rc, pr - rr
    z_up, z_down = up.mean().clamp(min=0).detach(), down.mean().clamp(min=0).detach()
    return torch.cat([1 - sigmoid(beta * (up - z_up)), 1 - sigmoid(beta * (z_down - down))]).mean()


def sum_and_swapped(pc, pr, rc, rr, beta):
    return -logsigmoid(beta * margin(pr, pc, rr, rc)).sum()


def power_without_one(pc, pr, rc, rr, beta, chosen_weights, rejected_weights, eta=0.25):
    h = beta * (chosen_weights * pc - rejected_weights * pr)
    return (-logsigmoid(h) - eta * beta * chosen_weights * pc).mean()


#: Method, name of the fault, and a loss that has it.
PLANTED = [
    ("dpo", "wrong sign", lambda *a: -dpo(*a)),
    ("dpo", "sum instead of mean", lambda *a: dpo(*a) * len(a[0])),
    ("dpo", "chosen and rejected swapped",
     lambda pc, pr, rc, rr, beta: dpo(pr, pc, rr, rc, beta)),
    ("dpo", "references swapped", lambda pc, pr, rc, rr, beta: dpo(pc, pr, rr, rc, beta)),
    ("dpo", "reference ignored", lambda pc, pr, rc, rr, beta: logistic(beta * (pc - pr))),
    ("chipo", "reference added", lambda pc, pr, rc, rr, beta: chipo(pc, pr, -rc, -rr, beta)),
    ("dpo", "reference counted twice",
     lambda pc, pr, rc, rr, beta: dpo(pc - rc, pr - rr, rc, rr, beta)),
    ("dpo", "reference made from the policy",
     lambda pc, pr, rc, rr, beta: dpo(pc, pr, pc, pr, beta)),
    ("dpo", "reference made from the policy, detached",
     lambda pc, pr, rc, rr, beta: dpo(pc, pr, pc.detach(), pr.detach(), beta)),
    ("dpo", "beta missing", lambda pc, pr, rc, rr, beta: dpo(pc, pr, rc, rr, 1.0)),
    ("dpo", "beta hard-coded", lambda pc, pr, rc, rr, beta: dpo(pc, pr, rc, rr, 0.1)),
    ("dpo", "beta applied twice", lambda pc, pr, rc, rr, beta: dpo(pc, pr, rc, rr, beta**2)),
    ("dpo", "beta outside of the sigmoid",
     lambda pc, pr, rc, rr, beta: beta * dpo(pc, pr, rc, rr, 1.0)),
    ("dpo", "missing log",
     lambda pc, pr, rc, rr, beta: -sigmoid(beta * margin(pc, pr, rc, rr)).mean()),
    ("dpo", "missing log, 1 - sigma",
     lambda pc, pr, rc, rr, beta: (1 - sigmoid(beta * margin(pc, pr, rc, rr))).mean()),
    ("dpo", "logarithm to base 2", lambda *a: dpo(*a) / math.log(2)),
    ("dpo", "detached policy", lambda *a: dpo(*a).detach().requires_grad_()),
    ("dpo", "detached policy", lambda *a: dpo(*a).item()),
    ("dpo", "detached rejected responses",
     lambda pc, pr, rc, rr, beta: dpo(pc, pr.detach(), rc, rr, beta)),
    ("dpo", "mean before the loss",
     lambda pc, pr, rc, rr, beta: logistic(beta * margin(pc, pr, rc, rr).mean())),
    ("dpo", "one loss per comparison",
     lambda pc, pr, rc, rr, beta: -logsigmoid(beta * margin(pc, pr, rc, rr))),
    ("dpo", "unstable for large log ratios",
     lambda pc, pr, rc, rr, beta: -log(sigmoid(beta * margin(pc, pr, rc, rr))).mean()),
    ("dpo", "sum instead of mean", lambda pc, pr, rc, rr, beta:
     -logsigmoid(beta * margin(pc, pr, rc, rr)).sum()),
    ("dpo", "chosen and rejected swapped; sum instead of mean", sum_and_swapped),
    ("cdpo", "label smoothing that does nothing", smoothing_unused),
    ("cdpo", "label smoothing that does nothing", dpo),
    ("cdpo", "label_smoothing ignored", smoothing_stuck),
    ("cdpo", "label smoothing the wrong way round",
     lambda pc, pr, rc, rr, beta: cdpo(pc, pr, rc, rr, beta, 0.9)),
    ("robust_dpo", "missing normalization by 1 - 2 label_smoothing",
     lambda *a: robust_dpo(*a) * 0.8),
    ("robust_dpo", "sign of the second term of robust DPO", lambda *a: cdpo(*a) / 0.8),
    ("ipo", "target 1/beta",
     lambda pc, pr, rc, rr, beta: ((margin(pc, pr, rc, rr) - 1 / beta) ** 2).mean()),
    ("ipo", "margin scaled by beta in IPO",
     lambda pc, pr, rc, rr, beta: ((beta * margin(pc, pr, rc, rr) - 1 / (2 * beta)) ** 2).mean()),
    ("ipo", "mean before the loss",
     lambda pc, pr, rc, rr, beta: (margin(pc, pr, rc, rr).mean() - 1 / (2 * beta)) ** 2),
    ("ipo", "half the mean", lambda *a: ipo(*a) / 2),
    ("ipo", "dpo in place of the method", dpo),
    ("hinge", "dpo in place of the method", dpo),
    ("hinge", "margin missing", lambda *a: hinge(*a, margin=0.0)),
    ("hinge", "margin with the wrong sign", lambda *a: hinge(*a, margin=-1.0)),
    ("hinge", "hinge without its kink",
     lambda pc, pr, rc, rr, beta: (1 - beta * margin(pc, pr, rc, rr)).mean()),
    ("slic", "reference in a loss without one",
     lambda pc, pr, rc, rr, beta: (torch.relu(1 - margin(pc, pr, rc, rr)) - 0.1 * pc).mean()),
    ("rpo", "imitation term missing", dpo),
    ("rpo", "imitation of the rejected response",
     lambda pc, pr, rc, rr, beta: dpo(pc, pr, rc, rr, beta) - 0.25 * pr.mean()),
    ("rpo", "imitation term scaled by beta",
     lambda pc, pr, rc, rr, beta: dpo(pc, pr, rc, rr, beta) - 0.25 * beta * pc.mean()),
    ("chipo", "link without the linear term", _chipo_with(exp)),
    ("chipo", "link without the exponential term", dpo),
    ("chipo", "chi-squared without its 1/2", _chipo_with(lambda u: 2 * exp(u) + u)),
    ("chipo", "chipo_clipped in place of the method", chipo_clipped),
    ("chipo_clipped", "missing clip", chipo),
    ("chipo_clipped", "clip applied to each ratio", clip_each),
    ("chipo_clipped", "clip before beta", clip_before_beta),
    ("chipo_clipped", "clip at r_max",
     _chipo_with(lambda u: exp(u) + u, lambda h: torch.clamp(h, -1, 1))),
    ("chipo_practical", "missing clip of the exponent",
     _chipo_with(lambda u: exp(0.25 * u) + 0.1 * u)),
    ("chipo_practical", "link without the linear term",
     _chipo_with(lambda u: exp(torch.clamp(0.25 * u, -88, 20)))),
    ("chipo_practical", "alpha and gamma exchanged",
     lambda *a, alpha=0.25, gamma=0.1: chipo_practical(*a, alpha=gamma, gamma=alpha)),
    ("chipo_practical", "exponent clipped before alpha",
     _chipo_with(lambda u: exp(0.25 * torch.clamp(u, -88, 20)) + 0.1 * u)),
    ("fdpo_alpha", "alpha convention swapped", alpha_of_the_paper),
    ("fdpo_alpha", "alpha link without its factor",
     lambda pc, pr, rc, rr, beta, alpha=0.25:
     logistic(beta * (exp((alpha - 1) * (pc - rc)) - exp((alpha - 1) * (pr - rr))))),
    ("fdpo_js", "Jensen-Shannon as a mean",
     lambda pc, pr, rc, rr, beta: fdpo_js(pc, pr, rc, rr, beta / 2)),
    ("fdpo_js", "softplus in place of the link", _chipo_with(softplus)),
    ("fdpo_forward_kl", "sign of the forward KL link", _chipo_with(lambda u: exp(-u))),
    ("simpo", "gamma scaled by beta",
     lambda pc, pr, rc, rr, beta, gamma=0.5: logistic(beta * (pc - pr - gamma))),
    ("simpo", "reference in a loss without one",
     lambda pc, pr, rc, rr, beta, gamma=0.5: logistic(beta * margin(pc, pr, rc, rr) - gamma)),
    ("kto_pair", "gradient through the baseline", kto_through_the_baseline),
    ("kto_pair", "baseline from the same half", kto_same_half),
    ("kto_pair", "twice the mean", lambda *a: 2 * kto_pair(*a)),
    ("rebel", "rewards with the wrong sign",
     lambda *a, chosen_rewards, rejected_rewards:
     rebel(*a, chosen_rewards=rejected_rewards, rejected_rewards=chosen_rewards)),
    ("power", "constant of the weighted entropy missing", power_without_one),
]  # fmt: skip
