import hashlib
import io
import re
import tarfile

import pytest

from benchmarks.prepare import PrepareError, Project, load_projects, unpack


def archive(path, *names):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"x=1"))
    return path, Project("tuning", "demo", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


def test_pins():
    projects = load_projects()
    assert {p.name for p in projects if p.split == "validation"} == {
        "celery",
        "httpx",
        "scrapy",
        "poetry",
    }
    assert {p.name for p in projects if p.split == "tuning"} == {
        "pytest",
        "tornado",
        "black",
        "optuna",
    }
    assert all(re.fullmatch(r"[0-9a-f]{64}", p.sha256) for p in projects)


def test_unpack(tmp_path):
    path, project = archive(tmp_path / "demo-1.0.tar.gz", "demo-1.0/demo/a.py")
    target = unpack(path, project, tmp_path / "into")
    assert target == tmp_path / "into" / "tuning" / "demo-1.0"
    assert (target / "demo" / "a.py").read_text() == "x=1"
    assert [p.name for p in target.parent.iterdir()] == ["demo-1.0"]


def test_another_hash_is_refused(tmp_path):
    path, project = archive(tmp_path / "demo-1.0.tar.gz", "demo-1.0/a.py")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(PrepareError, match="SHA-256"):
        unpack(path, project, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_archives_that_lead_out_are_refused(tmp_path):
    path, project = archive(tmp_path / "demo-1.0.tar.gz", "demo-1.0/../../evil.py")
    with pytest.raises(PrepareError, match="lead out"):
        unpack(path, project, tmp_path / "into")
    assert not (tmp_path / "evil.py").exists()


def test_archives_need_one_top_folder(tmp_path):
    path, project = archive(tmp_path / "demo-1.0.tar.gz", "a/a.py", "b/b.py")
    with pytest.raises(PrepareError, match="one folder"):
        unpack(path, project, tmp_path / "into")
