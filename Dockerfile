# The image of all our services; docker-compose.yml has their commands.
FROM python:3.11-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin upbit \
 && install -d -o upbit -g upbit /archive /opt/dagster/stream
WORKDIR /opt/upbit_assets
# a layer of its own, before the code, so that a change of the code doesn't install or store the dependencies again
COPY requirements.lock ./
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
# owned by root, so that the service's user can't modify it
COPY pyproject.toml setup.py README.md ./
COPY upbit_assets upbit_assets
RUN .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && python -m compileall -q upbit_assets
COPY dagster.yaml deploy/instance.yaml deploy/workspace.yaml /opt/dagster/
RUN cd /opt/dagster && cat instance.yaml >> dagster.yaml && rm instance.yaml
ENV PATH=/opt/upbit_assets/.venv/bin:$PATH DAGSTER_HOME=/opt/dagster PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
