"""The algorithm, in pure torch: group rewards -> advantages -> loss, and what to watch.

Nothing here does I/O, knows of other processes, reads a config object or changes an argument.
"""
