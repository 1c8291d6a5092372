"""Where work runs: in this process, in processes of this machine, or in the actors of a Ray cluster.

A worker is a class that is named by its import path. It is opened once and then does task after task; it may write the
records of what it made itself, and the caller gets the results as they come. Which engine ran, and how many workers,
changes no result: a task is given alone, and what a worker makes may depend on its configuration and on the task only.

    with open_pool(Engine("local", workers=4)) as pool:
        for done in pool.run([Job("package.module:Worker", config, [Task(payload) for payload in work])]):
            record(done)
"""

from ffbench.engine.pool import Pool, open_pool
from ffbench.engine.work import Engine, Job, Result, Task, Worker

__all__ = ["Engine", "Job", "Pool", "Result", "Task", "Worker", "open_pool"]
