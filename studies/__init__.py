"""Studies of many small runs on one machine: the paper's claims, its table, its grid of betas.

    python -m studies claims | table2 | grid | bonus [--tasks T ...] [--arms A ...] [--seeds N]
    python -m studies plan STUDY              what would run
    python -m studies report STUDY            the page from the results so far; run nothing
    python -m studies paper-table MODEL       the paper's table from runs/<MODEL>_<row>
    python -m studies.probe CKPT              the one-step probe of Proposition 1

jobs.py defines the runs, runs.py executes them, results.py keeps one line of docs/results/ for
each and reads measures from it; hypotheses.py has the statements and our predictions, and
claims.py, tables.py and paper.py write pages. Finished jobs are skipped, also when another study
ran them, so a study can be interrupted and continued on another machine. A study does not change
how a run works: each run is train.py and eval.py with overrides, on one thread of the CPU; GPUs are
not used.
"""
