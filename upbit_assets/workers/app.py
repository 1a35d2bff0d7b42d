"""What a worker runs: celery --app upbit_assets.workers.app worker"""

import tempfile
from pathlib import Path
from typing import Any

from celery import signals
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task

from upbit_assets.workers.launcher import QUEUE, celery_options

app = make_app({**celery_options(), "task_default_queue": QUEUE})
create_execute_job_task(app)


@signals.heartbeat_sent.connect
def say_that_it_lives(**_: Any) -> None:
    """Touch what the container's health check looks at: every two seconds, while Redis is there."""
    Path(tempfile.gettempdir(), "upbit-worker").touch()
