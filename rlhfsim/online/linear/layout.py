"""What the compiled rounds and their callers number alike."""

#: Kinds of exploration.
ENHANCER, FIXED, ON_POLICY, LAPLACE, BOOTSTRAP = range(5)

#: How a run can end.
DONE, NO_ESTIMATE, NO_RADIUS, NO_COVARIANCE, NO_SECOND, NO_ENHANCER = range(6)

#: Rows of what is kept of each round.
REGRET, REGULARIZED, UNCERTAINTY, RADIUS, STRENGTH, RESIDUAL, ERROR, INFORMATIVE = range(8)
ROWS = 8

#: Numbers that a run is made with.
BETA, RIDGE, REGULARIZATION, C, NORM_BOUND, LOG_LEVEL, SCALE, TEMPERATURE = range(8)
NUMBERS = 8

#: Stands for the logarithm of 0.
LOG_ZERO = -1e300
