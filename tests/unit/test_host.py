"""What this process may use: cores and memory, a container's limits included."""

from __future__ import annotations

import pytest

from stu_pipeline.host import count_usable_cores, measure_free_ram_gib

GIB = 2**30


@pytest.fixture
def container(tmp_path, monkeypatch):
    monkeypatch.setattr("stu_pipeline.host._CONTAINER", tmp_path)
    return tmp_path


def write_memory(container, *, limit, used_gib, cached_gib=0.0):
    (container / "memory.max").write_text(f"{limit}\n")
    (container / "memory.current").write_text(f"{int(used_gib * GIB)}\n")
    cached = int(cached_gib * GIB / 2)
    (container / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\nactive_file {cached}\n")


def test_the_limit_of_a_container_counts(container):
    write_memory(container, limit=GIB // 4, used_gib=0.125)
    assert measure_free_ram_gib() == pytest.approx(0.125)


def test_cached_files_of_a_container_are_free(container):
    write_memory(container, limit=GIB // 4, used_gib=0.25, cached_gib=0.2)
    assert measure_free_ram_gib() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("content", [None, "max", "nonsense"])
def test_without_a_limit_the_machine_counts(container, content):
    if content is not None:
        write_memory(container, limit=content, used_gib=1.0)
    assert measure_free_ram_gib() > 0.25


def test_the_quota_of_a_container_counts(container):
    (container / "cpu.max").write_text("50000 100000\n")
    assert count_usable_cores() == 1


@pytest.mark.parametrize("content", [None, "max 100000", "6400000 100000", "nonsense"])
def test_without_a_quota_the_affinity_counts(container, content):
    before = count_usable_cores()
    if content is not None:
        (container / "cpu.max").write_text(content)
    assert count_usable_cores() == before >= 1
