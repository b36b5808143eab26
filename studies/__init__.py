"""Studies of many pocket runs on one machine: the paper's tables over shared seeds.

    python -m studies table2 | grid [--seeds 8] [--jobs N] [--out DIR] [--steps N]
    python -m studies plan table2 | grid           what would run
    python -m studies paper-table MODEL            the paper's table from runs/<MODEL>_<row>
    python -m studies.probe CKPT                   the one-step probe of Proposition 1

jobs.py defines the runs, runs.py executes them, results.py and measures.py read them, tables.py and
paper.py write documents. A study does not change how a run works: each run is train.py and
eval.py with overrides.
"""
