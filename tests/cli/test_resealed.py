"""Commands on an index whose manifest holds anything, with a seal that fits: as before, or one clear line."""

import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resealed import JSON, NASTY, paths_of, put
from small_world import files_of

from cli.main import main
from indexes.disk.manifest import _sealed
from indexes.disk.staging import staging_of

COMMANDS = [
    "index info -i {index}",
    "index info -i {index} --json",
    "index verify -i {index}",
    "query {image} -i {index} -b auto",
    "plan -i {index}",
    "index add {image} -i {index}",
    "index compact -i {index}",
]


def run(line: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["matvit", *line.split()])
        with pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_commands_go_on_or_say_one_line(
    index: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("any") / "x.index"
    shutil.copytree(index, place)
    body = json.loads((place / "manifest.json").read_bytes())
    del body["manifest_sha256"]
    body["calibration"] = dict(CALIBRATION)
    put(body, data.draw(st.sampled_from(paths_of(body))), data.draw(JSON | st.sampled_from(NASTY)))
    (place / "manifest.json").write_bytes(_sealed(body))
    for command in COMMANDS:
        code, out, err = run(command.format(index=place, image=files_of(corpus)[0]))
        if code:
            assert not out
            # Every file that is not as it was written has a line.
            assert len(err.splitlines()) == 1 or command.startswith("index verify"), err
        assert "Traceback" not in err
    shutil.rmtree(place)
    assert not staging_of(place).exists()


CALIBRATION = {
    "refits": None,
    "submodel": "M",
    "share_of_xl": 0.5,
    "max_drop": 0.005,
    "confidence": 0.95,
    "queries": 600,
    "losses": 0,
    "gains": 0,
    "check_queries": 0,
    "check_drop": None,
    "check_low": None,
    "check_high": None,
    "rows": 40,
}
