"""What the operator of a server decides: flags, or environment variables with the prefix LEGION_."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from legion.errors import Unusable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """Frozen; `public_host` and `names` end up in the server's certificate, so they must be known at start."""

    model_config = SettingsConfigDict(env_prefix="LEGION_", frozen=True, extra="forbid")

    data_dir: Path = Path("legion-data")  # everything the server keeps lies here
    host: str = "0.0.0.0"  # all interfaces: workers are other computers
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0: any free port
    public_host: str | None = None  # what invites say; default: the address this machine has in its network
    names: Annotated[tuple[str, ...], NoDecode] = ()  # more names and addresses that clients use for this server
    internal_host: str | None = None  # where the other servers of one database reach this one
    admin_token: SecretStr | None = None  # default: made at first start, in data_dir/admin-token
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()  # may speak plain HTTP and say X-Forwarded-For
    address_requests_per_s: Annotated[int, Field(ge=0)] = 30  # of one address without a token; 0: no limit
    token_requests_per_s: Annotated[int, Field(ge=0)] = 100  # of one worker, relay or admin; 0: no limit
    metrics_from: Annotated[tuple[Network, ...], NoDecode] = ()  # may read /metrics/server without a token
    database_url: Annotated[str | None, Field(repr=False)] = None  # holds a password; default: SQLite in data_dir
    blobs_url: str | None = None  # where updates of rounds lie, as fsspec names it; default: data_dir/blobs
    drain_s: Annotated[float, Field(ge=0, le=600)] = 0.0  # not ready, and still serving, before the end
    public_checkpoints: bool = True  # anybody may download assembled checkpoints
    assembler: bool = True  # join finished checkpoints into folders that transformers loads

    @field_validator("names", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("trusted_proxies", "metrics_from", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        return tuple(ip_network(entry) if isinstance(entry, str) else entry for entry in _split(value))

    @property
    def database(self) -> str:
        """The SQLAlchemy URL."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'legion.db'}"

    @property
    def blobs_dir(self) -> Path:
        """Token shards and tokenizer files, each named by its SHA-256."""
        return self.data_dir / "data"

    @property
    def updates_url(self) -> str:
        """Where updates of rounds lie, as fsspec names it."""
        return self.blobs_url or str((self.data_dir / "blobs").absolute())

    @property
    def incoming_dir(self) -> Path:
        """Updates on their way in; in the same file system as their default place."""
        return self.data_dir / "blobs"

    @property
    def anchors_dir(self) -> Path:
        return self.data_dir / "anchors"

    @property
    def slices_dir(self) -> Path:
        return self.data_dir / "slices"

    @property
    def checkpoints_dir(self) -> Path:
        return self.data_dir / "checkpoints"

    @property
    def exports_dir(self) -> Path:
        """The newest statistics, made anew when they are asked for."""
        return self.data_dir / "exports"

    def may_speak_plainly(self, peer: str) -> bool:
        """Whether plain HTTP from this address is answered: from this machine, and from trusted proxies."""
        address = parsed(peer)
        return address is not None and (address.is_loopback or _lies_in(address, self.trusted_proxies))

    def may_watch(self, peer: str) -> bool:
        """Whether an address is among those that may read the server's own metrics."""
        address = parsed(peer)
        return address is not None and _lies_in(address, self.metrics_from)


def parsed(peer: str) -> Address | None:
    """A peer's address, IPv4 also where it came over an IPv6 socket; None for what is none."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _lies_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, overridden by what is not None in `given`. Unusable names the wrong one."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"setting {name} (LEGION_{name.upper()}): {first['msg']}") from error


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(entry.strip() for entry in value.split(",") if entry.strip())
    return value
