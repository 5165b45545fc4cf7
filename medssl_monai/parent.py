"""What a process of a pool owes to the process that started it."""

import multiprocessing
import os
import threading
from multiprocessing import connection


def end_with_parent() -> None:
    """Watch the parent, and end when it ends; called by a process first of all.

    A parent that was killed cannot end its processes. They would wait for work for ever, or go on with a training
    that the same command, given again, also carries on with.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
