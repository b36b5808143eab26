"""The science on a laptop: many pocket runs, the paper's claims and tables over shared seeds.

    python -m studies claims | table2 | grid [--seeds 8] [--jobs N] [--out DIR] [--steps N]
    python -m studies plan claims | table2 | grid      what would run, and what is predicted
    python -m studies paper-table MODEL            the paper's table from runs/<MODEL>_<row>

arms.py says what is run, runs.py runs it, results.py reads it, statistics.py compares; claims.py,
table2.py and grid.py each write a document. Nothing here changes how a run is made: a run of a
study is train.py and eval.py with overrides.
"""
