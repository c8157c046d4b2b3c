# docker build -f installers/docker/server.Dockerfile -t legion-server .
FROM python:3.11-slim
WORKDIR /opt/legion
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY shared shared
COPY legion_server legion_server
COPY legion_client legion_client
RUN pip install --no-cache-dir -c constraints.txt '.[server,postgres,s3]' \
    && useradd --system --create-home legion \
    && install -d -o legion /data
USER legion
ENV LEGION_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=5)"]
ENTRYPOINT ["legion-server"]
CMD ["serve"]
