"""Runs on dedicated Celery workers, on one or several machines, over Redis: docker-compose.celery.yml."""
