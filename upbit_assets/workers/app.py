"""The Celery app of the workers: celery --app upbit_assets.workers.app worker"""

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
def touch_heartbeat_file(**_: Any) -> None:
    """Touch the file that the container's health check reads: every two seconds, while Redis is reachable."""
    Path(tempfile.gettempdir(), "upbit-worker").touch()
