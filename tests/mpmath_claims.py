"""Both sides of every claim on one instance, in mpmath: the second route to their numbers."""

import mpmath


def exact(x):
    """The elementary quantities of one instance, in mpmath."""
    pi, p = ([mpmath.mpf(float(v)) for v in row[0]] for row in (x.policy, x.reference))
    delta = [mpmath.mpf(float(v)) for v in x.error[0]]
    cross = [(a, b) for a, b in zip(pi, p, strict=True)]
    infinite = any(a > 0 and b == 0 for a, b in cross)

    def kl(cross):
        # With -a + b, as f(1) = f'(1) = 0 has it: rows sum to 1 to rounding only.
        return sum((a * mpmath.log(a / b) if a > 0 else 0) - a + b for a, b in cross if b > 0)

    def chi(cross):
        return sum((a - b) ** 2 / b for a, b in cross if b > 0) / 2

    q = {
        "kl": mpmath.inf if infinite else kl(cross),
        "chi": mpmath.inf if infinite else chi(cross),
        "tv": sum(abs(a - b) for a, b in cross) / 2,
        "h2": sum((mpmath.sqrt(a) - mpmath.sqrt(b)) ** 2 for a, b in cross),
    }
    mean = sum(b * d for b, d in zip(p, delta, strict=True))
    q["eps"] = mpmath.sqrt(sum(b * d**2 for b, d in zip(p, delta, strict=True)))
    q["eps_c"] = mpmath.sqrt(sum(b * (d - mean) ** 2 for b, d in zip(p, delta, strict=True)))
    q["under"] = abs(sum(a * d for a, d in zip(pi, delta, strict=True)))
    q["shift"] = abs(sum((a - b) * d for (a, b), d in zip(cross, delta, strict=True)))

    def renyi(order):
        if infinite and order > 1:
            return mpmath.inf
        total = sum(a**order * b ** (1 - order) for a, b in cross if a > 0 and b > 0)
        return mpmath.log(total) / (order - 1)

    q["renyi"] = renyi
    q["top"] = mpmath.inf if infinite else max(mpmath.log(a / b) for a, b in cross if a > 0)
    merged = [(cross[0][0] + cross[1][0], cross[0][1] + cross[1][1]), *cross[2:]]
    q["merged_kl"], q["merged_chi"] = kl(merged), chi(merged)
    other = list(zip(x.other_policy[0], x.other_reference[0], strict=True))
    other = [(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in other]
    t = mpmath.mpf(float(x.weight[0]))
    mixed = [(t * a + (1 - t) * c, t * b + (1 - t) * d)
             for (a, b), (c, d) in zip(cross, other, strict=True)]  # fmt: skip
    q["mixed_kl"], q["kl_mix"] = kl(mixed), t * kl(cross) + (1 - t) * kl(other)
    q["mixed_chi"], q["chi_mix"] = chi(mixed), t * chi(cross) + (1 - t) * chi(other)
    return q


SQRT = mpmath.sqrt
SIDES = {
    "KL below chi-squared": lambda q: (q["kl"], q["chi"]),
    "KL below log of coverage": lambda q: (q["kl"], mpmath.log(1 + 2 * q["chi"])),
    "KL below twice chi-squared": lambda q: (q["kl"], 2 * q["chi"]),
    "Pinsker": lambda q: (q["tv"], SQRT(q["kl"] / 2)),
    "TV below chi-squared": lambda q: (q["tv"], SQRT(q["chi"] / 2)),
    "Bretagnolle-Huber": lambda q: (q["tv"], SQRT(1 - mpmath.exp(-q["kl"]))),
    "Hellinger below KL": lambda q: (q["h2"], q["kl"]),
    "Hellinger below TV": lambda q: (q["h2"] / 2, q["tv"]),
    "TV below Hellinger": lambda q: (q["tv"], SQRT(q["h2"] * (1 - q["h2"] / 4))),
    "coverage below its maximum": lambda q: (q["renyi"](2), q["top"]),
    "Renyi order": lambda q: (q["renyi"](mpmath.mpf(1) / 2), q["renyi"](3)),
    "data processing, KL": lambda q: (q["merged_kl"], q["kl"]),
    "data processing, D_chi2": lambda q: (q["merged_chi"], q["chi"]),
    "joint convexity, KL": lambda q: (q["mixed_kl"], q["kl_mix"]),
    "joint convexity, D_chi2": lambda q: (q["mixed_chi"], q["chi_mix"]),
    "change of measure": lambda q: (q["under"], SQRT(1 + 2 * q["chi"]) * q["eps"]),
    "centred change of measure": lambda q: (q["shift"], SQRT(2 * q["chi"]) * q["eps_c"]),
    "change of measure with KL": lambda q: (q["shift"], SQRT(2 * q["kl"]) * q["eps_c"]),
}
