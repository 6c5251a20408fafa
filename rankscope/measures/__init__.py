"""Numbers of one run: one file per measure (or family of measures), with its function and its named, cited definition.

*Spectrum* measures are functions of ``(*, r)`` singular values, in any order unless stated otherwise; *moments*
measures of a :class:`~rankscope.linalg.moments.Moments`; *rows* measures of ``(n, d)`` features and the ``(n,)`` sample
of each row. All compute in float64. A zero matrix gives the limit, which is 0 for a rank.
"""
