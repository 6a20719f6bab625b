"""python -m vp send: store the results that the store did not take when they were made."""

from __future__ import annotations

from argparse import Namespace

from vp.experiments.store import results_shelf, send_unsent


def command(arguments: Namespace) -> None:
    """Print each result that is stored now, and how many."""
    sent = send_unsent()
    for name in sent:
        print(name)
    print(f"{len(sent)} result(s) sent to {results_shelf().where('')}")
