"""What lies in installers/: every file, option, setting and port that it names exists, and nginx works with it."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from every_route import routes
from websockets.sync.client import connect

import legion_client.cli
import legion_server.cli
from legion.errors import every_error
from legion_server.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "installers" / "docker"
UNIT = ROOT / "installers" / "systemd" / "legion-server.service"
NGINX = ROOT / "installers" / "nginx.conf"
PUBLIC = ROOT / "docs" / "public-server.md"
SETTINGS = {f"LEGION_{name.upper()}" for name in Settings.model_fields}
SERVE = typer.main.get_command(legion_server.cli.app).commands["serve"]  # type: ignore[attr-defined]
ADMIN_TOKEN = "an-admin-token-for-tests"


def options_of(command: Any) -> set[str]:
    return {name for one in command.params for name in [*one.opts, *one.secondary_opts]}


def compose() -> Any:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def values(text: str, name: str) -> list[str]:
    """Of a unit's or a Dockerfile's lines that begin so."""
    return re.findall(rf"^{name}[ =](.+)$", text.replace("\\\n", ""), re.MULTILINE)


@pytest.mark.parametrize("name", ["server.Dockerfile", "client.Dockerfile"])
def test_images_copy_and_install_what_there_is(name: str) -> None:
    text = (DOCKER / name).read_text(encoding="utf-8")
    for line in values(text, "COPY"):
        *sources, _ = line.split()
        assert [source for source in sources if not (ROOT / source).exists()] == []
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'\.\[(.+?)\]'", text)
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in extras.split(","))
    # What the wheel is built from must be in the image before it is installed.
    assert {"pyproject.toml", "README.md", "LICENSE", "shared"} <= set(" ".join(values(text, "COPY")).split())
    entry = yaml.safe_load(values(text, "ENTRYPOINT")[0])
    assert re.search(rf'^{entry[0]} = "', pyproject, re.MULTILINE)
    program = legion_client.cli.app if entry[0] == "legion-client" else legion_server.cli.app
    assert set(entry[1:]) <= options_of(typer.main.get_command(program))


def test_the_servers_image_serves_and_is_looked_after() -> None:
    text = (DOCKER / "server.Dockerfile").read_text(encoding="utf-8")
    assert yaml.safe_load(values(text, "CMD")[0]) == ["serve"]
    assert values(text, "EXPOSE") == [str(Settings.model_fields["port"].default)]
    assert {line.split("=")[0] for line in values(text, "ENV")} <= SETTINGS
    (path,) = re.findall(r"127\.0\.0\.1:8000(/[a-z/]+)", text)
    assert ("GET", path) in routes()


def test_compose_names_what_there_is() -> None:
    services = compose()["services"]
    server, caddy = services["server"], services["caddy"]
    assert (DOCKER / server["build"]["context"]).resolve() == ROOT
    assert (ROOT / server["build"]["dockerfile"]).is_file()
    assert {name for name in server["environment"] if name.startswith("LEGION_")} <= SETTINGS
    assert server["command"][0] == "serve"
    assert set(server["command"][1:]) <= options_of(SERVE)
    proxies = Settings(trusted_proxies=server["environment"]["LEGION_TRUSTED_PROXIES"]).trusted_proxies
    assert [str(network) for network in proxies] == [caddy["networks"]["inside"]["ipv4_address"] + "/32"]
    volumes = {one.split(":")[0] for service in services.values() for one in service.get("volumes", ())}
    assert {name for name in volumes if not name.startswith(".")} == set(compose()["volumes"])
    assert all((DOCKER / name).is_file() for name in volumes if name.startswith("."))
    assert f"legion:${{POSTGRES_PASSWORD}}@{'database'}/" in server["environment"]["LEGION_DATABASE_URL"]
    assert "database" in services
    (upstream,) = re.findall(r"reverse_proxy (\S+)", (DOCKER / "Caddyfile").read_text(encoding="utf-8"))
    assert upstream == f"server:{Settings.model_fields['port'].default}"
    asked = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text(encoding="utf-8")))
    below = PUBLIC.read_text(encoding="utf-8").partition("## With Docker")[2].partition("## Without")[0]
    assert asked == set(re.findall(r"^ *(\w+)=", below, re.MULTILINE))


def test_settings_that_the_guide_names_exist() -> None:
    text = PUBLIC.read_text(encoding="utf-8")
    assert set(re.findall(r"\b(LEGION_[A-Z_]+)", text)) <= SETTINGS
    extras = set(re.findall(r"'\.\[(.+?)\]'", text))
    assert extras == {"server,postgres,s3"}


def test_the_unit_starts_what_there_is() -> None:
    text = UNIT.read_text(encoding="utf-8")
    program, command, *rest = values(text, "ExecStart")[0].split()
    assert Path(program).name == "legion-server"
    assert command == "serve"
    assert set(rest) <= options_of(SERVE)
    assert {line.split("=")[0] for line in values(text, "Environment")} <= SETTINGS
    (folder,) = (line.split("=")[1] for line in values(text, "Environment"))
    assert folder == f"/var/lib/{values(text, 'StateDirectory')[0]}"
    codes = {str(error.exit_code) for error in every_error()}
    assert set(values(text, "RestartPreventExitStatus")[0].split()) <= codes


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace("/opt/legion/bin/legion-server", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / UNIT.name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def behind_nginx(tmp_path: Path) -> Iterator[int]:
    """The port of an nginx with the file from installers/, in front of a real server."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEGION_")}
    environment |= {"LEGION_ADMIN_TOKEN": ADMIN_TOKEN, "LEGION_TRUSTED_PROXIES": "127.0.0.1"}
    environment |= {"LEGION_PUBLIC_HOST": "legion.example.org", "LEGION_DATA_DIR": str(tmp_path / "server")}
    command = [sys.executable, "-m", "legion_server.cli", "serve", "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    behind, front = server.stdout.readline().split()[2], free_port()
    site = NGINX.read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{behind}")
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{front} ssl")
    site = re.sub(r"/etc/letsencrypt\S+fullchain\.pem", str(tmp_path / "server/server.pem"), site)
    site = re.sub(r"/etc/letsencrypt\S+privkey\.pem", str(tmp_path / "server/server-key.pem"), site)
    (tmp_path / "site.conf").write_text(site)
    whole = f"daemon off; pid {tmp_path}/pid; error_log stderr; user root; events {{}} http {{ access_log off;"
    (tmp_path / "nginx.conf").write_text(f"{whole} include {tmp_path}/site.conf; }}")
    if os.getuid() != 0:
        (tmp_path / "nginx.conf").write_text((tmp_path / "nginx.conf").read_text().replace("user root; ", ""))
    proxy = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")], stderr=subprocess.PIPE)
    try:
        wait_for(front)
        yield front
    finally:
        for process in (proxy, server):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            continue
        return
    raise TimeoutError(f"nobody listens on {port}")


def test_browsers_come_through_nginx(behind_nginx: int, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / "server" / "ca.pem"))
    names = {"Host": "legion.example.org"}
    spoofed = names | {"X-Forwarded-For": "203.0.113.9"}
    with httpx.Client(base_url=f"https://127.0.0.1:{behind_nginx}", verify=context, trust_env=False) as http:
        page = http.get("/", headers=names | {"Accept": "text/html"})
        assert page.status_code == 200
        assert http.get("/", headers={"Host": "evil.example.org"}).status_code == 421
        signed_in = http.post("/sign-in", headers=spoofed, data={"token": ADMIN_TOKEN})
        # Only where the server knows that the browser came over HTTPS.
        assert signed_in.headers["set-cookie"].startswith("__Host-legion=")
        # A caller's own X-Forwarded-For is not believed: nginx says who it is.
        audit = http.get("/admin/audit", headers=names).text
        assert "from 127.0.0.1" in audit
        assert "203.0.113.9" not in audit
    url = f"wss://127.0.0.1:{behind_nginx}/ws/events?after=0"
    with connect(url, ssl=context, proxy=None) as stream:
        assert '"number":1' in stream.recv(timeout=10)
