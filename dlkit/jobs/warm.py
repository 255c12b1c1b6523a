"""A process that has torch loaded and forks a worker for each run that it is asked for: `python -m dlkit.jobs.warm`.

Each line of its input is one request, a JSON document; it ends with its input. Three rules keep a fork safe: nothing is
computed before it (a pool of OpenMP threads does not survive it), no CUDA is touched (it cannot be begun again after
it), and there is one thread only, which is checked. A worker is forked twice, so that it belongs to nobody and outlives
this process.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from dlkit.jobs import worker
from dlkit.settings import adopt_environment


def main() -> int:
    """Load torch, then fork a worker for each request."""
    import timm  # noqa: F401 - as heavy as torch, and most networks come from it or from torchvision, which it loads

    from dlkit.engine import finetuning  # noqa: F401 - these imports are what the process is for

    threads = _threads()
    if threads > 1:
        print(f"the warm process has {threads} threads, so it cannot be forked: runs start cold", file=sys.stderr)
        return 1
    for line in sys.stdin:
        _fork(json.loads(line))
    return 0


def _fork(request: dict[str, object]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setpgid(0, 0)  # the leader of its group, as a worker that was started cold is
        code = _work(request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _work(request: dict[str, object]) -> int:
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    environment = request["environment"]
    assert isinstance(environment, dict)
    adopt_environment(environment)
    return worker.main(str(request["run"]), int(str(request["attempt"])))


def _threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 1


if __name__ == "__main__":
    sys.exit(main())
