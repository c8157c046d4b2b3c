"""Changing a run's configuration over the API: merged, checked as a whole, and refused with what is allowed."""

from pathlib import Path
from typing import Any

import pytest

from legion.config import RunConfig

INVALID = 422


async def test_a_partial_change_is_merged_and_the_data_pinned(house: Any) -> None:
    config = RunConfig.model_validate((await house.configure(num_steps=9, batch_size=4)).json())
    assert (config.steps, config.batch.micro_batch_blocks, config.batch.micro_batches) == (9, 4, 2)
    assert config.data.fingerprint is not None
    assert config.data.tokenizer.sha256 is not None
    assert (await house.http.get("/training/config")).json() == config.model_dump(mode="json")


async def test_what_is_wrong_is_named_with_what_is_allowed(house: Any) -> None:
    before = (await house.configure()).json()
    change = {"steps": 0, "model": {"preset": "huge"}, "nonsense": 1, "optimizer": {"lr": "fast"}}
    reply = await house.admin.put("/training/config", json=change)
    assert reply.status_code == INVALID
    problem = reply.json()
    assert problem["slug"] == "config-invalid"
    errors = {error["field"]: error for error in problem["errors"]}
    assert set(errors) == {"steps", "model.preset", "nonsense", "optimizer.lr"}
    assert errors["steps"]["allowed"] == ">= 1"
    assert "'tiny'" in errors["model.preset"]["allowed"]
    assert (await house.http.get("/training/config")).json() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seq_len": 4096}, "data.seq_len"),
        ({"model": {"settings": {"vocab_size": 100}}}, "model.settings.vocab_size"),
        ({"cluster": {"policy": "fixed"}}, "cluster"),
    ],
)
async def test_what_does_not_fit_together_is_named(house: Any, change: dict[str, Any], field: str) -> None:
    await house.configure()
    reply = await house.admin.put("/training/config", json=change)
    assert reply.status_code == INVALID, reply.text
    assert field in [error["field"] for error in reply.json()["errors"]]


@pytest.mark.parametrize("body", ["[]", "5", "null", '"x"', "{", ""])
async def test_a_body_that_is_no_object_is_refused(house: Any, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = await house.admin.put("/training/config", content=body, headers=headers)
    assert reply.status_code == INVALID
    assert reply.json()["slug"] == "unusable"


@pytest.mark.parametrize(
    "change", [{"data": 5, "seq_len": 8}, {"seq_len": 8, "data": None}, {"model": [], "model_size": "tiny"}]
)
async def test_a_section_that_is_no_section_is_refused(house: Any, change: dict[str, Any]) -> None:
    reply = await house.admin.put("/training/config", json=change)
    assert reply.status_code == INVALID
    assert reply.json()["slug"] == "config-invalid"


async def test_missing_and_empty_data_are_said_and_change_nothing(house: Any, tmp_path: Path) -> None:
    before = (await house.configure()).json()
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for path, slug in ((tmp_path / "nowhere", "dataset-missing"), (empty, "dataset-empty")):
        reply = await house.admin.put("/training/config", json={"data": {"paths": [str(path)]}})
        assert (reply.status_code, reply.json()["slug"]) == (INVALID, slug)
        assert str(path) in reply.json()["detail"] or slug == "dataset-empty"
    assert (await house.http.get("/training/config")).json() == before


async def test_other_data_gets_another_fingerprint(house: Any, tmp_path: Path) -> None:
    before = (await house.configure()).json()
    other = tmp_path / "other.txt"
    other.write_text("A rose by any other name would smell as sweet.\n" * 40)
    after = (await house.admin.put("/training/config", json={"data": {"paths": [str(other)]}})).json()
    assert after["data"]["fingerprint"] != before["data"]["fingerprint"]
    same = (await house.admin.put("/training/config", json={"steps": 7})).json()
    assert same["data"] == after["data"]
