"""Plans in the cache: found by everything that decides whether they fit, whole or not at all, the user's alone."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from engines.bundle import GraphSpec
from engines.cuda_driver import Device
from engines.errors import EngineError
from engines.plan_cache import PlanCache, PlanKey, described_shapes

SPEC = GraphSpec("g_s", "", False, ("y_hat",), ("x_hat",), None)
DEVICE = Device(0, "Orin", (8, 7), 14, 7 << 30, True, 12060)
KEY = PlanKey.of("tensorrt", b"graph", SPEC, "tensorrt 10.3.0", DEVICE, ("strongly typed",)).at(
    {"y_hat": ((1, 8, 4, 4), (1, 8, 4, 4), (1, 8, 4, 4))}
)


@pytest.fixture
def plans(cache: Path) -> PlanCache:
    return PlanCache()


def test_plan_comes_back(plans: PlanCache, cache: Path) -> None:
    """The same bytes, in the user's cache folder, for the user's eyes only."""
    assert plans.load(KEY) is None and plans.entries() == []
    plans.store(KEY, b"plan", {"build_s": 1.5})
    assert plans.load(KEY) == b"plan"
    assert plans.folder == cache / "plans" and plans.folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in plans.folder.iterdir()} == {f"{KEY.digest}.plan", f"{KEY.digest}.json"}
    (entry,) = plans.entries()
    assert (entry.digest, entry.size, entry.key["role"], entry.facts) == (KEY.digest, 4, "g_s", {"build_s": 1.5})


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "tensorrt-ep"},
        {"graph": "0" * 64},
        {"library": "tensorrt 10.3.1"},
        {"driver": 12070},
        {"gpu": "Thor"},
        {"capability": (9, 0)},
        {"multiprocessors": 16},
        {"flags": ("strongly typed", "no TF32")},
        {"profile": {"y_hat": ((1, 8, 4, 4), (1, 8, 4, 4), (1, 8, 4, 8))}},
    ],
)
def test_plan_of_anything_else_is_not_found(plans: PlanCache, other: dict[str, object]) -> None:
    """Each field alone makes another plan."""
    plans.store(KEY, b"plan", {})
    assert plans.load(replace(KEY, **other)) is None  # type: ignore[arg-type]


def test_digest_does_not_depend_on_the_order_of_inputs() -> None:
    """Two ways to write the same profile find the same plan."""
    one = KEY.at({"a": ((1,), (1,), (1,)), "b": ((2,), (2,), (2,))})
    assert one.digest == KEY.at({"b": ((2,), (2,), (2,)), "a": ((1,), (1,), (1,))}).digest


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no-side-car", "side-car", "list", "other-file", "gone"])
def test_damaged_plan_is_not_used(plans: PlanCache, damage: str) -> None:
    """What is not as it was written is as good as not there."""
    plans.store(KEY, b"plan", {})
    plan, side_car = plans.folder / f"{KEY.digest}.plan", plans.folder / f"{KEY.digest}.json"
    fields = json.loads(side_car.read_text())
    if damage == "flip":
        plan.write_bytes(b"plaN")
    elif damage in ("cut", "empty"):
        plan.write_bytes(b"pla" if damage == "cut" else b"")
    elif damage == "no-side-car":
        side_car.unlink()
    elif damage == "gone":
        plan.unlink()
    elif damage == "other-file":
        (plans.folder.parent / "evil").write_bytes(b"plan")
        side_car.write_text(json.dumps(fields | {"files": {"../evil": next(iter(fields["files"].values()))}}))
    else:
        side_car.write_text("nonsense" if damage == "side-car" else "[]")
    assert plans.load(KEY) is None


def test_link_is_not_followed(plans: PlanCache, tmp_path: Path) -> None:
    """A plan elsewhere is not in the cache."""
    plans.store(KEY, b"plan", {})
    plan = plans.folder / f"{KEY.digest}.plan"
    (tmp_path / "elsewhere").write_bytes(b"plan")
    plan.unlink()
    plan.symlink_to(tmp_path / "elsewhere")
    assert plans.load(KEY) is None


@pytest.mark.parametrize("what", ["folder", "plan", "side-car"])
def test_what_others_may_write_is_refused(plans: PlanCache, what: str) -> None:
    """The error says which, and why."""
    plans.store(KEY, b"plan", {})
    path = {
        "folder": plans.folder,
        "plan": plans.folder / f"{KEY.digest}.plan",
        "side-car": plans.folder / f"{KEY.digest}.json",
    }[what]
    path.chmod(path.stat().st_mode | 0o022)
    with pytest.raises(EngineError, match=f"{path.name} belongs to someone else, or others may write to it"):
        plans.load(KEY)


def test_what_belongs_to_someone_else_is_refused(plans: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another user had made the folder."""
    plans.store(KEY, b"plan", {})
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    for use in (lambda: plans.load(KEY), lambda: plans.store(KEY, b"plan", {}), plans.entries, plans.clear):
        with pytest.raises(EngineError, match="plans are code and are not loaded from there"):
            use()


def test_link_in_place_of_the_folder_is_refused(cache: Path, tmp_path: Path) -> None:
    """A folder somewhere else is not cutoff's."""
    cache.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (cache / "plans").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="plans"):
        PlanCache().store(KEY, b"plan", {})


def test_folder_that_cannot_be_made_is_an_error(cache: Path) -> None:
    """One line, not a traceback."""
    cache.write_text("a file in the way")
    with pytest.raises(EngineError, match="plans: "):
        PlanCache().store(KEY, b"plan", {})


def test_nothing_partial_stays_when_writing_fails(plans: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a side-car there is no plan."""

    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    plans.store(replace(KEY, role="other", gpu="x"), b"before", {})
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(EngineError, match="No space left on device"):
        plans.store(KEY, b"plan", {})
    monkeypatch.undo()
    assert plans.load(KEY) is None and not any(
        path.name.startswith((".", KEY.digest)) for path in plans.folder.iterdir()
    )


def test_lock_is_held_by_one_at_a_time(plans: PlanCache) -> None:
    """The second waits until the first is done."""
    order: list[str] = []

    def second() -> None:
        with plans.locked(KEY):
            order.append("second")

    with plans.locked(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_timing_cache_is_kept_by_machine_and_library(plans: PlanCache) -> None:
    """Sizes share it; another version does not."""
    assert plans.load_timing(KEY) is None
    plans.store_timing(KEY, b"times")
    assert plans.load_timing(KEY.at({})) == b"times"
    assert plans.load_timing(replace(KEY, library="tensorrt 11")) is None
    assert plans.load_timing(replace(KEY, gpu="Thor")) is None


def test_folder_of_a_library_is_emptied_unless_whole(plans: PlanCache) -> None:
    """What another process left half done, or what was changed, is not handed to a library."""
    folder = plans.library_folder(KEY)
    (folder / "half").write_bytes(b"done")
    assert not plans.is_complete(KEY)
    assert list(plans.library_folder(KEY).iterdir()) == []
    (folder / "made.engine").write_bytes(b"engine")
    (folder / "made.engine").chmod(0o664)
    plans.complete(KEY, {})
    assert plans.is_complete(KEY) and [path.name for path in plans.library_folder(KEY).iterdir()] == ["made.engine"]
    (folder / "made.engine").write_bytes(b"Engine")
    assert not plans.is_complete(KEY)
    assert list(plans.library_folder(KEY).iterdir()) == []


def test_clearing_removes_everything(plans: PlanCache) -> None:
    """And says how much it was."""
    assert plans.clear() == 0
    plans.store(KEY, bytes(1000), {})
    plans.store_timing(KEY, bytes(500))
    assert plans.clear() > 1500
    assert not plans.folder.exists() and plans.entries() == []


def test_shapes_are_written_as_people_write_them() -> None:
    """Name, then sizes with crosses."""
    assert described_shapes({"x": (1, 3, 512, 768)}) == "x 1x3x512x768"
