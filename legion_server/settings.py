"""What the operator of a server decides: flags, or environment variables with the prefix LEGION_."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from legion.errors import Unusable

Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """Frozen; `public_host` and `names` end up in the server's certificate, so they must be known at start."""

    model_config = SettingsConfigDict(env_prefix="LEGION_", frozen=True, extra="forbid")

    data_dir: Path = Path("legion-data")  # everything the server keeps lies here
    host: str = "0.0.0.0"  # all interfaces: workers are other computers
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0: any free port
    public_host: str | None = None  # what invites say; default: the address this machine has in its network
    names: Annotated[tuple[str, ...], NoDecode] = ()  # more names and addresses that clients use for this server
    admin_token: SecretStr | None = None  # default: made at first start, in data_dir/admin-token
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()  # may speak plain HTTP and say X-Forwarded-For
    database_url: str | None = None  # default: SQLite in data_dir
    blobs_url: str | None = None  # where updates of rounds lie, as fsspec names it; default: data_dir/blobs
    assembler: bool = True  # join finished checkpoints into folders that transformers loads

    @field_validator("names", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("trusted_proxies", mode="before")
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

    def may_speak_plainly(self, peer: str) -> bool:
        """Whether plain HTTP from this address is answered: from this machine, and from trusted proxies."""
        address = ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        return address.is_loopback or any(address in network for network in self.trusted_proxies)


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
