"""The algorithm in pure torch: group rewards -> advantages -> mini-batches -> loss; diagnostics.

Nothing here does I/O, knows other processes, reads a config object or changes an argument.
"""
