"""One thread for linear algebra on small matrices.

More threads than one bring nothing at these sizes, and where other work has the cores, those of
OpenBLAS wait for each other by spinning: an ask that takes ten milliseconds took seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from threadpoolctl import ThreadpoolController

from optuna_partition.core.claim import Claim
from optuna_partition.core.tree import Tree

Rule = Callable[[Tree], Claim | None]


def on_one_thread(rule: Rule) -> Rule:
    """The same rule, which leaves the process's setting as it found it.

    Rules of a process run one after the other, so that none restores what another one has set.
    """
    return functools.partial(_on_one_thread, rule)


def _on_one_thread(rule: Rule, tree: Tree) -> Claim | None:
    with _libraries().limit(limits=1, user_api="blas"):
        return rule(tree)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Those loaded so far, NumPy's and SciPy's among them; finding them takes milliseconds."""
    return ThreadpoolController()
