"""Numbers of one run: one file a measure (or a family), each with its function and its named, cited definition.

Three kinds of input are read. *Spectrum* measures are functions of ``(*, r)`` singular values, in any order unless told
otherwise; *moments* measures of a :class:`~rankscope.linalg.moments.Moments`; *rows* measures of ``(n, d)`` features and
the ``(n,)`` sample of each row. All compute in float64. A zero matrix gives the limit, 0 for a rank.
"""
