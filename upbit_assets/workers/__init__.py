"""Runs on workers of their own, on one machine or several, by Celery over Redis: docker-compose.celery.yml."""
