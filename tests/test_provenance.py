"""What a result says about the source that it was measured with."""

import subprocess

from keras_resnet import provenance


def test_the_commit_tells_changed_source_but_not_recorded_results(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert provenance.commit(tmp_path) == ""
    (tmp_path / "package").mkdir()
    (tmp_path / "results").mkdir()
    source, results = tmp_path / "package" / "source.py", tmp_path / "results" / "speed.csv"
    source.write_text("a = 1\n")
    results.write_text("ms\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Begin")
    name = git("rev-parse", "--short", "HEAD")
    assert provenance.commit(tmp_path / "package") == name
    results.write_text("ms\n12\n")
    assert provenance.commit(tmp_path / "package") == name
    source.write_text("a = 2\n")
    assert provenance.commit(tmp_path / "package") == f"{name}-dirty"
