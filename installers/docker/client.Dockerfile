# docker build -f installers/docker/client.Dockerfile -t legion-client .
FROM python:3.11-slim
WORKDIR /opt/legion
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY shared shared
COPY legion_server legion_server
COPY legion_client legion_client
RUN pip install --no-cache-dir -c constraints.txt '.[client]' \
    && useradd --system --create-home legion \
    && install -d -o legion /data
USER legion
ENV LEGION_HOME=/data
VOLUME /data
# SIGTERM lets the client finish its step and say goodbye.
ENTRYPOINT ["legion-client", "--no-gui"]
